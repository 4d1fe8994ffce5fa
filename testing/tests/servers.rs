//! The servers start, answer, are shared, and end.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use tidemill_testing::{Rabbit, Redis, or_skip};

#[test]
fn a_server_is_shared_and_another_is_ones_own() {
    let Some(one) = or_skip(Redis::shared()) else { return };
    let Some(two) = or_skip(Redis::shared()) else { return };
    assert_eq!(one.port(), two.port());
    let Some(mut own) = or_skip(Redis::own()) else { return };
    assert_ne!(own.port(), one.port());
    own.kill();
    own.start();
}

#[test]
fn a_broker_can_be_killed_and_started_again() {
    let Some(mut rabbit) = or_skip(Rabbit::own()) else { return };
    assert!(rabbit.control(&["list_queues", "name"]).len() < 10);
    rabbit.kill();
    rabbit.start();
}

/// Set for a test process that starts a server and is killed.
const KILLED: &str = "TIDEMILL_TEST_KILLED";

#[test]
fn a_server_ends_with_a_test_that_is_killed() {
    if std::env::var_os(KILLED).is_some() {
        let redis = Redis::own().unwrap();
        println!("port {}", redis.port());
        // Until it is killed, or nobody is there who would.
        drop(std::io::stdin().read(&mut [0]));
        return;
    }
    let Some(_) = or_skip(Redis::shared()) else { return };
    let mut test = Command::new(std::env::current_exe().unwrap())
        .args(["a_server_ends_with_a_test_that_is_killed", "--exact", "--nocapture"])
        .env(KILLED, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(test.stdout.take().unwrap()).lines().map(Result::unwrap);
    let port = said.find_map(|line| line.split("port ").nth(1).map(str::to_owned)).unwrap().parse::<u16>().unwrap();
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(60))).unwrap();

    test.kill().unwrap();
    test.wait().unwrap();

    // Its end is the end of the connection: the server's own, or a reset.
    let ended = connection.read(&mut [0]);
    assert!(matches!(&ended, Ok(0)) || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
}
