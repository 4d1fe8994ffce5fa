//! `process.identity`: who is whose parent.

use std::io;
use std::os::unix::process::parent_id;

use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Invalid, Lane};

use super::{MAX_CHARS, Pids, Program, usual_name};
use crate::children::{Children, Me, Part, Role};
use crate::scenario::{Exercise, Scene, fields};

/// Lets a parent and its child say who they are.
#[derive(Clone, Debug)]
pub struct Identity(pub Program);

fields! {
    /// What an item of `process.identity` says.
    pub struct Fields, scenarios: 1 {
        /// Whom the child greets: at most 100 characters.
        #[schemars(extend("default" = USUAL_NAME))]
        name: String,
    }
}

/// Whom the child greets if nothing is said.
const USUAL_NAME: &str = "bob";

pub(super) const PART: Part = Part { name: "process.identity", run: f };

impl Fields {
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(USUAL_NAME)
    }
}

fn f(me: &Me) -> io::Result<()> {
    let name: String = me.args()?;
    info("function f").into_iter().try_for_each(|line| me.say(line))?;
    me.say(format!("hello {name}"))
}

/// Who the process that calls is.
fn info(title: &str) -> [String; 3] {
    [title.to_owned(), format!("parent process: {}", parent_id()), format!("process id: {}", std::process::id())]
}

impl Exercise for Identity {
    type Fields = Fields;
    type Extras = Pids;

    const LANE: Lane = Lane::Process;

    fn about(&self) -> About {
        About {
            name: "process.identity",
            summary: "Tell the process ids of a parent and its child",
            details: "The parent says a title (`main line`), its parent's process id and its own; then the child does the \
                      same (`function f`) and says `hello {name}`. Look at the numbers: the child's parent is the process \
                      that spoke before it.",
            examples: &["tidemill run process.identity", "tidemill run process.identity -o name=Ada"],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn check(&self, fields: &Fields) -> Result<(), Invalid> {
        match &fields.name {
            Some(name) if name.chars().count() > MAX_CHARS => {
                Err(Invalid(format!("name: longer than {MAX_CHARS} characters")))
            }
            _ => Ok(()),
        }
    }

    fn room(&self, _fields: &Fields) -> usize {
        1
    }

    fn play(&self, fields: &Fields, scene: &Scene) -> Result<Pids, Failure> {
        let mut children = Children::of(scene, &self.0)?;
        info("main line").into_iter().try_for_each(|line| children.say(line))?;
        let name = fields.name();
        let child = children.start(Role::new(&PART, usual_name(1)).with(&name))?;
        children.join(child)?;
        Ok(Pids::of(&children))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_not_named_is_bob() {
        let name = |json: &str| serde_json::from_str::<Fields>(json).unwrap().name().to_owned();
        assert_eq!([name("{}"), name(r#"{"name": "Ada"}"#)], ["bob", "Ada"]);

        let schema = schemars::schema_for!(Fields);
        assert_eq!(schema.as_value()["properties"]["name"]["default"], "bob");
    }
}
