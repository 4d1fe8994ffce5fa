//! The table: a row an outcome, printed as it comes, in columns that fit the terminal from the first row on.

use console::{Alignment, Style, pad_str};
use serde_json::Value;
use tidemill_core::outcome::{Ending, Outcome, Status};

use super::timeline::Timeline;
use crate::columns::one_line;

/// Where the width cannot be asked for.
const USUAL_WIDTH: usize = 120;
const INDEX: usize = 6;
const STATUS: usize = 9;
const TIME: usize = 10;
const GAPS: usize = 8;

/// Widths of the two columns that vary, in characters.
pub(super) struct Table {
    input: usize,
    output: usize,
    /// Of all columns.
    width: usize,
    is_terminal: bool,
    /// Whether it was said how to read a timeline.
    is_explained: bool,
}

impl Table {
    /// Fits the columns to the terminal.
    pub(super) fn fit(is_terminal: bool) -> Self {
        let width = if is_terminal { console::Term::stdout().size().1.into() } else { USUAL_WIDTH };
        let rest = width.saturating_sub(INDEX + STATUS + TIME + GAPS).max(24);
        Self { input: rest / 3, output: rest - rest / 3, width, is_terminal, is_explained: false }
    }

    /// Writes the heads of the columns.
    pub(super) fn head(&self, text: &mut Vec<u8>) {
        let head = self.columns(["item", "input", "status", "time", "output"], &Style::new().bold());
        text.extend_from_slice(head.as_bytes());
    }

    /// Writes a row.
    pub(super) fn row(&mut self, outcome: &Outcome, text: &mut Vec<u8>) {
        let style = match outcome.status() {
            Status::Ok => Style::new().green(),
            Status::Failed | Status::Dead => Style::new().red(),
            Status::Cancelled | Status::Expired => Style::new().yellow(),
        };
        let timeline = match &outcome.ending {
            Ending::Ok(output) => Timeline::read(output.get()),
            _ => None,
        };
        let output = match &outcome.ending {
            Ending::Ok(output) => {
                let output = timeline.as_ref().map_or_else(|| shown(output.get()), Timeline::summary);
                console::truncate_str(&output, self.output, "…").into_owned()
            }
            // Why it failed is said in full.
            Ending::Failed(failure) | Ending::Dead(failure) => {
                one_line(&format!("{}: {}", failure.kind, failure.message))
            }
            Ending::Cancelled | Ending::Expired => String::new(),
        };
        let time = format!("{:.1} ms", outcome.run.as_secs_f64() * 1000.0);
        let cells =
            [&outcome.index.to_string(), &shown(outcome.input.get()), outcome.status().as_str(), &time, &output];
        text.extend_from_slice(self.columns(cells, &style).as_bytes());
        if let Some(timeline) = timeline {
            text.extend_from_slice(timeline.draw(self.width).as_bytes());
            if !std::mem::replace(&mut self.is_explained, true) {
                text.extend_from_slice(Timeline::legend().as_bytes());
            }
        }
    }

    fn columns(&self, [index, input, status, time, output]: [&str; 5], style: &Style) -> String {
        // Of a long path the end says more than the beginning.
        let is_long = console::measure_text_width(input) > self.input;
        let input = if is_long { tail(input, self.input) } else { input.to_owned() };
        let pad = |text: &str, width, side| pad_str(text, width, side, Some("…")).into_owned();
        let status = pad(status, STATUS, Alignment::Left);
        let status = if self.is_terminal { style.apply_to(status).to_string() } else { status };
        let line = format!(
            "{}  {}  {status}  {}  {output}",
            pad(index, INDEX, Alignment::Right),
            pad(&input, self.input, Alignment::Left),
            pad(time, TIME, Alignment::Right),
        );
        format!("{}\n", line.trim_end())
    }
}

/// The last characters that fit, after an ellipsis.
fn tail(text: &str, width: usize) -> String {
    let mut kept = 0;
    let fits = |character: &char| {
        kept += console::measure_text_width(character.encode_utf8(&mut [0; 4]));
        kept < width
    };
    let end: Vec<char> = text.chars().rev().take_while(fits).collect();
    std::iter::once('…').chain(end.into_iter().rev()).collect()
}

/// Numbers stay as they were written: one may be larger than any that a computer counts with.
fn shown(json: &str) -> String {
    match json.as_bytes().first() {
        Some(b'"' | b'[' | b'{') => serde_json::from_str(json).map_or_else(|_| one_line(json), |value| summary(&value)),
        _ => json.to_owned(),
    }
}

/// A value in a few words: what people want to see of it first.
fn summary(value: &Value) -> String {
    match value {
        Value::String(text) => one_line(text),
        Value::Array(values) => values.iter().map(summary).collect::<Vec<_>>().join(" "),
        Value::Object(fields) => {
            if let (Some(label), Some(probability)) =
                (fields.get("label"), fields.get("probability").and_then(Value::as_f64))
            {
                // ImageNet's names are lists of synonyms; the first one does.
                let label = summary(label);
                let first = label.split(',').next().unwrap_or_default();
                return format!("{first} {:.1} %,", 100.0 * probability);
            }
            if let (Some(label), Some(share)) = (fields.get("label"), fields.get("share").and_then(Value::as_f64)) {
                return format!("{} {:.1} %,", summary(label), 100.0 * share);
            }
            if let Some(labels) = fields.get("labels").or_else(|| fields.get("classes")).filter(|said| said.is_array())
            {
                let drawn = ["mask", "overlay", "side_by_side"].into_iter().filter_map(|name| fields.get(name));
                let said = summary(labels).trim_end_matches(',').to_owned();
                return drawn.fold(said, |said, file| format!("{said}  {}", summary(file)));
            }
            if let Some(file) = fields.get("image").and_then(|image| image.get("file")) {
                let side = |key: &str| fields.get(key).map(summary).unwrap_or_default();
                return format!("{}×{}  {}", side("width"), side("height"), summary(file));
            }
            if fields.contains_key("blob") {
                let called = ["file", "name", "blob"].iter().find_map(|key| fields.get(*key)?.as_str());
                return one_line(called.unwrap_or_default());
            }
            let [key, ..] = fields.keys().map(String::as_str).collect::<Vec<_>>()[..] else { return String::new() };
            match fields.len() {
                1 => summary(&fields[key]),
                _ => {
                    let said = |(key, value): (&String, &Value)| format!("{} {}", one_line(key), summary(value));
                    fields.iter().map(said).collect::<Vec<_>>().join(", ")
                }
            }
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn summaries_say_first_what_people_want_to_see() {
        assert_eq!(summary(&json!("Done")), "Done");
        assert_eq!(summary(&json!([2, 2, 5])), "2 2 5");
        assert_eq!(summary(&json!({"seconds": 5})), "5");
        assert_eq!(
            ["1e400", "18446744073709551616", "[1e400]", "\"a\""].map(shown)[..],
            ["1e400", "18446744073709551616", "[1e400]", "a"]
        );
        let labels = json!({"model": "m", "labels": [{"label": "espresso", "probability": 0.951}, {"label": "cup", "probability": 0.02}]});
        assert_eq!(summary(&labels), "espresso 95.1 %, cup 2.0 %");
        let shares =
            json!({"classes": [{"label": "person", "share": 0.5}], "mask": {"blob": "sha256:0", "file": "out/a.png"}});
        assert_eq!(summary(&shares), "person 50.0 %  out/a.png");
        let trained = json!({"model": "digits", "classes": 10});
        assert_eq!(summary(&trained), "classes 10, model digits");
        let page = json!({"page": {"blob": "sha256:0", "bytes": 7, "file": "out/a.html"}, "bytes": 7});
        assert_eq!(summary(&page), "bytes 7, page out/a.html");
        assert_eq!(summary(&json!({"blob": "sha256:0", "name": "a.svg"})), "a.svg");
        let picture = json!({"image": {"blob": "sha256:0", "file": "out/a.jpg"}, "width": 3, "height": 2});
        assert_eq!(summary(&picture), "3×2  out/a.jpg");
    }

    #[test]
    fn a_long_path_keeps_its_end_and_no_control_character_reaches_the_terminal() {
        assert_eq!(tail("photos/2024/holidays/cat.jpg", 10), "…s/cat.jpg");
        assert_eq!(one_line("a\u{1b}[31mb\n"), "a [31mb ");
        let others = json!({ "a\u{1b}]0;x\u{7}": 1, "b": "\u{9b}2J", "c": [{ "d\r": 1, "e": 2 }] });
        assert_eq!(summary(&others), "a ]0;x  1, b  2J, c d  1, e 2");
        let label = json!({ "label": { "f\u{1b}": 1, "g": 2 }, "share": 1 });
        assert_eq!(summary(&label), "f  1, g 2 100.0 %,");
    }
}
