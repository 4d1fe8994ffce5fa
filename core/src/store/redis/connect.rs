//! Ways to a Redis: one server, a cluster, or what Sentinel says is the master.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{Sentinel, SentinelNodeConnectionInfo};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, Pipeline, RedisError,
    RedisFuture, RedisResult, TlsMode, Value,
};

use crate::settings::{Secret, ServiceUrl};

const CONNECT: Duration = Duration::from_secs(5);

/// A script that records some MiB, behind others, on a busy machine; the client's own half second is for single keys.
const ANSWER: Duration = Duration::from_secs(30);

/// The oldest that has `BITCOUNT … BIT`.
const OLDEST: u32 = 7;

/// Where to connect to.
#[derive(Debug)]
pub(super) enum Target {
    Server(Box<Client>),
    Cluster { client: Box<Cluster>, nodes: Vec<ConnectionInfo> },
    Sentinel { sentinels: Vec<ConnectionInfo>, master: String, node: SentinelNodeConnectionInfo },
}

/// [`ClusterClient`], whose `Debug` is not derived.
pub(super) struct Cluster(ClusterClient);

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterClient")
    }
}

/// What commands are sent on. Cheap to clone; the clones share it.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Target {
    /// Reads the URL.
    ///
    /// # Errors
    /// In the library's words.
    pub(super) fn parse(url: &ServiceUrl, password: Option<&Secret>) -> RedisResult<Self> {
        crate::blobs::choose_cryptography();
        let (scheme, kind) = url.scheme().split_once('-').unwrap_or((url.scheme(), ""));
        let (authority, path) = url.rest().split_once('/').unwrap_or((url.rest(), ""));
        let (login, hosts) = authority.rsplit_once('@').map_or(("", authority), |(login, hosts)| (login, hosts));
        let login = if login.is_empty() { String::new() } else { format!("{login}@") };
        let info = |host: &str, path: &str| info(&format!("{scheme}://{login}{host}/{path}"), password);
        match kind {
            "" => Ok(Self::Server(Box::new(Client::open(info(hosts, path)?)?))),
            "cluster" => {
                let nodes = hosts.split(',').map(|host| info(host, path)).collect::<RedisResult<Vec<_>>>()?;
                let client = ClusterClient::builder(nodes.clone())
                    .connection_timeout(CONNECT)
                    .response_timeout(ANSWER)
                    .retries(3) // the link around it has the patience
                    .tcp_settings(tcp())
                    .build()?;
                Ok(Self::Cluster { client: Box::new(Cluster(client)), nodes })
            }
            _ => {
                let (master, database) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    let what = "a Sentinel's URL names the master: redis-sentinel://host:26379/master";
                    return Err((ErrorKind::InvalidClientConfig, what).into());
                }
                let with_port = |host: &str| if has_port(host) { host.to_owned() } else { format!("{host}:26379") };
                let sentinels = hosts
                    .split(',')
                    .map(|host| self::info(&format!("{scheme}://{}/", with_port(host)), None))
                    .collect::<RedisResult<Vec<_>>>()?;
                let mut node = SentinelNodeConnectionInfo::default()
                    .set_redis_connection_info(
                        info(hosts.split(',').next().unwrap_or(""), database)?.redis_settings().clone(),
                    )
                    .set_tcp_settings(tcp());
                if scheme == "rediss" {
                    node = node.set_tls_mode(TlsMode::Secure);
                }
                Ok(Self::Sentinel { sentinels, master: master.to_owned(), node })
            }
        }
    }

    /// Connects, for commands.
    pub(super) async fn connect(&self) -> RedisResult<Connection> {
        match self {
            Self::Cluster { client, .. } => client.0.get_async_connection().await.map(Connection::Cluster),
            Self::Server(_) | Self::Sentinel { .. } => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(CONNECT))
                    .set_response_timeout(Some(ANSWER));
                let mut connection = self.server().await?.get_multiplexed_async_connection_with_config(&config).await?;
                check_version(&mut connection).await?;
                Ok(Connection::One(connection))
            }
        }
    }

    /// Connects, to listen on channels. A cluster carries each message to all its nodes, so any will do.
    pub(super) async fn listen(&self) -> RedisResult<PubSub> {
        let connecting = async { self.server().await?.get_async_pubsub().await };
        tokio::time::timeout(CONNECT, connecting).await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// The server that is to be spoken to; of a cluster the first that can be connected to.
    async fn server(&self) -> RedisResult<Client> {
        match self {
            Self::Server(client) => Ok(Client::clone(client)),
            Self::Cluster { nodes, .. } => {
                let mut last = None;
                for node in nodes {
                    let client = Client::open(node.clone())?;
                    match client.get_multiplexed_async_connection().await {
                        Ok(_) => return Ok(client),
                        Err(error) => last = Some(error),
                    }
                }
                Err(last.unwrap_or_else(timed_out))
            }
            Self::Sentinel { sentinels, master, node } => {
                Sentinel::build(sentinels.clone())?.async_master_for(master, Some(node)).await
            }
        }
    }
}

fn timed_out() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn tcp() -> TcpSettings {
    // Without it, Nagle's algorithm holds the end of each pipeline back until the one before is acknowledged.
    TcpSettings::default().set_nodelay(true)
}

fn info(url: &str, password: Option<&Secret>) -> RedisResult<ConnectionInfo> {
    let info = url.into_connection_info()?.set_tcp_settings(tcp());
    Ok(match password {
        Some(password) => {
            let settings = info.redis_settings().clone().set_password(password.expose());
            info.set_redis_settings(settings)
        }
        None => info,
    })
}

async fn check_version(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    let info = match redis::cmd("INFO").arg("server").query_async::<String>(connection).await {
        Ok(info) => info,
        // Who may not ask will see what happens.
        Err(error) if error.code() == Some("NOPERM") => return Ok(()),
        Err(error) => return Err(error),
    };
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("").to_owned();
    match version.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
        Some(major) if major < OLDEST => {
            Err((ErrorKind::InvalidClientConfig, "Redis 7.0 or newer is needed; this is", version).into())
        }
        _ => Ok(()),
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}
