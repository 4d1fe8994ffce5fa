//! Servers that all test processes of one user share.
//!
//! nextest gives every test a process of its own, so the server belongs to none of them: a watcher starts it and ends
//! it when nobody has held the lock `users` for some seconds.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};

/// A place in the shared server; while one is held, the server lives.
#[derive(Debug)]
pub(crate) struct Seat {
    _users: Flock<File>,
    pub(crate) port: u16,
}

/// Where the state of a kind of server lies.
pub(crate) fn folder(kind: &str) -> PathBuf {
    let user = nix::unistd::Uid::current();
    // Short, for the paths of sockets in it are limited to a hundred bytes or so.
    let folder = std::env::temp_dir().join(format!("tidemill-tests-{user}-{kind}"));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn open(path: &Path) -> File {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).unwrap()
}

fn lock(path: &Path, how: FlockArg) -> Flock<File> {
    Flock::lock(open(path), how).map_err(|(_, error)| error).unwrap()
}

/// Takes a seat, starting the server if it is not there. `script` is shell text that runs the server on `$PORT` with
/// its files in `$DATA` in the foreground; `is_up` says whether it answers.
pub(crate) fn seat(kind: &str, script: &str, is_up: impl Fn(u16) -> bool) -> Seat {
    let folder = folder(kind);
    let _starting = lock(&folder.join("starting"), FlockArg::LockExclusive);
    let users = lock(&folder.join("users"), FlockArg::LockShared);
    let port_file = folder.join("port");
    let running = std::fs::read_to_string(&port_file).ok().and_then(|port| port.trim().parse::<u16>().ok());
    if let Some(port) = running.filter(|port| is_up(*port)) {
        return Seat { _users: users, port };
    }
    let port = crate::free_port();
    let data = folder.join("data");
    drop(std::fs::remove_dir_all(&data));
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(&port_file, port.to_string()).unwrap();
    let log = folder.join("log");
    // The watcher looks every five seconds whether anybody holds `users`, and lets nobody take a seat while it ends it. Of a
    // server that has ended by itself no port is left, where another one may listen by now: unless it is a new server's.
    let watcher = format!(
        "( {script} ) & server=$!
        while sleep 5; do
            if ! kill -0 $server 2>/dev/null; then
                exec 8>\"$FOLDER/starting\"
                flock 8
                [ \"$(cat \"$FOLDER/port\")\" != $PORT ] || rm -f \"$FOLDER/port\"
                exit 0
            fi
            exec 8>\"$FOLDER/starting\" 9>\"$FOLDER/users\"
            if flock -n 8 && flock -n 9; then rm -f \"$FOLDER/port\"; trap '' TERM; kill -TERM 0; wait $server; exit 0; fi
            exec 8>&- 9>&-
        done"
    );
    let watcher = Command::new("sh")
        .args(["-c", &watcher])
        .env("PORT", port.to_string())
        .env("DATA", &data)
        .env("FOLDER", &folder)
        .stdin(Stdio::null())
        .stdout(File::create(&log).unwrap())
        .stderr(File::create(folder.join("errors")).unwrap())
        .process_group(0)
        .spawn();
    // It outlives this process, so nobody here waits for it.
    std::mem::forget(watcher.unwrap());
    crate::wait_until(kind, &log, || is_up(port));
    Seat { _users: users, port }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{Ipv4Addr, TcpStream};
    use std::time::Duration;

    use super::*;
    use crate::{Missing, answers, or_skip, program, unique};

    #[test]
    fn a_server_that_was_shared_ends_after_the_last_who_uses_it() {
        let installed = program("redis-server").ok_or(Missing("redis-server"));
        let Some(_) = or_skip(installed) else { return };
        // Of a kind of its own: nobody else takes a seat in it.
        let kind = unique();
        let script = "exec redis-server --bind 127.0.0.1 --port $PORT --dir $DATA --save ''";
        let seats = [seat(&kind, script, answers), seat(&kind, script, answers)];
        let [port, same] = [0, 1].map(|place: usize| seats[place].port);
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let port_file = folder(&kind).join("port");
        assert!(port == same && port_file.is_file());

        drop(seats);

        // It says nothing of its own accord; its end is the end of the connection.
        assert_eq!(connection.read(&mut [0]).unwrap(), 0, "it ends");
        assert!(!port_file.exists(), "and nobody looks for it there");
        std::fs::remove_dir_all(folder(&kind)).unwrap();
    }
}
