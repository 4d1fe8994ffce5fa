//! Resolve: looks names up, and keeps back the addresses that may not be asked.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Url;

use super::addresses::may_be_asked;
use crate::settings::NetSettings;

/// The system's resolver, guarded. The connection is made to the very addresses that come out here, so a name that
/// leads somewhere else the next time gains nothing.
#[derive(Debug)]
pub(super) struct Guarded {
    allowed: Arc<[IpNet]>,
    /// Whoever runs this has chosen them: they may be anywhere.
    proxies: HashSet<String>,
}

/// The host is no public one.
#[derive(Debug, thiserror::Error)]
#[error("{host} is no public address")]
pub(super) struct Forbidden {
    /// A name or an address; not what the name leads to, which is no stranger's business.
    pub(super) host: String,
}

impl Guarded {
    pub(super) fn new(rules: &NetSettings) -> Self {
        Self {
            allowed: rules.allow_private.as_slice().into(),
            proxies: if rules.use_proxy { proxies() } else { HashSet::new() },
        }
    }
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = Arc::clone(&self.allowed);
        let is_proxy = self.proxies.contains(name.as_str());
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let good: Vec<SocketAddr> =
                found.iter().copied().filter(|found| is_proxy || may_be_asked(found.ip(), &allowed)).collect();
            if good.is_empty() && !found.is_empty() {
                tracing::warn!(host = name.as_str(), addresses = ?found, "a name leads to addresses that may not be asked");
                return Err(Forbidden { host: name.as_str().to_owned() }.into());
            }
            Ok(Box::new(good.into_iter()) as Addrs)
        })
    }
}

/// The hosts of the proxies that the environment names.
fn proxies() -> HashSet<String> {
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .filter_map(|value| Url::parse(&value).or_else(|_| Url::parse(&format!("http://{value}"))).ok())
        .filter_map(|url| url.host_str().map(str::to_owned))
        .collect()
}
