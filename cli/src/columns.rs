//! Columns: lists for people.

use std::time::Duration;

use console::{measure_text_width, style};
use tidemill_core::batch::unix_millis;

/// Rows below their heads, each column as wide as its widest cell. What others wrote into a cell cannot move the cursor.
pub(crate) fn columns<const N: usize>(heads: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = rows.map(|row| row.map(|cell| one_line(&cell))).collect();
    let mut widths = heads.map(measure_text_width);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(measure_text_width(cell));
        }
    }
    let line = |cells: [&str; N]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width.saturating_sub(measure_text_width(cell)))))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut text = format!("{}\n", style(line(heads)).bold());
    for row in &rows {
        text += &line(row.each_ref().map(String::as_str));
        text.push('\n');
    }
    text
}

/// A text of others as one line, without what a terminal would obey.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// How long ago that was, in its two largest units.
pub(crate) fn ago(millis: u64) -> String {
    let seconds = Duration::from_secs(unix_millis().saturating_sub(millis) / 1000);
    let text = humantime::format_duration(seconds).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
