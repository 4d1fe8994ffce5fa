//! Reach: whether the parts of a cluster answer that the settings name, and how quickly.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use tidemill_core::broker::Health;
use tidemill_core::broker::rabbitmq::Used;
use tidemill_core::settings::{ServiceUrl, Settings};
use tidemill_core::store::Shared as _;

use super::Finding;
use crate::client::{Client, Trouble};
use crate::cluster;
use crate::error::Exit;

/// What does not answer by then does not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Looks at whatever is not inside this process, or where it is by default.
pub(super) fn cluster(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let sockets = socket("broker.url", &settings.broker.url, "RabbitMQ");
    let login = sockets.iter().any(|socket| socket.is_well).then(|| broker(settings));
    findings.extend(sockets.into_iter().chain(login));
    let sockets = socket("store.url", &settings.store.url, "Redis");
    let login = sockets.iter().any(|socket| socket.is_well).then(|| store(settings));
    findings.extend(sockets.into_iter().chain(login));
    if settings.api.url != Settings::default().api.url || !settings.broker.url.is_memory() {
        findings.push(api(settings));
    }
    findings
}

/// Whether something listens at each address of a URL.
fn socket(key: &str, url: &ServiceUrl, what: &str) -> Vec<Finding> {
    if url.is_memory() {
        return Vec::new();
    }
    let finding = |address: (String, u16)| {
        let (host, port) = &address;
        let asked = Instant::now();
        match (host.as_str(), *port).to_socket_addrs().and_then(reach) {
            Ok(_) => Finding::after(
                asked.elapsed(),
                format!("{what} listens at {host}:{port}"),
                "far or overloaded: use one that is nearer, or see how quickly its name is found",
            ),
            Err(error) => Finding::away(
                format!("{what} cannot be reached at {host}:{port}: {error}"),
                format!("is it running there? {key} says where it is"),
            ),
        }
    };
    addresses(url).into_iter().map(finding).collect()
}

/// Connects to one of a name's addresses; why the last of them was none, where none is: a name may have two, one for each
/// version of IP, and a server listen at one.
fn reach(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut problem = io::Error::other("the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, ANSWER_WITHIN) {
            Ok(stream) => return Ok(stream),
            Err(error) => problem = error,
        }
    }
    Err(problem)
}

/// Whether the broker lets us in, and is what we need.
fn broker(settings: &Settings) -> Finding {
    let looked = crate::block_on(async {
        let asked = Instant::now();
        // It uses none of the queues.
        let broker = cluster::broker(settings, "doctor", Some(ANSWER_WITHIN), Some(Used::default()))?;
        cluster::ready(&broker, Some(ANSWER_WITHIN)).await.map(|()| asked.elapsed())
    });
    match looked {
        Ok(took) => Finding::after(
            took,
            "RabbitMQ lets us in",
            "far or overloaded: use one that is nearer, or see its memory, its disk and its queues",
        ),
        Err(error) if error.exit == Exit::Configuration => {
            Finding::ill(error.message, "broker.url and broker.password say who we are")
        }
        Err(error) => Finding::away(error.message, "its log tells more"),
    }
}

/// Whether the store lets us in.
fn store(settings: &Settings) -> Finding {
    let looked = crate::block_on(async {
        let asked = Instant::now();
        let store = cluster::store(settings)?;
        Ok(tokio::time::timeout(ANSWER_WITHIN, store.health()).await.map(|health| (health, asked.elapsed())))
    });
    match looked {
        Ok(Ok((Health::Ready, took))) => Finding::after(
            took,
            "Redis lets us in",
            "far or overloaded: use one that is nearer, or see `redis-cli --latency` and its SLOWLOG",
        ),
        Ok(Ok((Health::Blocked(reason) | Health::Away(reason), _))) => Finding::away(
            format!("Redis takes nothing from us: {reason}"),
            "store.url and store.password say who we are",
        ),
        Ok(Err(_)) => Finding::away("Redis does not answer", "its log tells more"),
        Err(error) => Finding::ill(error.message, error.hint.unwrap_or_default()),
    }
}

/// Hosts and ports: several, separated by commas, each a URL of its own or all behind one scheme.
fn addresses(url: &ServiceUrl) -> Vec<(String, u16)> {
    let one = |part: &str| {
        let (scheme, rest) = part.split_once("://").unwrap_or((url.scheme(), part));
        let usual = match scheme {
            "amqp" => 5672,
            "amqps" => 5671,
            scheme if scheme.ends_with("sentinel") => 26379,
            _ => 6379,
        };
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().unwrap_or(usual)),
            _ => (place, usual),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (if host.is_empty() { "localhost".to_owned() } else { host.to_owned() }, port)
    };
    url.expose().split(',').map(one).collect()
}

/// Whether the results API answers, knows us, and has all it needs.
fn api(settings: &Settings) -> Finding {
    let looked = Client::new(settings).and_then(|client| {
        crate::block_on(async {
            let asked = Instant::now();
            let answer = tokio::time::timeout(ANSWER_WITHIN, client.batches(1)).await;
            Ok((client.url().to_owned(), answer, asked.elapsed()))
        })
    });
    let (url, answer, took) = match looked {
        Ok(looked) => looked,
        Err(error) => return Finding::ill(error.message, error.hint.unwrap_or_default()),
    };
    match answer {
        Ok(Ok(_)) => Finding::after(
            took,
            format!("the results API answers at {url}"),
            "far or overloaded: use one that is nearer, or see its /metrics and how quickly its store answers",
        ),
        Ok(Err(error)) if error.trouble == Trouble::Unauthorised => {
            Finding::ill(format!("the results API at {url}: {error}"), "set api.token or api.token_file")
        }
        Ok(Err(error)) if error.trouble == Trouble::Forbidden => Finding::ill(
            format!("the results API at {url}: {error}"),
            "call it by an address (api.url), name it in api.hosts where it runs, or give both a token (api.token)",
        ),
        Ok(Err(error)) if error.trouble == Trouble::Unreachable => {
            Finding::away(error.to_string(), "is `tidemill results-api` running there? api.url says where it is")
        }
        Ok(Err(error)) => {
            Finding::away(format!("the results API at {url}: {error}"), format!("{url}/readyz says what it lacks"))
        }
        Err(_) => Finding::away(format!("the results API at {url} does not answer"), "its log tells more"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn one_address_of_a_name_that_answers_is_enough() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Nobody listens at that port, nor will while this runs.
        let (gone, here) = (SocketAddr::from(([127, 0, 0, 1], 1)), listener.local_addr().unwrap());

        assert!(reach([gone, here].into_iter()).is_ok());
        assert!(reach([gone].into_iter()).is_err());
        assert_eq!(reach([].into_iter()).unwrap_err().to_string(), "the name has no address");
    }

    #[test]
    fn every_address_of_a_url_is_found() {
        let found = |url: &str| addresses(&url.parse().unwrap());
        assert_eq!(
            found("amqp://user:p@rabbit-1/%2f,amqps://rabbit-2"),
            [("rabbit-1".into(), 5672), ("rabbit-2".into(), 5671)]
        );
        assert_eq!(found("redis-sentinel://a,b:1/master"), [("a".into(), 26379), ("b".into(), 1)]);
        assert_eq!(found("redis://[::1]:7000/0"), [("::1".into(), 7000)]);
        assert_eq!(found("redis://[::1]"), [("::1".into(), 6379)]);
    }
}
