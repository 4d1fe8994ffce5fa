//! Redis.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::shared::{self, Seat};
use crate::{Certificates, Group, Missing, answers, free_port, program, wait_until};

/// A Redis server on this machine.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    life: Life,
}

#[derive(Debug)]
enum Life {
    Shared { _seat: Seat },
    Own { group: Option<Group>, data: tempfile::TempDir, options: Vec<String> },
}

impl Redis {
    /// One that other tests use too: keep to keys with a prefix of your own.
    ///
    /// # Errors
    /// [`Missing`]
    pub fn shared() -> Result<Self, Missing> {
        program("redis-server").ok_or(Missing("redis-server"))?;
        let script = "exec redis-server --bind 127.0.0.1 --port $PORT --dir $DATA --save '' --appendonly no";
        let seat = shared::seat("redis", script, is_loaded);
        Ok(Self { port: seat.port, life: Life::Shared { _seat: seat } })
    }

    /// A cluster of one node that other tests use too: keep to keys with a prefix of your own.
    ///
    /// # Errors
    /// [`Missing`]
    pub fn shared_cluster() -> Result<Self, Missing> {
        program("redis-server").ok_or(Missing("redis-server"))?;
        program("redis-cli").ok_or(Missing("redis-cli"))?;
        let script = "( until redis-cli -p $PORT cluster addslotsrange 0 16383 | grep -q OK; do sleep 0.1; done ) & \
            exec redis-server --bind 127.0.0.1 --port $PORT --dir $DATA --save '' --appendonly no --cluster-enabled yes";
        let seat = shared::seat("redis-cluster", script, is_whole_cluster);
        Ok(Self { port: seat.port, life: Life::Shared { _seat: seat } })
    }

    /// A Sentinel that other tests use too, which watches one server under the name `mill`: keep to keys with a prefix of
    /// your own. The address is the Sentinel's.
    ///
    /// # Errors
    /// [`Missing`]
    pub fn shared_sentinel() -> Result<Self, Missing> {
        program("redis-server").ok_or(Missing("redis-server"))?;
        let script = "redis-server --bind 127.0.0.1 --port $((PORT + 5000)) --dir $DATA --save '' --appendonly no & \
            printf 'port %s\\nbind 127.0.0.1\\ndir %s\\nsentinel monitor mill 127.0.0.1 %s 1\\n' \
                $PORT $DATA $((PORT + 5000)) > $DATA/sentinel.conf; \
            exec redis-server $DATA/sentinel.conf --sentinel";
        let seat = shared::seat("redis-sentinel", script, |port| is_loaded(port) && is_loaded(port + 5000));
        Ok(Self { port: seat.port, life: Life::Shared { _seat: seat } })
    }

    /// One of its own, with an append-only file that is written at every change: it may be killed and started again.
    ///
    /// # Errors
    /// [`Missing`]
    pub fn own() -> Result<Self, Missing> {
        program("redis-server").ok_or(Missing("redis-server"))?;
        Ok(Self::with(Vec::new()))
    }

    /// One of its own that speaks TLS besides, at the port that is given with it.
    ///
    /// # Errors
    /// [`Missing`]
    pub fn own_with_tls(certificates: &Certificates) -> Result<(Self, u16), Missing> {
        program("redis-server").ok_or(Missing("redis-server"))?;
        let port = free_port();
        let (authority, certificate, key) = (certificates.authority(), certificates.certificate(), certificates.key());
        let options = [
            ("--tls-port", port.to_string()),
            ("--tls-ca-cert-file", authority.display().to_string()),
            ("--tls-cert-file", certificate.display().to_string()),
            ("--tls-key-file", key.display().to_string()),
            ("--tls-auth-clients", "no".to_owned()),
        ];
        let options = options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
        Ok((Self::with(options), port))
    }

    /// A cluster of two nodes of its own. All slots lie on the first.
    ///
    /// # Errors
    /// [`Missing`]
    pub fn own_cluster() -> Result<[Self; 2], Missing> {
        program("redis-server").ok_or(Missing("redis-server"))?;
        program("redis-cli").ok_or(Missing("redis-cli"))?;
        let buses = [free_port(), free_port()];
        let nodes = buses.map(|bus| {
            Self::with(["--cluster-enabled", "yes", "--cluster-port", &bus.to_string()].map(str::to_owned).into())
        });
        nodes[0].cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
        nodes[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &nodes[1].port.to_string(), &buses[1].to_string()]);
        for node in &nodes {
            let is_whole = |info: &str| info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2");
            wait_until("redis-cluster", &node.log(), || is_whole(&node.cli(&["CLUSTER", "INFO"])));
        }
        Ok(nodes)
    }

    fn with(options: Vec<String>) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut redis = Self { port: free_port(), life: Life::Own { group: None, data, options } };
        redis.start();
        redis
    }

    /// What `redis-cli` prints for a command.
    ///
    /// # Panics
    /// Where there is no `redis-cli`.
    pub fn cli(&self, command: &[&str]) -> String {
        let mut cli = Command::new(program("redis-cli").unwrap());
        let output = cli.args(["-p", &self.port.to_string()]).args(command).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    fn log(&self) -> PathBuf {
        let Life::Own { data, .. } = &self.life else { panic!("others use it") };
        data.path().join("log")
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
        let Life::Own { group, data, options } = &mut self.life else { panic!("others use it") };
        *group = Some(start(port, data.path(), options));
    }
}

fn start(port: u16, data: &Path, options: &[String]) -> Group {
    let log = data.join("log");
    let group = Group::start(
        Group::command(program("redis-server").unwrap())
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", "always", "--dir"])
            .arg(data)
            .arg("--logfile")
            .arg(&log)
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )
    .unwrap();
    // It listens while it still loads, and answers with an error until it has.
    wait_until("redis", &log, || answers(port) && is_loaded(port));
    group
}

fn is_loaded(port: u16) -> bool {
    says(port, "PING", "+PONG\r\n")
}

fn is_whole_cluster(port: u16) -> bool {
    says(port, "CLUSTER INFO", "cluster_state:ok")
}

/// Whether the beginning of its answer has that in it.
fn says(port: u16, command: &str, answer: &str) -> bool {
    use std::io::{Read as _, Write as _};
    let Ok(mut socket) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut heard = [0; 64];
    let asked = socket.write_all(format!("{command}\r\n").as_bytes());
    asked.is_ok()
        && socket.set_read_timeout(Some(std::time::Duration::from_secs(2))).is_ok()
        && socket.read(&mut heard).is_ok_and(|length| String::from_utf8_lossy(&heard[..length]).contains(answer))
}

/// A Sentinel that watches one server, under the name `mill`.
#[derive(Debug)]
pub struct Sentinel {
    port: u16,
    _group: Group,
    _data: tempfile::TempDir,
}

impl Sentinel {
    /// Starts one.
    ///
    /// # Errors
    /// [`Missing`]
    pub fn of(server: &Redis) -> Result<Self, Missing> {
        let program = program("redis-server").ok_or(Missing("redis-server"))?;
        let (data, port) = (tempfile::tempdir().unwrap(), free_port());
        let (settings, log) = (data.path().join("sentinel.conf"), data.path().join("log"));
        let watched = server.port;
        let text = format!("port {port}\nbind 127.0.0.1\nsentinel monitor mill 127.0.0.1 {watched} 1\n");
        std::fs::write(&settings, text).unwrap();
        let group = Group::start(
            Group::command(program)
                .arg(settings)
                .arg("--sentinel")
                .arg("--logfile")
                .arg(&log)
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        )
        .unwrap();
        wait_until("redis-sentinel", &log, || is_loaded(port));
        Ok(Self { port, _group: group, _data: data })
    }

    /// The address of what it watches.
    pub fn url(&self) -> String {
        format!("redis-sentinel://127.0.0.1:{}/mill", self.port)
    }
}
