//! What the client library's errors mean to us.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// What an error asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Connect anew and try again.
    Connection,
    /// Try again; the connection is good.
    Server,
    /// Trying again is of no use.
    Refused,
}

impl Trouble {
    pub(super) fn of(error: &RedisError) -> Self {
        match error.kind() {
            ErrorKind::Io
            | ErrorKind::ClusterConnectionNotFound
            | ErrorKind::MasterNameNotFoundBySentinel
            | ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::Moved | ServerErrorKind::MasterDown) => {
                Self::Connection
            }
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::Ask
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::ExecAbort
                | ServerErrorKind::NoScript,
            ) => Self::Server,
            _ if error.is_connection_dropped() || error.is_timeout() => Self::Connection,
            _ => match error.code() {
                Some("OOM" | "MISCONF" | "NOREPLICAS" | "BUSY") => Self::Server,
                _ if says(error, "max number of clients") => Self::Connection,
                _ => Self::Refused,
            },
        }
    }
}

fn says(error: &RedisError, words: &str) -> bool {
    error.detail().is_some_and(|detail| detail.contains(words))
}

/// The error in our words, and what to do on a second line where we know.
pub(super) fn reason(error: &RedisError) -> String {
    let hint = match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => {
            "set store.password, or TIDEMILL__STORE__PASSWORD, to what the server wants (and name the user in store.url where it has users)"
        }
        (_, Some("NOPERM")) => "allow this user the keys and channels of store.prefix, and scripts (ACL SETUSER)",
        (_, Some("OOM")) => {
            "its memory is full: raise maxmemory, or shorten results.ttl; maxmemory-policy is to be noeviction"
        }
        (_, Some("MISCONF")) => {
            "it cannot save to its disk and therefore takes no writes: look at its disk and its log"
        }
        (_, Some("NOREPLICAS")) => "it has fewer replicas than min-replicas-to-write wants",
        (_, Some("READONLY")) => "this is a replica: name the master, or use redis-sentinel://",
        (_, Some("MOVED" | "CROSSSLOT" | "CLUSTERDOWN")) => "for a cluster, store.url begins with redis-cluster://",
        (_, Some("DENIED")) => "it is in protected mode: set a password for it",
        (ErrorKind::Parse, _) => "is there a Redis at this address, and does it want TLS (rediss://)?",
        _ => return words(error),
    };
    format!("{}\n{hint}", words(error))
}

fn words(error: &RedisError) -> String {
    if error.is_timeout() { "it did not answer in time".into() } else { error.to_string() }
}
