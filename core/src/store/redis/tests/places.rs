//! Clusters and Sentinel; URLs.

use tidemill_testing::{Redis as Server, Sentinel};

use super::*;

mod cluster {
    use super::*;

    fn store() -> Option<Arc<Redis>> {
        let server = or_skip(Server::shared_cluster())?;
        let store = connect(&server.url().replace("redis://", "redis-cluster://"));
        std::mem::forget(server);
        Some(store)
    }

    crate::store_conformance!(|| async { store().map(|store| store as Arc<dyn Store>) });

    #[tokio::test]
    async fn batches_in_many_slots_are_recorded_and_listed_together() {
        let Some(store) = store() else { return };
        let mut ids = Vec::new();
        for _ in 0..20 {
            ids.push(opened(&store, Some(2)).await);
        }
        let segments: Vec<_> = ids.iter().flat_map(|id| Segment::encode(id, &[ok(0), dead(1)])).collect();

        assert!(store.record_segments(&segments).await.iter().all(Result::is_ok));

        let list = store.list(AtMost::entries(100)).await.unwrap();
        assert!(list.len() == 20 && list.iter().all(|info| info.progress.is_complete()));
        assert_eq!(store.dead(None, AtMost::entries(100)).await.unwrap().len(), 20);
        assert!(store.revive(&ids[0], 1).await.unwrap());
        store.record(&ids[0], &oks([1])).await.unwrap();
        assert!(store.verify(&ids[0]).await.unwrap().balance());
    }
}

mod sentinel {
    use super::*;

    fn store() -> Option<Arc<Redis>> {
        let server = or_skip(Server::shared_sentinel())?;
        let store = connect(&(server.url().replace("redis://", "redis-sentinel://") + "mill"));
        std::mem::forget(server);
        Some(store)
    }

    crate::store_conformance!(|| async { store().map(|store| store as Arc<dyn Store>) });
}

#[tokio::test]
async fn nothing_is_written_while_a_batch_is_on_its_way_to_another_node() {
    let Some(nodes) = or_skip(Server::own_cluster()) else { return };
    let url = nodes[0].url().replace("redis://", "redis-cluster://");
    let store = connect(&url);
    let (first, id) = (oks(0..10), opened(&store, Some(20)).await);
    store.record(&id, &first).await.unwrap();
    let [from, to] = &nodes;
    let slot = from.cli(&["CLUSTER", "KEYSLOT", &store.keys.batch(&id)]);
    let [from_id, to_id] = [from, to].map(|node| node.cli(&["CLUSTER", "MYID"]));
    to.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
    from.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
    let to_port = to.port().to_string();
    let move_key = |key: &str| {
        let moved = from.cli(&["MIGRATE", "127.0.0.1", &to_port, key, "0", "5000"]);
        assert_eq!(moved, "OK", "{key}");
    };

    move_key(&store.keys.batch(&id));
    let keys = || nodes.each_ref().map(|node| node.cli(&["CLUSTER", "COUNTKEYSINSLOT", &slot]));
    let before = keys();
    let hasty = Redis::connect(Options {
        prefix: store.index.batches().replace(":batches", ""),
        patience: Some(Duration::from_millis(200)),
        ..options(&url)
    })
    .unwrap();
    let error = hasty.record(&id, &first).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(keys(), before, "it has written nothing, neither here nor there");

    for key in from.cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]).lines() {
        move_key(key);
    }
    for node in [to, from] {
        node.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
    }
    store.record(&id, &first).await.unwrap();
    store.record(&id, &oks(10..20)).await.unwrap();
    let books = store.verify(&id).await.unwrap();
    assert!(books.balance() && books.duplicates == 10, "{books:?}");
}

#[tokio::test]
async fn sentinel_says_where_the_master_is() {
    let Some(server) = or_skip(Server::own()) else { return };
    let Some(sentinel) = or_skip(Sentinel::of(&server)) else { return };
    let store = connect(&sentinel.url());

    let id = opened(&store, Some(1)).await;
    let version = store.changed(&id, Version::default()).await.unwrap();
    store.record(&id, &oks([0])).await.unwrap();

    assert!(store.changed(&id, version).await.unwrap() > version);
    let direct =
        Redis::connect(Options { prefix: store.index.batches().replace(":batches", ""), ..options(&server.url()) });
    assert!(direct.unwrap().progress(&id).await.unwrap().is_complete());
}

#[test]
fn a_url_that_cannot_be_one_is_refused_with_what_it_should_be() {
    for (url, hint) in
        [("redis-sentinel://host:26379", "names the master"), ("redis://host:port", ""), ("redis-cluster://", "")]
    {
        let error = Redis::connect(options(url)).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Refused, "{url}");
        assert!(error.to_string().contains(hint), "{error}");
    }
    for url in [
        "redis://host",
        "rediss://user:word@host:1234/3",
        "redis-cluster://:word@a:1,b:2",
        "rediss-cluster://a,b",
        "redis-sentinel://a,b:26380/mill/2",
        "rediss-sentinel://user:word@a/mill",
    ] {
        Redis::connect(options(url)).unwrap();
    }
}
