//! The progress bar, on standard error and on a terminal only. It appears after two seconds.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};
use tidemill_core::outcome::Status;
use tidemill_core::store::Progress;

/// Before this, nobody wants to know.
const APPEARS_AFTER: Duration = Duration::from_secs(2);

/// The one bar of this process; whatever else writes to the terminal goes beside it.
static BAR: OnceLock<ProgressBar> = OnceLock::new();

/// Shows how far a batch has come.
pub(crate) struct Bar {
    name: String,
    started: Instant,
    is_wanted: bool,
}

impl Bar {
    /// A bar for the task of that name; it never appears where nobody would see it.
    pub(crate) fn new(name: &str, is_quiet: bool) -> Self {
        let is_wanted = !is_quiet && io::stderr().is_terminal() && std::env::var_os("CI").is_none();
        Self { name: name.to_owned(), started: Instant::now(), is_wanted }
    }

    /// Whether anybody would see it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Shows the progress.
    pub(crate) fn update(&self, progress: &Progress) {
        if !self.is_wanted || self.started.elapsed() < APPEARS_AFTER {
            return;
        }
        let bar = BAR.get_or_init(|| {
            let bar = ProgressBar::no_length().with_prefix(self.name.clone()).with_elapsed(self.started.elapsed());
            bar.set_style(style(false));
            bar
        });
        if let Some(total) = progress.total
            && bar.length().is_none()
        {
            bar.set_length(total);
            bar.set_style(style(true));
        }
        bar.set_position(progress.recorded());
        let bad = progress.recorded() - progress.count(Status::Ok);
        bar.set_message(if bad == 0 { String::new() } else { format!("{bad} not ok") });
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        clear();
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
    // A closed standard error is no reason to fail.
    aside(|| drop(writeln!(io::stderr().lock(), "{text}")));
}

fn style(is_total_known: bool) -> ProgressStyle {
    let template = if is_total_known {
        "{prefix:>12} [{elapsed_precise}] {wide_bar} {human_pos}/{human_len} {rate}, {eta} left {msg}"
    } else {
        "{prefix:>12} [{elapsed_precise}] {spinner} {human_pos} {rate} {msg}"
    };
    // A template that does not parse would be seen by everyone; the plain bar is no reason to end.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.with_key("rate", |state: &ProgressState, text: &mut dyn fmt::Write| {
        let rate = state.per_sec();
        let shown = if rate < 10.0 { format!("{rate:.1}/s") } else { format!("{}/s", HumanCount(rate as u64)) };
        // Writing to the bar's own buffer cannot fail.
        text.write_str(&shown).unwrap_or_default();
    })
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
