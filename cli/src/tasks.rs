//! `tasks`: what there is to run.

mod catalogue;
mod fields;

use std::io::{self, Write};

use console::style;
use serde::Serialize;
use serde_json::{Value, json};
use tidemill_core::nearest::did_you_mean;
use tidemill_core::task::{Kind, Register};

use self::fields::{Field, fields};
use crate::args::Tasks;
use crate::error::{CliError, Exit};

/// Lists the tasks, or shows one.
pub(crate) fn tasks(args: &Tasks, register: &Register) -> Result<Exit, CliError> {
    let text = match &args.task {
        Some(name) => {
            let kind = register.find(name).map_err(|unknown| {
                CliError::usage(format!("{unknown}{}", did_you_mean(&unknown.nearest)))
                    .hint("`tidemill tasks` lists them")
            })?;
            if args.json { pretty(&as_json(kind)) } else { shown(kind) }
        }
        None if args.markdown => catalogue::page(register),
        None if args.json => pretty(&values(register)),
        None => listed(register),
    };
    print(&text)
}

/// Writes to standard output; whoever closed it wants no more.
pub(crate) fn print(text: &str) -> Result<Exit, CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::fault(format!("cannot print: {error}")))
        }
        _ => Ok(Exit::Ok),
    }
}

/// JSON for people's eyes too. Not by way of a [`Value`]: it does not hold what an input may be, such as 1e999.
pub(crate) fn pretty(value: &impl Serialize) -> String {
    // Plain structs, to memory: it cannot fail.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// Every task, as JSON.
pub(crate) fn values(register: &Register) -> Vec<Value> {
    register.iter().map(as_json).collect()
}

fn as_json(kind: &dyn Kind) -> Value {
    let (about, schemas) = (kind.about(), kind.schemas());
    json!({ "about": about, "schemas": schemas })
}

fn listed(register: &Register) -> String {
    let width = register.iter().map(|kind| kind.about().name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (number, (group, kinds)) in groups(register).into_iter().enumerate() {
        let gap = if number == 0 { "" } else { "\n" };
        text += &format!("{gap}{}\n", style(group).bold());
        for kind in kinds {
            let about = kind.about();
            text += &format!("  {:width$}  {}\n", about.name, about.summary);
        }
    }
    text + "\n`tidemill tasks TASK` shows its options and examples.\n"
}

/// The tasks by the first part of their names, in the order in which they are registered.
fn groups(register: &Register) -> Vec<(&'static str, Vec<&dyn Kind>)> {
    let mut groups: Vec<(&'static str, Vec<&dyn Kind>)> = Vec::new();
    for kind in register.iter() {
        let name = kind.about().name;
        let group = name.split('.').next().unwrap_or(name);
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, kinds)) => kinds.push(kind),
            None => groups.push((group, vec![kind])),
        }
    }
    groups
}

fn shown(kind: &dyn Kind) -> String {
    let (about, schemas) = (kind.about(), kind.schemas());
    let mut text = format!("{}: {}\n\n", style(about.name).bold(), about.summary);
    text += &wrapped(about.details, "");
    let (options, input) = (fields(&schemas.options), fields(&schemas.input));
    let mut list = |title: &str, fields: &[Field]| {
        text += &format!("\n{}\n", style(title).bold());
        for field in fields {
            let notes = field.notes();
            let notes = if notes.is_empty() { notes } else { format!(" ({notes})") };
            let head = wrapped(&format!("{}{notes}", field.name), "      ");
            text += &format!("  {}{}", head.trim_start(), wrapped(&field.description, "      "));
        }
    };
    if !input.is_empty() && input != options {
        list("Input (JSON)", &input);
    }
    if !options.is_empty() {
        let both = if input == options {
            "Options (-o KEY=VALUE), and fields of each input"
        } else {
            "Options (-o KEY=VALUE)"
        };
        list(both, &options);
    }
    text += &format!("\n{}\n", style(if about.examples.len() == 1 { "Example" } else { "Examples" }).bold());
    for example in about.examples {
        text += &pasted(example, width());
    }
    text
}

/// A command, indented, broken as a shell reads it where it would not fit.
fn pasted(command: &str, width: usize) -> String {
    let (mut lines, mut line) = (String::new(), String::from(" "));
    for part in parts(command) {
        // Room for a space before and a backslash behind it.
        if line.len() > 2 && console::measure_text_width(&line) + part.len() + 3 > width {
            lines += &format!("{line} \\\n");
            line = String::from("     ");
        }
        line.push(' ');
        line += &part;
    }
    lines + &line + "\n"
}

/// What stays together in a command: what stands in quotes, and a flag with its value.
fn parts(command: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    let (mut quote, mut is_flag) = (None, false);
    for word in command.split(' ') {
        match parts.last_mut() {
            Some(part) if quote.is_some() || is_flag => *part += &format!(" {word}"),
            _ => parts.push(word.to_owned()),
        }
        is_flag = quote.is_none() && word.len() > 1 && word.starts_with('-');
        for c in word.chars() {
            match quote {
                None if matches!(c, '\'' | '"') => quote = Some(c),
                Some(open) if open == c => quote = None,
                _ => {}
            }
        }
    }
    parts
}

fn width() -> usize {
    usize::from(console::Term::stdout().size().1).clamp(60, 100)
}

/// Breaks a text into lines that fit.
fn wrapped(text: &str, indent: &str) -> String {
    let width = width() - indent.len();
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && console::measure_text_width(&line) + 1 + console::measure_text_width(word) > width {
            lines += &format!("{indent}{line}\n");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    if line.is_empty() { lines } else { lines + &format!("{indent}{line}\n") }
}

#[cfg(test)]
mod tests {
    use super::pasted;

    #[test]
    fn a_long_command_is_broken_where_a_shell_lets_it() {
        assert_eq!(pasted("tidemill run x", 80), "  tidemill run x\n");
        assert_eq!(
            pasted("tidemill run x -o steps='[1, 2, 3, 4]' --out small", 32),
            "  tidemill run x \\\n      -o steps='[1, 2, 3, 4]' \\\n      --out small\n"
        );
    }
}
