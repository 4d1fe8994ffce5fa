//! A cluster of real processes and real servers on this machine, for tests that harm it.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod proxy;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::resource::Resource;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tidemill_testing::{Rabbit, Redis, free_port, or_skip};

use self::proxy::Proxy;

/// How long anything may take before a test says that it never came: half of what `.config/nextest.toml` gives it in all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// Set for a role, it limits its memory to so many bytes.
pub(crate) const LIMIT_MEMORY: &str = "TIDEMILL_TEST_LIMIT_MEMORY";

/// Broker, store, and how our processes find them. All end with it.
pub(crate) struct Cluster {
    pub(crate) rabbit: Rabbit,
    pub(crate) redis: Redis,
    /// Our processes speak to the servers through these, so that connections can be cut.
    pub(crate) to_rabbit: Proxy,
    pub(crate) to_redis: Proxy,
    pub(crate) api_port: u16,
    more: Vec<(String, String)>,
}

/// One of our processes; killed with it.
pub(crate) struct Role {
    child: Child,
    arguments: Vec<String>,
    env: Vec<(String, String)>,
    /// What it reads at standard input, from the first line on each time that it starts.
    inputs: Option<Inputs>,
}

/// Lines that a role reads, as far as they are let go. Cheap to clone; clones share.
#[derive(Clone)]
pub(crate) struct Inputs {
    lines: Arc<[String]>,
    let_go: Arc<(Mutex<usize>, Condvar)>,
}

impl Cluster {
    /// Servers of its own, and no process of ours yet. `None` where they are not installed.
    pub(crate) fn start() -> Option<Self> {
        let rabbit = or_skip(Rabbit::own())?;
        let redis = or_skip(Redis::own())?;
        Some(Self::of(rabbit, redis))
    }

    /// These servers, and no process of ours yet.
    pub(crate) fn of(rabbit: Rabbit, redis: Redis) -> Self {
        let (to_rabbit, to_redis) = (Proxy::to(rabbit.port()), Proxy::to(redis.port()));
        Self { rabbit, redis, to_rabbit, to_redis, api_port: free_port(), more: Vec::new() }
    }

    /// Sets a setting for every process that is started from now on.
    #[must_use]
    pub(crate) fn with(mut self, key: &str, value: &str) -> Self {
        self.more.push((key.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEMILL")) {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .env("TIDEMILL__BROKER__URL", format!("amqp://127.0.0.1:{}", self.to_rabbit.port()))
            .env("TIDEMILL__STORE__URL", format!("redis://127.0.0.1:{}", self.to_redis.port()))
            .env("TIDEMILL__API__URL", format!("http://127.0.0.1:{}", self.api_port))
            .env("TIDEMILL__API__LISTEN", format!("127.0.0.1:{}", self.api_port))
            .env("TIDEMILL_TEST_MISCHIEF", "1")
            .env("TIDEMILL__WORKER__THREADS", "1")
            .env("TIDEMILL__WORKER__HEARTBEAT", "500ms")
            .envs(self.more.iter().map(|(key, value)| (key, value)))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn role(&self, arguments: &[&str], env: &[(&str, &str)]) -> Role {
        self.role_fed(arguments, env, None)
    }

    /// A role that reads these lines.
    pub(crate) fn fed(&self, arguments: &[&str], inputs: &Inputs) -> Role {
        self.role_fed(arguments, &[], Some(inputs.clone()))
    }

    fn role_fed(&self, arguments: &[&str], env: &[(&str, &str)], inputs: Option<Inputs>) -> Role {
        let owned = |text: &&str| (*text).to_owned();
        let mut role = Role {
            child: self.command(&["--version"]).stdout(Stdio::null()).spawn().unwrap(),
            arguments: arguments.iter().map(owned).collect(),
            env: env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            inputs,
        };
        role.start(self);
        role
    }

    pub(crate) fn worker(&self) -> Role {
        self.role(&["worker"], &[])
    }

    pub(crate) fn api(&self) -> Role {
        self.role(&["results-api"], &[])
    }

    /// A second results API, whose HTTP nobody asks.
    pub(crate) fn second_api(&self) -> Role {
        let listen = format!("127.0.0.1:{}", free_port());
        self.role(&["results-api"], &[("TIDEMILL__API__LISTEN", &listen)])
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command until it succeeds: a server may be away, or the batch not known yet.
    pub(crate) fn until_ok(&self, arguments: &[&str]) -> String {
        let started = Instant::now();
        loop {
            let output = self.run(arguments);
            if output.status.success() {
                return String::from_utf8(output.stdout).unwrap();
            }
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(started.elapsed() < PATIENCE, "{arguments:?} never succeeds: {said}");
            breathe();
        }
    }

    /// Every outcome of a batch, in input order, once it is complete.
    pub(crate) fn outcomes(&self, batch: &str) -> Vec<Value> {
        // Accepted by the broker, it is known to the API once a collector has come to it.
        self.until_ok(&["status", batch]);
        let mut child = self
            .command(&["results", batch, "--follow", "--format", "ndjson", "-q"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let outcomes = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        let status = child.wait().unwrap();
        assert!(matches!(status.code(), Some(0 | 5)), "{status}");
        outcomes
    }

    /// The oracle: a batch's books balance, its stream has every item once and in order, and a fresh batch gets through.
    /// Gives the outcomes.
    pub(crate) fn must_be_sound(&self, batch: &str, total: u64) -> Vec<Value> {
        let outcomes = self.outcomes(batch);
        let indices: Vec<u64> = outcomes.iter().map(|outcome| outcome["index"].as_u64().unwrap()).collect();
        assert_eq!(indices.len() as u64, total, "one outcome an item");
        assert!(indices.iter().copied().eq(0..total), "in input order");
        let verified = self.run(&["verify", batch]);
        let said = String::from_utf8_lossy(&verified.stdout).into_owned() + &String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success(), "{said}");
        let fresh = self.until_ok(&["submit", "compute.map", "--range", "0..100", "-o", "expr=x+1", "--wait", "-q"]);
        assert_eq!(fresh.lines().count(), 100, "a fresh batch gets through");
        outcomes
    }
}

impl Role {
    /// Starts it (again).
    pub(crate) fn start(&mut self, cluster: &Cluster) {
        drop(self.child.wait());
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let env = self.env.iter().map(|(key, value)| (key, value));
        let mut command = cluster.command(&arguments);
        if std::env::var_os("TIDEMILL_SHOW").is_none() {
            command.stderr(Stdio::null());
        }
        if let Some((_, bytes)) = self.env.iter().find(|(key, _)| key == LIMIT_MEMORY) {
            let bytes: u64 = bytes.parse().unwrap();
            let limit = move || nix::sys::resource::setrlimit(Resource::RLIMIT_AS, bytes, bytes).map_err(Into::into);
            // SAFETY: setrlimit is async-signal-safe.
            #[expect(unsafe_code, reason = "a limit of the child alone can be set in no other way")]
            unsafe {
                std::os::unix::process::CommandExt::pre_exec(&mut command, limit);
            }
        }
        if self.inputs.is_some() {
            command.stdin(Stdio::piped());
        }
        self.child = command.envs(env).stdout(Stdio::null()).spawn().unwrap();
        if let (Some(inputs), Some(stdin)) = (&self.inputs, self.child.stdin.take()) {
            inputs.feed(stdin);
        }
    }

    /// Forgets what was set for it alone, for its next start.
    pub(crate) fn forget_env(&mut self) {
        self.env.clear();
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The memory that it has in use.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        let started = Instant::now();
        while self.is_running() {
            assert!(started.elapsed() < PATIENCE, "it never ends");
            breathe();
        }
        self.child.wait().unwrap()
    }
}

impl Inputs {
    /// None of them is let go yet.
    pub(crate) fn new(lines: impl Iterator<Item = String>) -> Self {
        Self { lines: lines.map(|line| line + "\n").collect(), let_go: Arc::default() }
    }

    /// Lets go of the first so many, in all. All of them together are the end of it.
    pub(crate) fn let_go(&self, lines: usize) {
        let (let_go, changed) = &*self.let_go;
        *let_go.lock().unwrap() = lines;
        changed.notify_all();
    }

    /// Whether some are still held back: whoever reads them has not come to their end.
    pub(crate) fn are_held(&self) -> bool {
        *self.let_go.0.lock().unwrap() < self.lines.len()
    }

    /// All of them, for a file.
    pub(crate) fn text(&self) -> String {
        self.lines.concat()
    }

    fn feed(&self, mut reader: ChildStdin) {
        let Self { lines, let_go } = self.clone();
        std::thread::spawn(move || {
            let (let_go, changed) = &*let_go;
            let mut given = 0;
            while given < lines.len() {
                let until = *changed.wait_while(let_go.lock().unwrap(), |let_go| *let_go <= given).unwrap();
                // Whoever was killed reads no more.
                let Ok(()) = reader.write_all(lines[given..until].concat().as_bytes()) else { return };
                given = until;
            }
        });
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A moment between two looks at something that other processes do.
pub(crate) fn breathe() {
    #[expect(clippy::disallowed_methods, reason = "other processes have no way to wake this one")]
    std::thread::sleep(Duration::from_millis(20));
}

/// Statuses of outcomes, counted.
pub(crate) fn count(outcomes: &[Value], status: &str) -> usize {
    outcomes.iter().filter(|outcome| outcome["status"] == status).count()
}
