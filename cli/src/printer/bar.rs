//! The progress bar, on standard error and on a terminal only. It appears after two seconds.
//!
//! There is one in a process. What it shows may change: first how far the sending of a batch has come, then the batch.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use tidemill_core::outcome::Status;
use tidemill_core::store::Progress;

use super::harmless;

/// Before this, nobody wants to know.
const APPEARS_AFTER: Duration = Duration::from_secs(2);

/// Over how long the rate is taken: it follows what changes, and does not jump.
const RATE_OVER: Duration = Duration::from_secs(15);

/// How often in a second the terminal is drawn to, at most.
const DRAWN_HZ: u8 = 20;

/// Columns that stay free behind the bar. A terminal shows `^C` where the cursor is: on a line of its own it would take
/// the place of the bar, which is then not found any more to be taken away.
const FREE: u16 = 3;

/// The one bar of this process; whatever else writes to the terminal goes beside it.
static BAR: OnceLock<ProgressBar> = OnceLock::new();

/// Shows how far a batch, or its sending, has come.
pub(crate) struct Bar {
    name: String,
    started: Instant,
    is_wanted: bool,
    /// How many items there are, where that is known before the batch says so.
    total: Option<u64>,
    pace: Pace,
    /// Whether the bar on the terminal is this one's.
    is_shown: bool,
}

impl Bar {
    /// A bar for the task of that name; it never appears where nobody would see it.
    pub(crate) fn new(name: &str, total: Option<u64>, is_quiet: bool) -> Self {
        let can_be_seen = io::stderr().is_terminal() && !console::is_dumb();
        let is_wanted = !is_quiet && can_be_seen && std::env::var_os("CI").is_none();
        let (name, started, pace) = (name.to_owned(), Instant::now(), Pace::default());
        Self { name, started, is_wanted, total, pace, is_shown: false }
    }

    /// Whether anybody would see it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Shows how many items have ended.
    pub(crate) fn update(&mut self, progress: &Progress) {
        // What was cancelled before it was read is not among those of the batch.
        self.show(progress.recorded(), progress.total.or(self.total), "", not_ok(progress));
    }

    /// Shows how many inputs the broker has accepted, what has gone out besides, and what has become of the batch so far.
    pub(crate) fn update_accepted(&mut self, accepted: u64, sent: Option<String>, progress: &Progress) {
        let more: Vec<String> = [sent, not_ok(progress)].into_iter().flatten().collect();
        self.show(accepted, self.total, "accepted, ", (!more.is_empty()).then(|| more.join(", ")));
    }

    fn show(&mut self, done: u64, total: Option<u64>, verb: &str, more: Option<String>) {
        if !self.is_wanted {
            return;
        }
        let now = Instant::now();
        self.pace.add(now, done);
        // Who has seen a bar wants to see how it goes on.
        if now - self.started < APPEARS_AFTER && BAR.get().is_none() {
            return;
        }
        let bar = BAR.get_or_init(|| {
            let terminal = Narrow(Term::buffered_stderr());
            let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal), DRAWN_HZ);
            let bar = ProgressBar::with_draw_target(None, target).with_prefix(self.name.clone());
            bar.with_elapsed(self.started.elapsed())
        });
        if !std::mem::replace(&mut self.is_shown, true) {
            // In the place of what was shown before, which is not taken away first: that would flicker.
            bar.set_style(style(total.is_some()));
            if bar.prefix() != self.name {
                bar.set_prefix(self.name.clone());
            }
            if total.is_none() && bar.length().is_some() {
                bar.unset_length();
            }
        }
        if bar.length() != total
            && let Some(total) = total
        {
            bar.set_style(style(true));
            bar.set_length(total);
        }
        bar.set_position(done);
        bar.set_message(format!("{verb}{}", message(self.pace.rate(), done, total, more)));
    }
}

/// Takes the bar away, where there is one.
pub(crate) fn clear() {
    if let Some(bar) = BAR.get() {
        bar.finish_and_clear();
    }
}

/// Says something on standard error, beside the bar.
pub(crate) fn say(text: &str) {
    let text = harmless(text);
    // A closed standard error is no reason to fail.
    aside(|| drop(writeln!(io::stderr().lock(), "{text}")));
}

/// A terminal with some columns less.
#[derive(Debug)]
struct Narrow(Term);

impl TermLike for Narrow {
    fn width(&self) -> u16 {
        self.0.size().1.saturating_sub(FREE).max(1)
    }

    fn height(&self) -> u16 {
        self.0.size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_up(n)
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_down(n)
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_right(n)
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_left(n)
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.0.write_line(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.0.write_str(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.0.clear_line()
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}

fn style(is_total_known: bool) -> ProgressStyle {
    let template = if is_total_known {
        "{prefix:>12} [{elapsed_precise}] {wide_bar} {human_pos}/{human_len} {msg}"
    } else {
        "{prefix:>12} [{elapsed_precise}] {spinner} {human_pos} {msg}"
    };
    // A template that does not parse would be seen by everyone; the plain bar is no reason to end.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn not_ok(progress: &Progress) -> Option<String> {
    let bad = progress.recorded() - progress.count(Status::Ok);
    (bad > 0).then(|| format!("{bad} not ok"))
}

/// `40/s, 12s left, 3 not ok`
fn message(rate: f64, done: u64, total: Option<u64>, more: Option<String>) -> String {
    let shown = if rate < 10.0 { format!("{rate:.1}/s") } else { format!("{}/s", HumanCount(rate as u64)) };
    let left = total.and_then(|total| {
        let seconds = total.saturating_sub(done) as f64 / rate;
        Some(format!("{:#} left", HumanDuration(Duration::try_from_secs_f64(seconds).ok()?)))
    });
    [Some(shown), left, more].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// How quickly items come to their end. The bar's own rate begins when the bar appears, and takes all that were finished
/// by then for the work of an instant.
#[derive(Default)]
struct Pace {
    /// When how many were finished, from the first time that was asked.
    seen: VecDeque<(Instant, u64)>,
}

impl Pace {
    fn add(&mut self, now: Instant, finished: u64) {
        if let [.., (_, earlier), (at, before)] = self.seen.make_contiguous()
            && *earlier == finished
            && *before == finished
        {
            *at = now;
        } else {
            self.seen.push_back((now, finished));
        }
        // While nothing is finished the last time that something was counts on.
        while self.seen.get(1).is_some_and(|(at, before)| now - *at >= RATE_OVER && *before < finished) {
            self.seen.pop_front();
        }
    }

    /// A second.
    fn rate(&self) -> f64 {
        match (self.seen.front(), self.seen.back()) {
            (Some((since, before)), Some((now, finished))) if now > since => {
                finished.saturating_sub(*before) as f64 / (*now - *since).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}

/// Runs something that writes to the terminal while the bar is out of the way.
pub(super) fn aside<T>(write: impl FnOnce() -> T) -> T {
    match BAR.get() {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Standard error for the log: beside the bar, never through it.
pub(crate) fn stderr_beside_the_bar() -> impl Write {
    struct Beside;

    impl Write for Beside {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            aside(|| io::stderr().lock().write(text))
        }

        fn flush(&mut self) -> io::Result<()> {
            io::stderr().lock().flush()
        }
    }

    Beside
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items that end at that rate, seen ten times a second.
    fn go_on(pace: &mut Pace, start: Instant, seconds: std::ops::Range<u32>, rate: u64, before: u64) -> u64 {
        for tick in seconds.start * 10..seconds.end * 10 {
            let finished = before + u64::from(tick - seconds.start * 10) * rate / 10;
            pace.add(start + Duration::from_millis(100) * tick, finished);
        }
        before + u64::from(seconds.end - seconds.start) * rate
    }

    #[test]
    fn the_rate_is_that_of_the_items_from_the_first_second_on() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.rate(), 0.0);
        let before = go_on(&mut pace, start, 0..3, 40, 100_000);
        assert!((39.0..=41.0).contains(&pace.rate()), "{}", pace.rate());

        go_on(&mut pace, start, 3..33, 400, before);
        assert!((399.0..=401.0).contains(&pace.rate()), "it follows what changes: {}", pace.rate());
        assert!(pace.seen.len() < 200);
    }

    #[test]
    fn items_that_take_longer_than_the_rate_is_taken_over_have_a_rate() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for second in 0..200 {
            pace.add(start + Duration::from_secs(second), second / 50);
        }
        assert!((0.01..0.03).contains(&pace.rate()), "{}", pace.rate());
    }

    #[test]
    fn a_message_has_what_is_known() {
        let mut progress = Progress::default();
        assert_eq!(message(0.0, 0, Some(3), not_ok(&progress)), "0.0/s");
        progress.counts[Status::Ok as usize] = 40;
        assert_eq!(message(4.0, 40, Some(100), not_ok(&progress)), "4.0/s, 15s left");
        progress.counts[Status::Failed as usize] = 2;
        assert_eq!(message(1234.5, 42, None, not_ok(&progress)), "1,234/s, 2 not ok");
    }
}
