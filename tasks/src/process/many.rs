//! `process.many`: a process for each name.

use std::io;

use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Invalid, Lane};

use super::{Pids, Program, check_words, usual_name};
use crate::children::{Children, Me, Part, Role};
use crate::scenario::{Exercise, Scene, fields};

/// Starts a process for each name, and one with the default.
#[derive(Clone, Debug)]
pub struct Many(pub Program);

fields! {
    /// What an item of `process.many` says.
    pub struct Fields, scenarios: 1 {
        /// The names of foods: at most 31 of at most 100 characters; Tomato, Groundnuts, cocoyam and plantain if nothing
        /// is said.
        names: Vec<String>,
    }
}

impl Fields {
    fn foods(&self) -> Vec<String> {
        let usual = || ["Tomato", "Groundnuts", "cocoyam", "plantain"].map(str::to_owned).into();
        self.names.clone().unwrap_or_else(usual)
    }
}

/// The most names; one more child has the default.
const MAX_NAMES: usize = 31;

pub(super) const PART: Part = Part { name: "process.many", run: food };

fn food(me: &Me) -> io::Result<()> {
    let name = me.args::<Option<String>>()?.unwrap_or_else(|| "Rice".to_owned());
    me.say_in_turn(me.turn(), format!("The name of food is : {name}"))
}

impl Exercise for Many {
    type Fields = Fields;
    type Extras = Pids;

    const LANE: Lane = Lane::Process;

    fn about(&self) -> About {
        About {
            name: "process.many",
            summary: "Start a process for each of several names",
            details: "One child is given no name and falls back to `Rice`, and one is started for each of `names`; all are \
                      started before any is joined. Each says `The name of food is : {name}` when its turn has come: the turns \
                      go by the order of starting. Look at `runs`: they overlap.",
            examples: &["tidemill run process.many", "tidemill run process.many -o names='[\"Yam\",\"Beans\"]'"],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn check(&self, fields: &Fields) -> Result<(), Invalid> {
        check_words("names", fields.names.as_deref(), MAX_NAMES)
    }

    fn room(&self, fields: &Fields) -> usize {
        fields.foods().len() + 1
    }

    fn play(&self, fields: &Fields, scene: &Scene) -> Result<Pids, Failure> {
        let mut children = Children::of(scene, &self.0)?;
        let names = std::iter::once(None).chain(fields.foods().into_iter().map(Some));
        for (n, name) in (1..).zip(names) {
            children.start(Role::new(&PART, usual_name(n)).with(&name))?;
        }
        children.end_turn()?;
        children.join_all()?;
        Ok(Pids::of(&children))
    }
}
