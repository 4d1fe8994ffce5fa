//! Real servers for tests: RabbitMQ and Redis, started from what is installed, on free ports of this machine.
//!
//! [`Rabbit::shared`] and [`Redis::shared`] give a server that all test processes of a run share (starting RabbitMQ
//! costs seconds); each test works under a prefix of its own, [`unique`]. `own` gives one that a test may kill. All end
//! by themselves: an own one with its value, and with the process that has it, however that ends; a shared one some seconds
//! after the last test that uses it.
//!
//! Where a server is not installed the test is skipped and says so; with `CI` or `REQUIRE_SERVICES` set it fails.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests, whatever cargo calls them")]

mod certificates;
mod rabbitmq;
mod redis;
mod shared;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, PipeWriter};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::killpg;
use nix::unistd::Pid;

pub use certificates::Certificates;
pub use nix::sys::signal::Signal;
pub use rabbitmq::Rabbit;
pub use redis::{Redis, Sentinel};

/// Ends the test as skipped where a server is not installed: `let Some(redis) = tidemill_testing::or_skip(Redis::shared()) else { return };`
///
/// # Panics
/// In CI, where a skipped test is a failed one.
pub fn or_skip<T>(server: Result<T, Missing>) -> Option<T> {
    match server {
        Ok(server) => Some(server),
        Err(missing) => {
            skip(&missing);
            None
        }
    }
}

/// Says that a test is skipped, and why.
///
/// # Panics
/// In CI, where a skipped test is a failed one.
pub fn skip(why: &dyn std::fmt::Display) {
    assert!(std::env::var_os("CI").is_none() && std::env::var_os("REQUIRE_SERVICES").is_none(), "{why}");
    eprintln!("ignored: {why}");
}

/// A server that is not installed.
#[derive(Debug)]
pub struct Missing(pub &'static str);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is not installed (`make setup` installs it)", self.0)
    }
}

/// A name that no other test uses.
pub fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The program of that name, in the places where servers are put.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// A port that nobody listens on now and that is this process's until it ends, below those that the system gives to
/// outgoing connections.
///
/// # Panics
/// Where none can be had.
pub fn free_port() -> u16 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    let mut seed = std::process::id().wrapping_mul(2_654_435_761) ^ now.subsec_nanos();
    for _ in 0..100_000 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // RabbitMQ takes two more ports, 5,000 and 10,000 above.
        let port = 10_000 + u16::try_from((seed >> 8) % 5_000).unwrap();
        let Some(lock) = claim(port) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            // Open, and so locked, until the process ends.
            std::mem::forget(lock);
            return port;
        }
    }
    panic!("no port can be had; their locks are in {}", shared::folder("ports").display());
}

/// A port's lock, where nobody has it: all test processes choose from one range, and a server binds its port only
/// later. The files stay behind, all empty: were one removed, two processes could each hold a lock of that name.
fn claim(port: u16) -> Option<File> {
    // A file that cannot be opened may be another user's: that port is left alone.
    let file = File::options().create(true).append(true).open(shared::folder("ports").join(port.to_string())).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

/// Waits until `is_up` says so, for as long as a server may take to start on a busy machine.
fn wait_until(what: &str, log: &Path, mut is_up: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_up() {
        if started.elapsed() > Duration::from_secs(120) {
            panic!("{what} did not start; its log:\n{}", std::fs::read_to_string(log).unwrap_or_default());
        }
        pause();
    }
}

/// A moment between two looks at something that another process does.
fn pause() {
    #[expect(clippy::disallowed_methods, reason = "a server has no other way to say that it is up")]
    std::thread::sleep(Duration::from_millis(20));
}

fn answers(port: u16) -> bool {
    TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), Duration::from_millis(500)).is_ok()
}

/// A server that ends with this value: a process group of its own, so that nothing of it is left.
#[derive(Debug)]
struct Group {
    leader: Child,
    /// Nobody else has this end: a test that is killed drops nothing, but the system closes it.
    _alive: PipeWriter,
}

/// Becomes the program that stands behind it; beside that somebody waits for the end of the pipe at standard input, and then
/// ends the whole group. A group that is stopped when nobody has it any more is sent SIGHUP, and goes on.
const GUARDED: &str = "\
    exec 3<&0 </dev/null
    ( trap '' HUP; read -r end <&3; kill -KILL 0 ) &
    exec \"$@\" 3<&-";

impl Group {
    /// A command for [`Group::start`].
    fn command(program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", GUARDED, "sh"]).arg(program);
        command
    }

    fn start(command: &mut Command) -> io::Result<Self> {
        std::os::unix::process::CommandExt::process_group(command, 0);
        let (end, alive) = io::pipe()?;
        let leader = command.stdin(Stdio::from(end)).spawn()?;
        Ok(Self { leader, _alive: alive })
    }

    fn signal(&mut self, signal: Signal) {
        let group = Pid::from_raw(i32::try_from(self.leader.id()).unwrap());
        // An error means that it has ended.
        killpg(group, signal).unwrap_or_default();
    }

    fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        drop(self.leader.wait());
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
