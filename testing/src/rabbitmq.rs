//! RabbitMQ.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::shared::{self, Seat};
use crate::{Certificates, Group, Missing, answers, free_port, program, wait_until};

/// A RabbitMQ node on this machine.
#[derive(Debug)]
pub struct Rabbit {
    port: u16,
    home: PathBuf,
    life: Life,
}

#[derive(Debug)]
enum Life {
    Shared { _seat: Seat },
    Own { group: Option<Group>, _data: tempfile::TempDir },
}

/// Runs a node in the foreground; `$PORT` and `$DATA` are set, and `more.conf` there is added to its settings. No plugins:
/// the protocol is all that is tested. Its own Erlang port mapper, so that nothing of it outlives it. Messages that are too
/// large for us are not, on RabbitMQ 4 either, too large for it.
const SCRIPT: &str = "\
    export HOME=$DATA RABBITMQ_NODENAME=tidemill-$PORT@localhost RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT=$PORT \
        RABBITMQ_DIST_PORT=$((PORT + 5000)) ERL_EPMD_PORT=$((PORT + 10000)) ERL_EPMD_ADDRESS=127.0.0.1 \
        RABBITMQ_MNESIA_BASE=$DATA/mnesia RABBITMQ_LOG_BASE=$DATA/log RABBITMQ_ENABLED_PLUGINS_FILE=$DATA/plugins \
        RABBITMQ_PID_FILE=$DATA/pid RABBITMQ_CONFIG_FILE=$DATA/rabbitmq.conf RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='+S 2:2 +sbwt none'
    echo '[].' > $DATA/plugins
    printf 'log.file.level = warning\\nvm_memory_high_watermark.absolute = 2GB\\ndisk_free_limit.absolute = 50MB\\nmax_message_size = 33554432\\n' > $DATA/rabbitmq.conf
    [ ! -f $DATA/more.conf ] || cat $DATA/more.conf >> $DATA/rabbitmq.conf
    epmd -port $ERL_EPMD_PORT -address 127.0.0.1 >/dev/null 2>&1 &
    exec $SERVER";

impl Rabbit {
    /// One that other tests use too: keep to a prefix of your own.
    ///
    /// # Errors
    /// [`Missing`]
    pub fn shared() -> Result<Self, Missing> {
        let server = server().ok_or(Missing("rabbitmq-server"))?;
        let seat = shared::seat("rabbitmq", &SCRIPT.replace("$SERVER", &server.to_string_lossy()), speaks_amqp);
        Ok(Self { port: seat.port, home: shared::folder("rabbitmq").join("data"), life: Life::Shared { _seat: seat } })
    }

    /// One of its own: it may be killed and started again.
    ///
    /// # Errors
    /// [`Missing`]
    pub fn own() -> Result<Self, Missing> {
        Self::with("")
    }

    /// One of its own that speaks TLS besides, at the port that is given with it.
    ///
    /// # Errors
    /// [`Missing`]
    pub fn own_with_tls(certificates: &Certificates) -> Result<(Self, u16), Missing> {
        let port = free_port();
        let (authority, certificate, key) = (certificates.authority(), certificates.certificate(), certificates.key());
        let more = format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\n\
             ssl_options.cacertfile = {}\n\
             ssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\n\
             ssl_options.verify = verify_none\n\
             ssl_options.fail_if_no_peer_cert = false\n",
            authority.display(),
            certificate.display(),
            key.display(),
        );
        let rabbit = Self::with(&more)?;
        wait_until("rabbitmq's TLS", &rabbit.home.join("output"), || answers(port));
        Ok((rabbit, port))
    }

    fn with(more: &str) -> Result<Self, Missing> {
        server().ok_or(Missing("rabbitmq-server"))?;
        let data = tempfile::tempdir().unwrap();
        let home = data.path().to_owned();
        std::fs::write(home.join("more.conf"), more).unwrap();
        let mut rabbit = Self { port: free_port(), home, life: Life::Own { group: None, _data: data } };
        rabbit.start();
        Ok(rabbit)
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.port)
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
        let Life::Own { group, .. } = &mut self.life else { panic!("others use it") };
        *group = Some(start(self.port, &self.home));
    }

    /// Runs `rabbitmqctl` on it; gives what it printed.
    pub fn control(&self, arguments: &[&str]) -> String {
        let done = Command::new(server().unwrap().with_file_name("rabbitmqctl"))
            .args(["-q", "-n", &format!("tidemill-{}@localhost", self.port)])
            .args(arguments)
            .env("HOME", &self.home)
            .env("ERL_EPMD_PORT", (self.port + 10_000).to_string())
            .output()
            .unwrap();
        assert!(done.status.success(), "rabbitmqctl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }
}

/// Debian's `rabbitmq-server` in the path becomes the user `rabbitmq` and drops the environment; this is the real one.
fn server() -> Option<PathBuf> {
    let real = PathBuf::from("/usr/lib/rabbitmq/bin/rabbitmq-server");
    if real.is_file() { Some(real) } else { program("rabbitmq-server") }
}

fn start(port: u16, data: &Path) -> Group {
    let log = data.join("output");
    let group = Group::start(
        Group::command("sh")
            .args(["-c", SCRIPT])
            .env("PORT", port.to_string())
            .env("DATA", data)
            .env("SERVER", server().unwrap())
            .stdout(std::fs::File::create(&log).unwrap())
            .stderr(Stdio::null()),
    )
    .unwrap();
    wait_until("rabbitmq", &log, || speaks_amqp(port));
    group
}

/// It listens before it is ready; then it greets whoever speaks its protocol.
fn speaks_amqp(port: u16) -> bool {
    use std::io::{Read as _, Write as _};
    if !answers(port) {
        return false;
    }
    let Ok(mut socket) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut greeting = [0; 1];
    socket.set_read_timeout(Some(std::time::Duration::from_secs(2))).is_ok()
        && socket.write_all(b"AMQP\x00\x00\x09\x01").is_ok()
        && socket.read_exact(&mut greeting).is_ok()
        && greeting == [1]
}
