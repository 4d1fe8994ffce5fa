//! Catalogue: the page `docs/catalogue.md`, made from the register.

use tidemill_core::task::{Arguments, Kind, Register, Schemas};

use super::fields::{Field, fields, kind_of};
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
        text += &format!("\nInput: {}\n", input_of(about.arguments, &schemas, &input));
    }
    if !options.is_empty() {
        let both = if input == options { "Options of the batch, and fields of each input:" } else { "Options:" };
        text += &format!("\n{both}\n\n| option | values | default | |\n|---|---|---|---|\n");
        for Field { name, kind, default, description } in &options {
            let default = match default.as_deref() {
                Some("required") => "required".to_owned(),
                Some(default) => format!("`{default}`"),
                None => String::new(),
            };
            text += &format!("| `{name}` | {} | {default} | {} |\n", cell(kind), cell(description));
        }
    }
    text += &match output.is_empty() {
        true => format!("\nOutput: {}.\n", escaped(&kind_of(&schemas.output))),
        false => format!("\nOutput:\n{}", table(&output)),
    };
    let examples = about.examples.join("\n");
    text + &format!("\n```sh\n{examples}\n```\n")
}

fn input_of(arguments: Arguments, schemas: &Schemas, fields: &[Field]) -> String {
    if arguments == Arguments::Files {
        return "the path or URL of a file; on the command line also a folder or a glob.".to_owned();
    }
    match fields {
        [] => format!("{}.", escaped(&kind_of(&schemas.input))),
        fields => format!("an object.\n{}", table(fields)),
    }
}

fn table(fields: &[Field]) -> String {
    let mut table = "\n| field | values | |\n|---|---|---|\n".to_owned();
    for Field { name, kind, description, .. } in fields {
        table += &format!("| `{name}` | {} | {} |\n", cell(kind), cell(description));
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
