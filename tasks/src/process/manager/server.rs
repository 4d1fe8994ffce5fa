//! The manager: keeps a map and a list, and answers those who are linked to it, each on a thread.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::children::Me;

/// What the manager is asked for; a line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Asked {
    /// Sets a key of the map.
    Put {
        /// The key.
        key: String,
        /// What it is set to.
        value: Value,
    },
    /// Adds to the list.
    Extend {
        /// What is added.
        values: Vec<Value>,
    },
    /// Reverses the list.
    Reverse,
    /// Nothing but the answer.
    Read,
}

/// What it answers: all that it keeps, as it is by then.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Answer {
    /// The map, in the order in which its keys were set.
    pub(super) map: Vec<(String, Value)>,
    /// The list.
    pub(super) list: Vec<Value>,
}

/// One who asks.
#[derive(Debug)]
pub(super) struct Client {
    to: UnixStream,
    from: BufReader<UnixStream>,
}

impl Client {
    /// Asks over that end.
    ///
    /// # Errors
    /// Where no descriptors are left.
    pub(super) fn new(end: UnixStream) -> io::Result<Self> {
        Ok(Self { to: end.try_clone()?, from: BufReader::new(end) })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Where the manager is gone.
    pub(super) fn ask(&mut self, asked: &Asked) -> io::Result<Answer> {
        let mut line = serde_json::to_string(asked)?;
        line.push('\n');
        self.to.write_all(line.as_bytes())?;
        line.clear();
        self.from.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

/// Answers until all who can ask are gone.
pub(super) fn serve(me: &Me) -> io::Result<()> {
    let kept = Mutex::new(Answer::default());
    std::thread::scope(|scope| {
        let mut answering = Vec::new();
        while let Ok(end) = me.take() {
            let kept = &kept;
            answering.push(scope.spawn(move || answer(kept, UnixStream::from(end))));
        }
        answering.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the manager panicked")))
        })
    })
}

fn answer(kept: &Mutex<Answer>, mut end: UnixStream) -> io::Result<()> {
    for line in BufReader::new(end.try_clone()?).lines() {
        let answer = {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            obey(&mut kept, serde_json::from_str(&line?)?);
            kept.clone()
        };
        writeln!(end, "{}", serde_json::to_string(&answer)?)?;
    }
    Ok(())
}

fn obey(kept: &mut Answer, asked: Asked) {
    match asked {
        Asked::Put { key, value } => match kept.map.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known = value,
            None => kept.map.push((key, value)),
        },
        Asked::Extend { values } => kept.list.extend(values),
        Asked::Reverse => kept.list.reverse(),
        Asked::Read => {}
    }
}
