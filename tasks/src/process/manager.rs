//! `process.manager`: a process that keeps what others work on.

mod server;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Lane};

use self::server::{Answer, Asked, Client};
use super::spaced::spaced;
use super::{Program, usual_name};
use crate::children::{Children, Me, Part, Role};
use crate::scenario::{Exercise, Scene, fields};

/// Lets a child work on a map and a list that live in a third process.
#[derive(Clone, Debug)]
pub struct Manager(pub Program);

fields! {
    /// What an item of `process.manager` says.
    pub struct Fields, scenarios: 1 {}
}

/// What the parent read from the manager.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Extras {
    /// The process ids of the manager and of the child.
    pub pids: Vec<u32>,
    /// The map.
    pub map: BTreeMap<String, Value>,
    /// The list.
    pub list: Vec<Value>,
}

pub(super) const SERVER: Part = Part { name: "process.manager/server", run: server::serve };
pub(super) const CLIENT: Part = Part { name: "process.manager", run: f };

fn f(me: &Me) -> io::Result<()> {
    let mut manager = Client::new(UnixStream::from(me.take()?))?;
    for (key, value) in [("1", json!("1")), ("2", json!(2)), ("0.25", Value::Null)] {
        manager.ask(&Asked::Put { key: key.to_owned(), value })?;
    }
    manager.ask(&Asked::Reverse)?;
    Ok(())
}

impl Exercise for Manager {
    type Fields = Fields;
    type Extras = Extras;

    const LANE: Lane = Lane::Process;

    fn about(&self) -> About {
        About {
            name: "process.manager",
            summary: "Share a map and a list that live in a manager process",
            details: "A manager process keeps a map and a list and answers whoever asks, over a socket each. The parent fills \
                      the list with 0 to 9; a child sets three keys of the map (\"1\": \"1\", \"2\": 2, \"0.25\": null) and \
                      reverses the list; the parent then reads both. Neither has them in its own memory. The messages are \
                      what the parent read, the map in the order in which its keys were set. Look at `pids`: two processes, \
                      the manager first.",
            examples: &["tidemill run process.manager"],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn room(&self, _fields: &Fields) -> usize {
        2
    }

    fn play(&self, _fields: &Fields, scene: &Scene) -> Result<Extras, Failure> {
        let lost = |error: io::Error| match scene.go_on() {
            Err(stopped) => stopped.into(),
            Ok(()) => Failure::transient("child", format!("the manager does not answer: {error}")),
        };
        let mut children = Children::of(scene, &self.0)?;
        let (parents_end, servers_first) = UnixStream::pair().map_err(lost)?;
        let (childs_end, servers_second) = UnixStream::pair().map_err(lost)?;
        let server = Role::new(&SERVER, "Manager").handed(servers_first.as_fd()).handed(servers_second.as_fd());
        children.start(server)?;
        // Each process has its own ends: a manager is done when the last of those whom it answers has closed theirs.
        drop((servers_first, servers_second));
        let mut manager = Client::new(parents_end).map_err(lost)?;
        manager.ask(&Asked::Extend { values: (0..10).map(Value::from).collect() }).map_err(lost)?;

        let child = children.start(Role::new(&CLIENT, usual_name(1)).handed(childs_end.as_fd()))?;
        drop(childs_end);
        children.join(child)?;

        let Answer { map, list } = manager.ask(&Asked::Read).map_err(lost)?;
        drop(manager);
        children.join_all()?;
        children.say(spaced(&InOrder(&map))?)?;
        children.say(spaced(&list)?)?;
        Ok(Extras { pids: children.pids(), map: map.into_iter().collect(), list })
    }
}

/// A map, its keys in the order in which they were set.
struct InOrder<'a>(&'a [(String, Value)]);

impl Serialize for InOrder<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}
