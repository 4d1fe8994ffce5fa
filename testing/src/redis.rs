//! Redis.

use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::shared::{self, Seat};
use crate::{Group, Missing, answers, free_port, program, wait_until};

/// A Redis server on this machine.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    life: Life,
}

#[derive(Debug)]
enum Life {
    Shared { _seat: Seat },
    Own { group: Option<Group>, data: tempfile::TempDir },
}

impl Redis {
    /// One that other tests use too: keep to keys with a prefix of your own.
    ///
    /// # Errors
    /// [`Missing`]
    pub fn shared() -> Result<Self, Missing> {
        program("redis-server").ok_or(Missing("redis-server"))?;
        let script = "exec redis-server --bind 127.0.0.1 --port $PORT --dir $DATA --save '' --appendonly no";
        let seat = shared::seat("redis", script, answers);
        Ok(Self { port: seat.port, life: Life::Shared { _seat: seat } })
    }

    /// One of its own, with an append-only file that is written at every change: it may be killed and started again.
    ///
    /// # Errors
    /// [`Missing`]
    pub fn own() -> Result<Self, Missing> {
        program("redis-server").ok_or(Missing("redis-server"))?;
        let data = tempfile::tempdir().unwrap();
        let mut redis = Self { port: free_port(), life: Life::Own { group: None, data } };
        redis.start();
        Ok(redis)
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills it with SIGKILL.
    ///
    /// # Panics
    /// For a shared one.
    pub fn kill(&mut self) {
        let Life::Own { group, .. } = &mut self.life else { panic!("others use it") };
        drop(group.take());
    }

    /// Stops (SIGSTOP) or goes on (SIGCONT).
    ///
    /// # Panics
    /// For a shared one.
    pub fn signal(&mut self, signal: Signal) {
        let Life::Own { group, .. } = &mut self.life else { panic!("others use it") };
        group.as_mut().unwrap().signal(signal);
    }

    /// Starts it (again), with what it had written, and waits until it answers.
    ///
    /// # Panics
    /// For a shared one.
    pub fn start(&mut self) {
        let port = self.port;
        let Life::Own { group, data } = &mut self.life else { panic!("others use it") };
        *group = Some(start(port, data.path()));
    }
}

fn start(port: u16, data: &Path) -> Group {
    let log = data.join("log");
    let group = Group::start(
        Command::new(program("redis-server").unwrap())
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "always", "--dir"])
            .arg(data)
            .arg("--logfile")
            .arg(&log)
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )
    .unwrap();
    // It listens while it still loads, and answers with an error until it has.
    wait_until("redis", &log, || answers(port) && is_loaded(port));
    group
}

fn is_loaded(port: u16) -> bool {
    use std::io::{Read as _, Write as _};
    let Ok(mut socket) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut answer = [0; 7];
    socket.write_all(b"PING\r\n").is_ok() && socket.read_exact(&mut answer).is_ok() && &answer == b"+PONG\r\n"
}
