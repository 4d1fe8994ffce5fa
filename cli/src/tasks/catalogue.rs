//! Catalogue: the page `docs/catalogue.md`, made from the register.

use schemars::Schema;
use serde_json::Value;
use tidemill_core::task::{Arguments, Kind, Register};

use super::fields::{Field, fields};
use super::groups;

const HEAD: &str = "\
# The catalogue of tasks

<!-- Made from the register by `make catalogue`. What it says is written in tasks/src/, beside the tasks. -->

Every task that Tidemill ships, what it takes and what it gives back. A task is run on this machine with `tidemill run
TASK INPUT…` and on the cluster with `tidemill submit TASK INPUT…`; options are given with `-o KEY=VALUE`. What a task does
not take, whether an option, a field or a value, is refused before anything starts. `tidemill tasks` lists them,
`tidemill tasks TASK` shows one, and `tidemill tasks --json` has the whole schemas.
";

/// The page.
pub(super) fn page(register: &Register) -> String {
    let groups = groups(register);
    let mut page = HEAD.to_owned();
    for (group, kinds) in &groups {
        page += &format!("\n**{group}**\n\n| task | what it does |\n|---|---|\n");
        for kind in kinds {
            let about = kind.about();
            // Where GitHub puts the heading below.
            let anchor = about.name.replace('.', "");
            page += &format!("| [`{}`](#{anchor}) | {} |\n", about.name, cell(about.summary));
        }
    }
    for kind in groups.iter().flat_map(|(_, kinds)| kinds) {
        page += &section(*kind);
    }
    page
}

fn section(kind: &dyn Kind) -> String {
    let (about, schemas) = (kind.about(), kind.schemas());
    let mut text = format!("\n## {}\n\n**{}.** {}\n", about.name, escaped(about.summary), escaped(about.details));
    let (options, input, output) = (fields(&schemas.options), fields(&schemas.input), fields(&schemas.output));
    if input != options || input.is_empty() {
        text += &format!("\nInput: {}.\n", input_of(about.arguments, &schemas.input, &input));
    }
    if !input.is_empty() && input != options {
        text += &table("field", &input);
    }
    if !options.is_empty() {
        let both = if input == options { "Options of the batch, and fields of each input:" } else { "Options:" };
        text += &format!("\n{both}\n{}", table("option", &options));
    }
    if !output.is_empty() {
        text += &format!("\nOutput:\n{}", table("field", &output));
    }
    let examples = about.examples.join("\n");
    text + &format!("\n```sh\n{examples}\n```\n")
}

fn input_of(arguments: Arguments, schema: &Schema, fields: &[Field]) -> String {
    if arguments == Arguments::Files {
        return "the path or URL of a file; on the command line also a folder or a glob".to_owned();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") if fields.is_empty() => "an object without fields".to_owned(),
        Some("object") => "an object".to_owned(),
        Some("array") => "a list".to_owned(),
        Some("integer") => "an integer".to_owned(),
        Some(kind) => format!("a {kind}"),
        None => "see above".to_owned(),
    }
}

fn table(head: &str, fields: &[Field]) -> String {
    let mut table = format!("\n| {head} | values | default | |\n|---|---|---|---|\n");
    for Field { name, kind, default, description } in fields {
        let default = match default.as_deref() {
            // Of an output, or of an option that must be given.
            None | Some("required") => String::new(),
            Some(default) => format!("`{default}`"),
        };
        table += &format!("| `{name}` | {} | {default} | {} |\n", cell(kind), cell(description));
    }
    table
}

fn cell(text: &str) -> String {
    escaped(text).replace('|', "\\|").replace("\n\n", "<br>").replace('\n', " ")
}

/// Text as it is meant, also where Markdown would see something in it. What stands in backticks is left alone.
fn escaped(text: &str) -> String {
    let parts = text.split('`').enumerate().map(|(number, part)| match number % 2 {
        0 => part.replace('*', "\\*").replace('<', "&lt;").replace('[', "\\["),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("`")
}
