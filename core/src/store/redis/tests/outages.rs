use std::sync::atomic::{AtomicBool, Ordering};

use tidemill_testing::Redis as Server;

use super::*;
use crate::broker::Health;

/// Two stores with the same keys: a patient one for what is to succeed, however busy the machine is, and a hasty one
/// for what is to fail.
fn patient_and_hasty(server: &Server, patience: Duration) -> [Redis; 2] {
    let patient = options(&server.url());
    let hasty = Options { patience: Some(patience), ..patient.clone() };
    [patient, hasty].map(|options| Redis::connect(options).unwrap())
}

#[tokio::test]
async fn operations_go_on_when_a_server_that_was_killed_is_back() {
    let Some(mut server) = or_skip(Server::own()) else { return };
    let store = connect(&server.url());
    let id = opened(&store, None).await;
    let enough = Arc::new(AtomicBool::new(false));
    let recording = tokio::spawn({
        let (store, id, enough) = (Arc::clone(&store), id.clone(), Arc::clone(&enough));
        async move {
            let mut total = 0;
            // Whoever waits below waits for a change: there is one as long as that goes on.
            while !enough.load(Ordering::SeqCst) {
                store.record(&id, &oks(total..total + 10)).await.unwrap();
                total += 10;
            }
            total
        }
    });

    let mut version = Version::default();
    for _ in 0..3 {
        version = store.changed(&id, version).await.unwrap();
        server.kill();
        let waiting = tokio::spawn({
            let (store, id) = (Arc::clone(&store), id.clone());
            async move { store.changed(&id, version).await }
        });
        tokio::task::yield_now().await;
        server.start();
        tokio::time::timeout(PATIENCE, waiting).await.expect("it wakes").unwrap().unwrap();
    }
    enough.store(true, Ordering::SeqCst);
    let total = recording.await.unwrap();
    store.seal(&id, total).await.unwrap();

    let books = store.verify(&id).await.unwrap();
    assert!(books.balance(), "{books:?}");
    assert_eq!(read_all(&store, &id, Order::Input, 64).await, Vec::from_iter(0..total));
}

#[tokio::test]
async fn patience_ends_with_where_and_why() {
    let Some(mut server) = or_skip(Server::own()) else { return };
    let url = server.url().replace("redis://", "redis://:secret@");
    server.kill();
    // Enough to be refused in, also on a busy machine.
    let patience = Some(Duration::from_secs(1));
    let store = Redis::connect(Options { patience, ..options(&url) }).unwrap();

    let error = store.progress(&BatchId::new()).await.unwrap_err();

    assert_eq!(error.kind, StoreErrorKind::Unreachable);
    assert!(error.is_transient());
    assert!(error.reason.contains("127.0.0.1") && error.reason.contains("refused"), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    assert!(matches!(store.health().await, Health::Away(_)));
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_waited_for_longer_than_patience() {
    let Some(mut server) = or_skip(Server::own()) else { return };
    let [patient, hasty] = patient_and_hasty(&server, Duration::from_millis(500));
    let id = opened(&patient, None).await;
    // It is connected by then: to be asked after its health takes no patience.
    assert_eq!(hasty.health().await, Health::Ready);

    server.signal(tidemill_testing::Signal::SIGSTOP);
    let error = hasty.progress(&id).await.unwrap_err();
    server.signal(tidemill_testing::Signal::SIGCONT);

    assert_eq!(error.kind, StoreErrorKind::Unreachable);
    patient.progress(&id).await.unwrap();
    assert_eq!(hasty.health().await, Health::Ready);
}

#[tokio::test]
async fn a_wrong_password_is_said_at_once_and_what_to_do() {
    let Some(server) = or_skip(Server::own()) else { return };
    let owner = connect(&server.url());
    ask::<String>(&owner, &["CONFIG", "SET", "requirepass", "right"]).await;
    let with = |password: Option<&str>| {
        let password = password.map(|password| password.parse().unwrap());
        Redis::connect(Options { password, patience: None, ..options(&server.url()) }).unwrap()
    };

    for password in [None, Some("wrong")] {
        let error = with(password).progress(&BatchId::new()).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
        assert!(error.reason.contains("store.password"), "{error}");
    }
    let error = with(Some("right")).progress(&BatchId::new()).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unknown);
}

#[tokio::test]
async fn a_server_without_memory_takes_nothing_and_says_what_to_do() {
    let Some(server) = or_skip(Server::own()) else { return };
    // Enough to hear why, also on a busy machine.
    let [patient, hasty] = patient_and_hasty(&server, Duration::from_secs(2));
    let id = opened(&patient, Some(1)).await;
    ask::<String>(&patient, &["CONFIG", "SET", "maxmemory", "1mb"]).await;

    let error = hasty.record(&id, &oks([0])).await.unwrap_err();
    assert!(error.is_transient() && error.reason.contains("maxmemory"), "{error}");

    ask::<String>(&patient, &["CONFIG", "SET", "maxmemory", "0"]).await;
    patient.record(&id, &oks([0])).await.unwrap();
    assert!(patient.verify(&id).await.unwrap().balance(), "nothing was half written");
}

#[tokio::test]
async fn a_server_that_forgot_the_scripts_learns_them_again() {
    let Some(server) = or_skip(Server::own()) else { return };
    let store = connect(&server.url());
    let id = opened(&store, Some(2)).await;
    for index in 0..2 {
        ask::<String>(&store, &["SCRIPT", "FLUSH"]).await;
        store.record(&id, &oks([index])).await.unwrap();
    }
    assert!(store.progress(&id).await.unwrap().is_complete());
}

#[tokio::test]
async fn what_is_not_ours_is_said_to_be_so() {
    let Some(store) = store() else { return };
    let id = opened(&store, Some(1)).await;
    store.record(&id, &oks([0])).await.unwrap();
    ask::<u64>(&store, &["DEL", &store.keys.outcomes(&id)]).await;
    ask::<u64>(&store, &["RPUSH", &store.keys.outcomes(&id), "not a stream"]).await;

    let error = store.read(&id, Order::Input, 0, 1).await.unwrap_err();

    assert_eq!(error.kind, StoreErrorKind::Broken);
    assert!(error.reason.contains("WRONGTYPE"), "{error}");
}
