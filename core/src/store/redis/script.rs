//! The scripts: each change of a batch is one.

use std::sync::LazyLock;

use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, ToRedisArgs};

use super::connect::Connection;

/// A script and the name under which Redis remembers it.
#[derive(Debug)]
pub(super) struct Script {
    source: &'static str,
    digest: LazyLock<String>,
}

macro_rules! script {
    ($name:ident, $file:literal) => {
        pub(super) static $name: Script = {
            const SOURCE: &str = concat!(include_str!("scripts/common.lua"), include_str!($file));
            Script { source: SOURCE, digest: LazyLock::new(|| redis::Script::new(SOURCE).get_hash().to_owned()) }
        };
    };
}

script!(OPEN, "scripts/open.lua");
script!(SEAL, "scripts/seal.lua");
script!(CANCEL, "scripts/cancel.lua");
script!(ACCEPT, "scripts/accept.lua");
script!(RECORD, "scripts/record.lua");
script!(ALONE, "scripts/alone.lua");
script!(REVIVE, "scripts/revive.lua");
script!(FORGET, "scripts/forget.lua");
script!(RELEASE, "scripts/release.lua");
script!(ABANDON, "scripts/abandon.lua");
script!(CLOSE, "scripts/close.lua");

/// A script with what it is called with.
#[derive(Debug)]
pub(super) struct Call {
    script: &'static Script,
    command: Cmd,
}

impl Call {
    /// Of a script on these keys; the first is a batch's hash. The script makes the names itself: a cluster is told of them,
    /// so that it runs nothing while some of them are on their way from one node to another.
    pub(super) fn new(script: &'static Script, keys: &[String]) -> Self {
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.digest.as_str()).arg(keys.len()).arg(keys);
        Self { script, command }
    }

    pub(super) fn arg(mut self, arg: impl ToRedisArgs) -> Self {
        self.push(arg);
        self
    }

    pub(super) fn push(&mut self, arg: impl ToRedisArgs) {
        self.command.arg(arg);
    }

    /// Calls it, and teaches it to a server that does not know it (any more).
    pub(super) async fn send<T: FromRedisValue>(&self, mut connection: Connection) -> RedisResult<T> {
        match self.command.query_async(&mut connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let _: redis::Value =
                    redis::cmd("SCRIPT").arg("LOAD").arg(self.script.source).query_async(&mut connection).await?;
                self.command.query_async(&mut connection).await
            }
            answer => answer,
        }
    }
}
