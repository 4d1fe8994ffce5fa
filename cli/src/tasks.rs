//! `tasks`: what there is to run.

use std::io::{self, Write};

use console::style;
use serde_json::{Value, json};
use tidemill_core::nearest::did_you_mean;
use tidemill_core::task::{Kind, Register};

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
        None if args.json => pretty(&values(register).into()),
        None => listed(register),
    };
    print(&text)
}

/// Writes to standard output; whoever closed it wants no more.
pub(crate) fn print(text: &str) -> Result<Exit, CliError> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::new(Exit::Fault, format!("cannot print: {error}")))
        }
        _ => Ok(Exit::Ok),
    }
}

/// JSON for people's eyes too.
pub(crate) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
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
    let mut text = String::new();
    let mut last_group = "";
    for kind in register.iter() {
        let about = kind.about();
        let group = about.name.split('.').next().unwrap_or(about.name);
        if group != last_group {
            let gap = if last_group.is_empty() { "" } else { "\n" };
            text += &format!("{gap}{}\n", style(group).bold());
            last_group = group;
        }
        text += &format!("  {:20} {}\n", about.name, about.summary);
    }
    text + "\n`tidemill tasks TASK` shows its options and examples.\n"
}

fn shown(kind: &dyn Kind) -> String {
    let (about, schemas) = (kind.about(), kind.schemas());
    let mut text = format!("{}: {}\n\n", style(about.name).bold(), about.summary);
    text += &wrapped(about.details, "");
    let options = schemas.options.to_value();
    let properties = options.get("properties").and_then(Value::as_object);
    if let Some(properties) = properties.filter(|properties| !properties.is_empty()) {
        text += &format!("\n{}\n", style("Options (-o KEY=VALUE)").bold());
        for (key, property) in properties {
            text += &format!("  {key}{}\n", notes(&options, key, property));
            if let Some(description) = property.get("description").and_then(Value::as_str) {
                text += &wrapped(description, "      ");
            }
        }
    }
    text += &format!("\n{}\n", style("Examples").bold());
    for example in about.examples {
        text += &format!("  {example}\n");
    }
    text
}

/// What type an option has, and what it is when it is not given.
fn notes(options: &Value, key: &str, property: &Value) -> String {
    let kind = match property.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect(),
        _ => String::new(),
    };
    let is_required = options["required"].as_array().is_some_and(|keys| keys.iter().any(|required| required == key));
    let default = match property.get("default") {
        Some(Value::Null) | None if is_required => "required".to_owned(),
        Some(Value::Null) | None => String::new(),
        Some(default) => format!("default {default}"),
    };
    let notes: Vec<String> = [kind, default].into_iter().filter(|note| !note.is_empty()).collect();
    if notes.is_empty() { String::new() } else { format!("  ({})", notes.join(", ")) }
}

/// Breaks a text into lines that fit.
fn wrapped(text: &str, indent: &str) -> String {
    let width = usize::from(console::Term::stdout().size().1).clamp(60, 100) - indent.len();
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
    lines + &format!("{indent}{line}\n")
}
