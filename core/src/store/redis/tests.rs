//! Against real servers.

use std::sync::Arc;
use std::time::Duration;

use tidemill_testing::{or_skip, unique};

use super::*;

/// A store with keys of its own on a server that other tests use too.
fn store() -> Option<Arc<Redis>> {
    let server = or_skip(tidemill_testing::Redis::shared())?;
    let store = at(&server.url(), &unique());
    // The seat in the shared server is given back with the process.
    std::mem::forget(server);
    Some(store)
}

fn at(url: &str, prefix: &str) -> Arc<Redis> {
    let options = Options {
        url: url.parse().unwrap(),
        password: None,
        prefix: prefix.into(),
        ttl: Duration::from_secs(3600),
        patience: Some(Duration::from_secs(20)),
    };
    Arc::new(Redis::connect(options).unwrap())
}

crate::store_conformance!(|| async { store().map(|store| store as Arc<dyn Store>) });
