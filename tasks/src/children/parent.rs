//! The parent's side: the children of one item, on the thread that directs them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ExitStatus, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, waitid};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tidemill_core::failure::Failure;

use super::ears::{Ears, is_ready};
use super::program::Program;
use super::reins::Reins;
use super::role::Role;
use super::shared::Shared;
use super::sync::Turns;
use super::wire::{Order, What, now_us, send};
use crate::scenario::{RunId, Scene};

/// The children of an item. Whatever has not ended is killed and waited for when this is dropped.
#[derive(Debug)]
pub(crate) struct Children {
    scene: Scene,
    program: Program,
    began_us: u64,
    shared: Shared,
    reins: Reins,
    ears: Ears,
    given: VecDeque<(ChildId, Box<RawValue>)>,
    fault: Option<String>,
    children: Vec<OneChild>,
}

/// A child, by its number among its siblings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChildId(pub(crate) usize);

#[derive(Debug)]
struct OneChild {
    process: Child,
    name: String,
    pid: u32,
    run: RunId,
    /// Its end ends the child; none once that has ended.
    lifeline: Option<UnixStream>,
    is_daemon: bool,
    /// Whether it was sent a signal that ends it, so that its end is no surprise.
    is_condemned: bool,
    exit: Option<i32>,
}

impl Children {
    /// None yet.
    ///
    /// # Errors
    /// A passing failure: no descriptors or no memory are left.
    pub(crate) fn of(scene: &Scene, program: &Program) -> Result<Self, Failure> {
        let elapsed_us = (scene.now_ms() * 1e3) as u64;
        Ok(Self {
            program: program.clone(),
            began_us: now_us().saturating_sub(elapsed_us),
            shared: Shared::new().map_err(|error| no_more(&error))?,
            reins: Reins::of(scene),
            scene: scene.clone(),
            ears: Ears::new().map_err(|error| no_more(&error))?,
            given: VecDeque::new(),
            fault: None,
            children: Vec::new(),
        })
    }

    /// The memory that they share.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Starts a child.
    ///
    /// # Errors
    /// A passing failure: the system grants no more processes.
    pub(crate) fn start(&mut self, role: Role<'_>) -> Result<ChildId, Failure> {
        self.scene.go_on()?;
        let id = ChildId(self.children.len());
        let mut command = self.program.command(role.part.name, &role.name)?;
        let order = Order {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            part: role.part.name.to_owned(),
            name: role.name,
            number: id.0,
            began_us: self.began_us,
            tick_ms: u64::try_from(self.scene.tick().as_millis()).unwrap_or(u64::MAX),
            args: role.args,
        };
        let mut descriptors = vec![self.shared.as_fd()];
        descriptors.extend(role.handed_over);
        let mut begin = || {
            let (lifeline, end) = UnixStream::pair()?;
            send(&lifeline, &order, &descriptors)?;
            let out = if role.is_daemon { Stdio::null() } else { self.ears.mouth()?.into() };
            // A group of its own: what a terminal sends to the command (Ctrl-C) is the parent's to hear.
            let process = command.stdin(Stdio::from(OwnedFd::from(end))).stdout(out).process_group(0).spawn()?;
            Ok((process, lifeline))
        };
        let from_ms = self.scene.now_ms();
        let (mut process, lifeline) = begin().map_err(|error: io::Error| no_more(&error))?;
        let pid = process.id();
        if let Err(error) = open(pid).and_then(|handle| self.reins.take(id.0, handle)) {
            drop(process.kill());
            drop(process.wait());
            return Err(no_more(&error));
        }
        let run = self.scene.began(&order.name, Some(pid), from_ms);
        self.children.push(OneChild {
            process,
            name: order.name,
            pid,
            run,
            lifeline: Some(lifeline),
            is_daemon: role.is_daemon,
            is_condemned: false,
            exit: None,
        });
        Ok(id)
    }

    /// Its process id.
    pub(crate) fn pid(&self, id: ChildId) -> u32 {
        self.children[id.0].pid
    }

    /// The process ids of all, in the order in which they were started.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.children.iter().map(|child| child.pid).collect()
    }

    /// How it ended, if it has, as far as was noticed: its exit code, or the signal that ended it as a negative number.
    pub(crate) fn exit(&self, id: ChildId) -> Option<i32> {
        self.children[id.0].exit
    }

    /// How each has ended, as far as was noticed, in the order in which they were started.
    pub(crate) fn exits(&self) -> Vec<Option<i32>> {
        self.children.iter().map(|child| child.exit).collect()
    }

    /// Whether it is there and has not ended, also where its end was not noticed yet.
    ///
    /// # Errors
    /// Where the system does not say.
    pub(crate) fn is_alive(&self, id: ChildId) -> Result<bool, Failure> {
        let living = self.reins.living();
        let Some((_, handle)) = living.iter().find(|(living, _)| *living == id.0) else { return Ok(false) };
        Ok(!is_ready(&[handle.as_fd()], false).map_err(|error| failed(&error))?[0])
    }

    /// Stops it where it is (SIGSTOP), and waits until it has stopped or ended. Only for a child that has asked the system
    /// to end it with its parent: one that is stopped does not see the end of its lifeline.
    ///
    /// # Errors
    /// Where the system refuses.
    pub(crate) fn hold(&mut self, id: ChildId) -> Result<(), Failure> {
        self.signal(id, Signal::STOP)?;
        let living = self.reins.living();
        let Some((_, handle)) = living.iter().find(|(living, _)| *living == id.0) else { return Ok(()) };
        // Its end is only looked at here: `bury` takes it.
        let until = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::PidFd(handle.as_fd()), until).map_err(|error| failed(&error.into()))?;
        Ok(())
    }

    /// Sends it a signal; one that has ended gets none.
    ///
    /// # Errors
    /// Where the system refuses.
    pub(crate) fn signal(&mut self, id: ChildId, signal: Signal) -> Result<(), Failure> {
        let child = &mut self.children[id.0];
        child.is_condemned |= matches!(signal, Signal::TERM | Signal::KILL);
        self.reins.signal(id.0, signal).map_err(|error| failed(&error))
    }

    /// Ends a turn (word 0 of the shared memory) that is the parent's. Where the first one is, its children begin what they
    /// do in turns when all of them are started.
    ///
    /// # Errors
    /// Where the system refuses to wake them.
    pub(crate) fn end_turn(&self) -> Result<(), Failure> {
        Turns(&self.shared.words()[0]).end().map_err(|error| failed(&error))
    }

    /// Says a message of the item, as the parent.
    ///
    /// # Errors
    /// [`crate::scenario::Stopped`].
    pub(crate) fn say(&self, message: impl Into<String>) -> Result<(), Failure> {
        Ok(self.scene.say_as("main", Some(std::process::id()), message)?)
    }

    /// Waits for the next thing that a child gives; messages that come before it are noted.
    ///
    /// # Errors
    /// [`crate::scenario::Stopped`], or what a child failed with.
    pub(crate) fn next<V: DeserializeOwned>(&mut self) -> Result<(ChildId, V), Failure> {
        loop {
            if let Some((id, value)) = self.given.pop_front() {
                let value = serde_json::from_str(value.get());
                return value
                    .map(|value| (id, value))
                    .map_err(|error| Failure::permanent("children", error.to_string()));
            }
            self.listen()?;
        }
    }

    /// Waits for its end; gives its exit code, or the signal that ended it as a negative number.
    ///
    /// # Errors
    /// [`crate::scenario::Stopped`], or what a child failed with.
    pub(crate) fn join(&mut self, id: ChildId) -> Result<i32, Failure> {
        loop {
            if let Some(exit) = self.exit(id) {
                return Ok(exit);
            }
            self.listen()?;
        }
    }

    /// Waits for the end of all that are no daemons, then ends the daemons.
    ///
    /// # Errors
    /// [`crate::scenario::Stopped`], or what a child failed with.
    pub(crate) fn join_all(&mut self) -> Result<(), Failure> {
        let ids = |children: &Self, daemons: bool| -> Vec<ChildId> {
            (0..children.children.len())
                .map(ChildId)
                .filter(|id| children.children[id.0].is_daemon == daemons)
                .collect()
        };
        for id in ids(self, false) {
            self.join(id)?;
        }
        for id in ids(self, true) {
            self.signal(id, Signal::TERM)?;
            self.join(id)?;
        }
        Ok(())
    }

    /// Waits until a child speaks or ends, and notes it.
    fn listen(&mut self) -> Result<(), Failure> {
        self.scene.go_on()?;
        let living = self.reins.living();
        let mut watched = vec![self.ears.as_fd()];
        watched.extend(living.iter().map(|(_, handle)| handle.as_fd()));
        let is_ready = is_ready(&watched, !living.is_empty()).map_err(|error| failed(&error))?;
        let ended = living.iter().zip(&is_ready[1..]).filter(|(_, is_ready)| **is_ready).map(|((id, _), _)| *id);
        let ended: Vec<usize> = ended.collect();
        if is_ready[0] {
            self.hear()?;
        } else if living.is_empty() {
            return Err(Failure::permanent("children", "all its children have ended, and one is waited for"));
        }
        // All that those said who have ended is in the pipe by now, and comes before their end.
        while !ended.is_empty() && self.ears.are_full().map_err(|error| failed(&error))? {
            self.hear()?;
        }
        // Where the item is stopped that is why they have ended.
        self.scene.go_on()?;
        ended.into_iter().try_for_each(|id| self.bury(id))
    }

    /// Notes the end of a child that has ended.
    fn bury(&mut self, id: usize) -> Result<(), Failure> {
        let child = &mut self.children[id];
        self.reins.let_go(id);
        let status = child.process.wait().map_err(|error| failed(&error))?;
        // An item may have a hundred one after the other, and room for one.
        child.lifeline = None;
        let exit = code(status);
        child.exit = Some(exit);
        self.scene.ends(child.run);
        if exit == 0 || child.is_condemned {
            return Ok(());
        }
        let fault = self.fault.take().map(|fault| format!(": {fault}")).unwrap_or_default();
        Err(Failure::transient("child", format!("its child {} ended by itself with {exit}{fault}", child.name)))
    }

    /// Hears, once, what was said, and notes it.
    fn hear(&mut self) -> Result<(), Failure> {
        for line in self.ears.hear().map_err(|error| failed(&error))? {
            let Some(child) = self.children.get(line.from) else {
                return Err(Failure::permanent("children", format!("child {} speaks, and there is none", line.from)));
            };
            match line.what {
                What::Say(message) => self.scene.heard(&child.name, line.pid, line.at_us as f64 / 1e3, message)?,
                What::Give(value) => self.given.push_back((ChildId(line.from), value)),
                What::Fault(reason) => self.fault = Some(reason),
            }
        }
        Ok(())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.reins.kill_all();
        for child in &mut self.children {
            if child.exit.is_none() {
                // It was killed: this is a moment, and it leaves no zombie.
                drop(child.process.wait());
                self.scene.ends(child.run);
            }
        }
    }
}

/// A handle of the process that is never another's, whatever becomes of the number.
fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no process id"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| -signal)).unwrap_or_default()
}

fn failed(error: &io::Error) -> Failure {
    Failure::permanent("children", error.to_string())
}

fn no_more(error: &io::Error) -> Failure {
    Failure::transient("processes", format!("the system grants no more processes: {error}"))
}
