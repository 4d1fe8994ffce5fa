//! The timeline: who of an item's threads or processes ran when, and what they said.
//!
//! ```text
//!         Thread#5  █▒▒▒▒▒▒▒▒█
//!         Thread#4  ░░░░░░░░░█▒▒▒▒▒▒▒▒█
//!                   ├─────────┼─────────┼──
//!                   0         20        40 ms
//! ```

use console::{Alignment, measure_text_width, pad_str};
use serde::Deserialize;

use crate::columns::one_line;

/// Under the row's input.
const INDENT: usize = 8;
/// Messages that are listed, and rows that are drawn; what is more is counted.
const MAX_MESSAGES: usize = 40;
const MAX_ROWS: usize = 24;
/// Columns that a label of the axis needs.
const LABEL: usize = 9;
/// What is drawn for a thread that is there, between two of its messages, and for a message.
const ALIVE: char = '░';
const BUSY: char = '▒';
const SAYS: char = '█';

/// An output that tells who said what when.
#[derive(Debug, Deserialize)]
pub(super) struct Timeline {
    messages: Vec<String>,
    elapsed_ms: f64,
    timeline: Vec<Said>,
    #[serde(default)]
    runs: Vec<Ran>,
}

#[derive(Debug, Deserialize)]
struct Said {
    at_ms: f64,
    by: String,
    pid: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Ran {
    by: String,
    pid: Option<u32>,
    from_ms: f64,
    to_ms: f64,
}

impl Timeline {
    /// The timeline of an output that has one.
    pub(super) fn read(output: &str) -> Option<Self> {
        // Nearly all outputs have none, and are not parsed for it.
        if !output.contains("\"timeline\"") {
            return None;
        }
        let timeline: Self = serde_json::from_str(output).ok()?;
        (!timeline.timeline.is_empty()).then_some(timeline)
    }

    /// In a few words, for the row.
    pub(super) fn summary(&self) -> String {
        format!("{} messages in {:.0} ms", self.messages.len(), self.elapsed_ms)
    }

    /// What the characters mean.
    pub(super) fn legend() -> String {
        format!("{:INDENT$}{ALIVE} is there  {BUSY} between two of its messages  {SAYS} says something\n", "")
    }

    /// What was said and when, and who ran when, in lines that fit that width.
    pub(super) fn draw(&self, width: usize) -> String {
        format!("{}{}", self.list(width), self.chart(width))
    }

    fn list(&self, width: usize) -> String {
        let mut lines = String::new();
        for (said, message) in self.timeline.iter().zip(&self.messages).take(MAX_MESSAGES) {
            let line = format!("{:INDENT$}{:9.1} ms  {}", "", said.at_ms, one_line(message));
            lines += &format!("{}\n", console::truncate_str(&line, width, "…"));
        }
        lines + &more(self.messages.len(), MAX_MESSAGES, "messages")
    }

    fn chart(&self, width: usize) -> String {
        let actors = self.actors();
        let longest = actors.iter().map(|actor| measure_text_width(&actor.label)).max().unwrap_or_default();
        let label = longest.min(width / 4);
        let left = INDENT + label + 2;
        let scale = Scale { end_ms: self.end_ms(), width: width.saturating_sub(left).max(LABEL) };
        let mut lines = String::new();
        for actor in actors.iter().take(MAX_ROWS) {
            let name = pad_str(&actor.label, label, Alignment::Left, Some("…"));
            lines += format!("{:INDENT$}{name}  {}", "", actor.draw(&scale)).trim_end();
            lines.push('\n');
        }
        lines += &more(actors.len(), MAX_ROWS, "rows");
        for line in scale.axis() {
            lines += &format!("{:left$}{line}\n", "");
        }
        lines
    }

    /// When the last of it was over; never 0.
    fn end_ms(&self) -> f64 {
        let said = self.timeline.iter().map(|said| said.at_ms);
        let ran = self.runs.iter().map(|ran| ran.to_ms);
        said.chain(ran).fold(self.elapsed_ms, f64::max).max(0.001)
    }

    /// Everyone, in the order of starting, after whoever spoke and was not started.
    fn actors(&self) -> Vec<Actor> {
        let mut actors: Vec<Actor> = Vec::new();
        let is_started = |said: &Said| self.runs.iter().any(|ran| (&ran.by, ran.pid) == (&said.by, said.pid));
        let others = self.timeline.iter().filter(|said| !is_started(said)).map(|said| (&said.by, said.pid));
        for (by, pid) in others.chain(self.runs.iter().map(|ran| (&ran.by, ran.pid))) {
            let label = pid.map_or_else(|| one_line(by), |pid| format!("{} {pid}", one_line(by)));
            if actors.iter().any(|actor| actor.label == label) {
                continue;
            }
            let said = self.timeline.iter().filter(|said| (&said.by, said.pid) == (by, pid));
            let ran = self.runs.iter().filter(|ran| (&ran.by, ran.pid) == (by, pid));
            actors.push(Actor {
                label,
                said: said.map(|said| said.at_ms).collect(),
                ran: ran.map(|ran| (ran.from_ms, ran.to_ms)).collect(),
            });
        }
        actors
    }
}

/// A row: a thread or process, or several of one name that came one after another.
struct Actor {
    label: String,
    said: Vec<f64>,
    ran: Vec<(f64, f64)>,
}

impl Actor {
    fn draw(&self, scale: &Scale) -> String {
        let mut cells = vec![' '; scale.width];
        for &(from, to) in &self.ran {
            cells[scale.column(from)..=scale.column(to.max(from))].fill(ALIVE);
            let within = || self.said.iter().copied().filter(|at| (from..=to).contains(at));
            if let (Some(first), Some(last)) = (within().reduce(f64::min), within().reduce(f64::max)) {
                cells[scale.column(first)..=scale.column(last)].fill(BUSY);
            }
        }
        for &at in &self.said {
            cells[scale.column(at)] = SAYS;
        }
        cells.into_iter().collect()
    }
}

/// Milliseconds in columns.
struct Scale {
    end_ms: f64,
    width: usize,
}

impl Scale {
    /// The column of a moment; moments outside are at the edge.
    fn column(&self, ms: f64) -> usize {
        ((ms / self.end_ms * self.width as f64) as usize).min(self.width - 1)
    }

    /// A rule with marks, and the labels of the marks.
    fn axis(&self) -> [String; 2] {
        let step = self.step();
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let mut rule: Vec<char> = vec!['─'; self.width];
        let mut labels = String::new();
        for mark in 0.. {
            let ms = step * f64::from(mark);
            let column = self.column(ms);
            let label = if mark == 0 { "0 ms".to_owned() } else { format!("{ms:.decimals$}") };
            if ms > self.end_ms || column + label.len() > self.width {
                break;
            }
            rule[column] = if mark == 0 { '├' } else { '┼' };
            labels = format!("{labels:column$}{label}");
        }
        [rule.into_iter().collect(), labels]
    }

    /// The least of 1, 2, 5, 10, 20, … ms (or parts of one) whose labels do not touch.
    fn step(&self) -> f64 {
        let least = self.end_ms * LABEL as f64 / self.width as f64;
        let power = 10_f64.powf(least.log10().floor());
        let steps = [1.0, 2.0, 5.0].map(|factor| factor * power);
        steps.into_iter().find(|step| *step >= least).unwrap_or(10.0 * power)
    }
}

/// How many are not shown.
fn more(count: usize, most: usize, what: &str) -> String {
    match count.saturating_sub(most) {
        0 => String::new(),
        rest => format!("{:INDENT$}… {rest} more {what}; `--format json` has them all\n", ""),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(output: &serde_json::Value, width: usize) -> Vec<String> {
        let drawn = Timeline::read(&output.to_string()).unwrap().draw(width);
        drawn.lines().map(str::to_owned).collect()
    }

    /// Two that overlap, and the one that directs them.
    fn overlapping() -> serde_json::Value {
        json!({
            "messages": ["a", "b", "c", "d", "End"],
            "elapsed_ms": 100.0,
            "timeline": [
                {"at_ms": 0.0, "by": "one"}, {"at_ms": 25.0, "by": "two"}, {"at_ms": 50.0, "by": "one"},
                {"at_ms": 75.0, "by": "two"}, {"at_ms": 99.9, "by": "main"},
            ],
            "runs": [
                {"by": "one", "tid": 7, "from_ms": 0.0, "to_ms": 60.0},
                {"by": "two", "tid": 8, "from_ms": 5.0, "to_ms": 80.0},
            ],
        })
    }

    #[test]
    fn a_row_each_shows_who_ran_when_over_an_axis() {
        let lines = lines(&overlapping(), 54);

        assert_eq!(
            lines[5..],
            [
                "        main                                         █",
                "        one   █▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒█░░░░",
                "        two     ░░░░░░░░█▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒█░░",
                "              ├───────────────────┼───────────────────",
                "              0 ms                50",
            ]
        );
    }

    #[test]
    fn messages_are_listed_with_their_times() {
        assert_eq!(lines(&overlapping(), 54)[1], "             25.0 ms  b");
    }

    #[test]
    fn processes_of_one_name_have_a_row_each() {
        let output = json!({
            "messages": ["x", "y"],
            "elapsed_ms": 10.0,
            "timeline": [{"at_ms": 1.0, "by": "child", "pid": 11}, {"at_ms": 6.0, "by": "child", "pid": 12}],
            "runs": [
                {"by": "child", "pid": 11, "from_ms": 0.0, "to_ms": 4.0},
                {"by": "child", "pid": 12, "from_ms": 5.0, "to_ms": 10.0},
            ],
        });

        let lines = lines(&output, 80);

        assert!(lines[2].starts_with("        child 11  ░░░░"), "{lines:#?}");
        assert!(lines[3].starts_with("        child 12     "), "{lines:#?}");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_of_many_rows_some_are_counted() {
        let name = |number: usize| format!("a thread with a rather long name, number {number}");
        let timeline: Vec<_> = (0..60).map(|i| json!({"at_ms": i, "by": name(i)})).collect();
        let messages: Vec<_> = (0..60).map(|i| format!("{i} {}\u{1b}[31m", "long ".repeat(40))).collect();
        let output = json!({"messages": messages, "elapsed_ms": 60.0, "timeline": timeline, "runs": []});

        for width in [20, 40, 80, 140, 300] {
            let lines = lines(&output, width);
            assert_eq!(lines.len(), 40 + 1 + 24 + 1 + 2, "{width}");
            assert!(lines.iter().all(|line| !line.contains('\u{1b}')));
            let fits = |line: &String| measure_text_width(line) <= width.max(30) || line.contains(" more ");
            assert!(lines.iter().all(fits), "{width}: {lines:#?}");
        }
    }

    #[test]
    fn what_is_no_timeline_is_none() {
        for none in [
            json!("\"timeline\""),
            json!({"timeline": 7}),
            json!({"messages": [], "elapsed_ms": 0, "timeline": []}),
            json!({"messages": ["a"], "elapsed_ms": "long", "timeline": [{"at_ms": 1, "by": "a"}]}),
        ] {
            assert!(Timeline::read(&none.to_string()).is_none(), "{none}");
        }
    }

    #[test]
    fn strange_times_are_drawn_at_the_edge() {
        let output = json!({
            "messages": ["a", "b"],
            "elapsed_ms": 0.0,
            "timeline": [{"at_ms": -5.0, "by": "a"}, {"at_ms": 0.0, "by": "a"}],
            "runs": [{"by": "a", "from_ms": 9e300, "to_ms": -1.0}],
        });

        let lines = lines(&output, 80);

        let row = format!("        a  █{:67}░", "");
        assert_eq!(lines[..3], ["             -5.0 ms  a", "              0.0 ms  b", row.as_str()]);
        assert!(lines.len() == 5 && lines[3].starts_with("           ├") && lines[4].starts_with("           0 ms"));
    }
}
