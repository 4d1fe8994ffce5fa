//! What the client library's errors mean to us.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// What an error asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Connect anew and try again.
    Connection,
    /// Try again; the connection is good.
    Server,
    /// The same, and it can be read from: it has no room, or may not write.
    Full,
    /// Trying again is of no use, and neither is anything else that is asked of it.
    Refused,
    /// Trying again is of no use: what is held there is not ours.
    Broken,
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
            _ => {
                let Answer { code, detail } = Answer::of(error);
                match &*code {
                    "OOM" | "MISCONF" | "NOREPLICAS" => Self::Full,
                    "BUSY" => Self::Server,
                    "WRONGTYPE" => Self::Broken,
                    _ if detail.contains("max number of clients") => Self::Connection,
                    // The batch's slot moves to another node of the cluster just now.
                    _ if detail.contains("non local key") => Self::Server,
                    // A line of ours met what it cannot work with.
                    "ERR" if detail.contains("user_script") => Self::Broken,
                    _ => Self::Refused,
                }
            }
        }
    }
}

/// What the server has answered, to the first command of a pipeline that it would not do; empty where it was no answer.
#[derive(Default)]
struct Answer {
    code: String,
    detail: String,
}

impl Answer {
    fn of(error: &RedisError) -> Self {
        let errors = error.clone().into_server_errors();
        let Some((_, error)) = errors.as_deref().and_then(<[_]>::first) else { return Self::default() };
        Self { code: error.code().to_owned(), detail: error.details().unwrap_or_default().to_owned() }
    }
}

/// The error in our words, and what to do on a second line where we know.
pub(super) fn reason(error: &RedisError) -> String {
    let hint = match (error.kind(), &*Answer::of(error).code) {
        (ErrorKind::AuthenticationFailed, _) | (_, "NOAUTH" | "WRONGPASS") => {
            "set store.password, or TIDEMILL__STORE__PASSWORD, to what the server wants (and name the user in store.url where it has users)"
        }
        (_, "NOPERM") => "allow this user the keys and channels of store.prefix, and scripts (ACL SETUSER)",
        (_, "OOM") => {
            "its memory is full: raise maxmemory, or shorten results.ttl; maxmemory-policy is to be noeviction"
        }
        (_, "MISCONF") => "it cannot save to its disk and therefore takes no writes: look at its disk and its log",
        (_, "NOREPLICAS") => "it has fewer replicas than min-replicas-to-write wants",
        (_, "READONLY") => "this is a replica: name the master, or use redis-sentinel://",
        (_, "MOVED" | "CROSSSLOT" | "CLUSTERDOWN") => "for a cluster, store.url begins with redis-cluster://",
        (_, "DENIED") => "it is in protected mode: set a password for it",
        (ErrorKind::Parse, _) => "is there a Redis at this address, and does it want TLS (rediss://)?",
        _ => return words(error),
    };
    format!("{}\n{hint}", words(error))
}

fn words(error: &RedisError) -> String {
    if error.is_timeout() { "it did not answer in time".into() } else { error.to_string() }
}
