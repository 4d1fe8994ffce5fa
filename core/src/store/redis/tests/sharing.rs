use super::*;
use crate::batch::unix_millis;
use crate::broker::Heartbeat;
use crate::store::frame::Frames;

async fn lives(store: &Redis, id: &BatchId) -> Vec<i64> {
    let mut lives = Vec::new();
    for key in keys(store, Some(id)).await {
        lives.push(ask(store, &["PTTL", &key]).await);
    }
    lives
}

/// Whether a key lives no longer than one of a batch that was let go.
fn is_short(left: &i64) -> bool {
    u64::try_from(*left).is_ok_and(|left| left <= millis(shared::LINGER))
}

#[tokio::test]
async fn results_begin_to_age_when_the_last_outcome_has_landed_and_not_before() {
    let Some(store) = store() else { return };
    let id = opened(&store, Some(70_000)).await;
    store.record(&id, &oks(0..69_999)).await.unwrap();
    assert!(lives(&store, &id).await.iter().all(|left| *left == -1));
    assert_eq!(store.info(&id).await.unwrap().completed, None);

    store.record(&id, &[dead(69_999)]).await.unwrap();

    let lives = lives(&store, &id).await;
    assert_eq!(lives.len(), 7, "hash, two pages and their list, stream, bands, dead");
    assert!(lives.iter().all(|left| (3_500_000..=3_600_000).contains(left)), "{lives:?}");
    assert!(store.info(&id).await.unwrap().completed.is_some());
}

#[tokio::test]
async fn sealing_a_batch_whose_outcomes_are_all_there_completes_it() {
    let Some(store) = store() else { return };
    let id = opened(&store, None).await;
    store.record(&id, &oks(0..3)).await.unwrap();

    store.seal(&id, 3).await.unwrap();

    assert!(store.info(&id).await.unwrap().completed.is_some());
    assert!(lives(&store, &id).await.iter().all(|left| *left > 0));
}

#[tokio::test]
async fn a_complete_batch_that_is_let_go_is_on_no_list_and_ages_quickly() {
    let Some(store) = store() else { return };
    let running = opened(&store, Some(2)).await;
    store.record(&running, &oks([0])).await.unwrap();
    let id = opened(&store, Some(1)).await;
    store.record(&id, &oks([0])).await.unwrap();

    store.release(&running).await.unwrap();
    store.release(&id).await.unwrap();

    assert!(lives(&store, &running).await.iter().all(|left| *left == -1), "it is not complete");
    assert!(lives(&store, &id).await.iter().all(is_short));
    let listed: Vec<_> = store.list(AtMost::entries(10)).await.unwrap().into_iter().map(|info| info.batch.id).collect();
    assert_eq!(listed, [running]);
    // What comes again is a duplicate as ever.
    store.record(&id, &oks([0])).await.unwrap();
    assert_eq!(store.progress(&id).await.unwrap().duplicates, 1);
    assert_eq!(store.release(&"none".parse().unwrap()).await.unwrap_err().kind, StoreErrorKind::Unknown);
}

#[tokio::test]
async fn a_batch_that_was_never_sealed_is_let_go_when_nobody_goes_on_with_it() {
    let Some(store) = store() else { return };
    let [abandoned, sealed, gone_on] =
        [opened(&store, None).await, opened(&store, Some(2)).await, opened(&store, None).await];
    store.record(&abandoned, &oks([0])).await.unwrap();
    assert_eq!(store.sweep().await.unwrap(), 0);
    // Redis's clock cannot be paused, and a short life races with it: they are made old by hand.
    for id in [&abandoned, &sealed, &gone_on] {
        ask::<u64>(&store, &["HSET", &store.keys.batch(id), "created", "1", "touched", "1"]).await;
        ask::<u64>(&store, &["ZADD", &store.index.batches(), "1", id.as_str()]).await;
    }
    store.record(&gone_on, &oks([0])).await.unwrap();

    assert_eq!(store.sweep().await.unwrap(), 1);

    assert!(lives(&store, &abandoned).await.iter().all(is_short));
    for kept in [&sealed, &gone_on] {
        assert!(lives(&store, kept).await.iter().all(|left| *left == -1));
    }
    // Whoever goes on with it even now has it for good, with what came since.
    store.record(&abandoned, &oks([1, 70_000])).await.unwrap();
    assert!(lives(&store, &abandoned).await.iter().all(|left| *left == -1));
    let listed = store.list(AtMost::entries(10)).await.unwrap();
    assert!(listed.into_iter().any(|info| info.batch.id == abandoned));
    store.seal(&abandoned, 70_001).await.unwrap();
    assert_eq!(store.progress(&abandoned).await.unwrap().recorded(), 3);
    assert_eq!(store.sweep().await.unwrap(), 0);
}

#[tokio::test]
async fn a_batch_that_has_expired_is_unknown_and_on_no_list() {
    let Some(server) = or_skip(tidemill_testing::Redis::shared()) else { return };
    let ttl = Duration::from_millis(50);
    let store = Redis::connect(Options { ttl, ..options(&server.url()) }).unwrap();
    let id = opened(&store, Some(1)).await;
    store.cancel(&id).await.unwrap();
    let other = opened(&store, Some(2)).await;

    store.record(&id, &[dead(0)]).await.unwrap();
    while !keys(&store, Some(&id)).await.is_empty() {
        // Redis's clock is not tokio's: it has to be waited for.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    // One that is young may be about to be opened.
    ask::<u64>(&store, &["ZADD", &store.index.batches(), "1", id.as_str()]).await;

    let unknown = StoreErrorKind::Unknown;
    assert_eq!(store.info(&id).await.unwrap_err().kind, unknown);
    assert_eq!(store.changed(&id, Version(1)).await.unwrap_err().kind, unknown);
    assert_eq!(store.read(&id, Order::Completion, 0, 1).await.unwrap_err().kind, unknown);
    let listed: Vec<_> = store.list(AtMost::entries(10)).await.unwrap().into_iter().map(|info| info.batch.id).collect();
    assert_eq!(listed, [other]);
    assert!(store.cancelled().await.unwrap().is_empty());
    assert!(store.dead(None, AtMost::entries(10)).await.unwrap().is_empty());
    for index in [store.index.cancelled(), store.index.dead()] {
        assert_eq!(ask::<u64>(&store, &["EXISTS", &index]).await, 0, "{index} has let go of it");
    }
    assert_eq!(ask::<u64>(&store, &["ZCARD", &store.index.batches()]).await, 1);
}

#[tokio::test]
async fn batches_are_listed_newest_first_with_what_is_known_of_them() {
    let Some(store) = store() else { return };
    let mut ids = Vec::new();
    for total in 0..4 {
        ids.push(opened(&store, Some(total)).await);
        // The list has milliseconds.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    ids.reverse();
    store.accept(&ids[0], 3).await.unwrap();
    store.accept(&ids[0], 2).await.unwrap();

    let list = store.list(AtMost::entries(3)).await.unwrap();

    let listed: Vec<_> = list.iter().map(|info| info.batch.id.clone()).collect();
    assert_eq!(listed, ids[..3]);
    assert_eq!((list[0].accepted, list[0].progress.total), (3, Some(3)));
    assert!(unix_millis().abs_diff(list[0].created) < 60_000);
    assert_eq!(store.accept(&BatchId::new(), 1).await.unwrap_err().kind, StoreErrorKind::Unknown);
}

#[tokio::test]
async fn a_cancelled_batch_is_listed_until_it_is_complete() {
    let Some(store) = store() else { return };
    let id = opened(&store, Some(1)).await;
    store.cancel(&id).await.unwrap();
    assert_eq!(store.cancelled().await.unwrap(), std::slice::from_ref(&id));

    store.record(&id, &[outcome(0, Ending::Cancelled)]).await.unwrap();

    assert!(store.cancelled().await.unwrap().is_empty());
    assert!(store.progress(&id).await.unwrap().cancelled, "that it was is remembered");
}

#[tokio::test]
async fn a_cancelled_batch_that_nobody_goes_on_with_is_closed() {
    let Some(store) = store() else { return };
    crate::store::conformance::a_cancelled_batch_that_nobody_goes_on_with_is_closed(&*store).await;
    let id = opened(&store, None).await;
    store.cancel(&id).await.unwrap();

    // Nothing of it is known: no page, no bit.
    assert!(store.close(&id, Duration::ZERO).await.unwrap().is_empty());

    assert_eq!(store.progress(&id).await.unwrap().total, Some(0));
    assert!(lives(&store, &id).await.iter().all(|left| *left > 0));
    assert_eq!(store.close(&BatchId::new(), Duration::ZERO).await.unwrap_err().kind, StoreErrorKind::Unknown);
}

#[tokio::test]
async fn what_the_broker_had_of_a_closed_batch_is_lost_when_nothing_comes_for_long() {
    let Some(store) = store() else { return };
    let id = opened(&store, None).await;
    store.accept(&id, 70_001).await.unwrap();
    store.cancel(&id).await.unwrap();
    assert!(store.close(&id, Duration::ZERO).await.unwrap().is_empty(), "it will come");
    // Redis's clock cannot be paused.
    ask::<u64>(&store, &["HSET", &store.keys.batch(&id), "touched", "1"]).await;

    let mut open = Vec::new();
    loop {
        let some = store.close(&id, Duration::ZERO).await.unwrap();
        if some.is_empty() {
            break;
        }
        let cancelled: Vec<_> = some.iter().map(|index| outcome(index.0, Ending::Cancelled)).collect();
        store.record(&id, &cancelled).await.unwrap();
        open.extend(some.into_iter().map(|index| index.0));
    }

    assert!(open.into_iter().eq(0..70_001), "all of it, though some of it was given an outcome just now");
    assert!(store.verify(&id).await.unwrap().balance());
}

#[tokio::test]
async fn what_is_missing_of_a_sealed_batch_that_was_cancelled_is_lost_when_nothing_comes_for_long() {
    let Some(store) = store() else { return };
    let id = opened(&store, Some(3)).await;
    store.record(&id, &oks(1..2)).await.unwrap();
    store.accept(&id, 3).await.unwrap();
    let is_quiet = ["HSET", &store.keys.batch(&id), "touched", "1"];
    ask::<u64>(&store, &is_quiet).await;
    assert!(store.close(&id, Duration::ZERO).await.unwrap().is_empty(), "nobody has cancelled it");
    store.cancel(&id).await.unwrap();
    assert!(store.close(&id, Duration::ZERO).await.unwrap().is_empty(), "they are waited for");
    ask::<u64>(&store, &is_quiet).await;

    assert_eq!(store.close(&id, Duration::ZERO).await.unwrap(), [ItemIndex(0), ItemIndex(2)]);
    store.record(&id, &[outcome(0, Ending::Cancelled)]).await.unwrap();
    assert_eq!(store.close(&id, Duration::ZERO).await.unwrap(), [ItemIndex(2)]);
    store.record(&id, &[outcome(2, Ending::Cancelled)]).await.unwrap();
    assert!(store.progress(&id).await.unwrap().is_complete());
    assert!(store.close(&id, Duration::ZERO).await.unwrap().is_empty());
    assert!(store.verify(&id).await.unwrap().balance());
}

#[tokio::test]
async fn more_than_a_submission_can_have_under_way_is_waited_for_and_not_filled_up() {
    let Some(store) = store() else { return };
    let id = opened(&store, None).await;
    store.record(&id, &oks(0..2)).await.unwrap();
    store.accept(&id, 1 << 40).await.unwrap();
    store.cancel(&id).await.unwrap();
    assert!(store.close(&id, Duration::ZERO).await.unwrap().is_empty());
    ask::<u64>(&store, &["HSET", &store.keys.batch(&id), "touched", "1"]).await;

    assert!(store.close(&id, Duration::ZERO).await.unwrap().is_empty());

    let info = store.info(&id).await.unwrap();
    assert_eq!((info.accepted, info.progress.total), (1 << 40, Some(1 << 40)));
    assert_eq!(store.verify(&id).await.unwrap().missing, (1 << 40) - 2);
}

#[tokio::test]
async fn who_opens_second_is_given_what_the_first_opened() {
    let Some(store) = store() else { return };
    crate::store::conformance::who_opens_second_is_given_what_the_first_opened(&*store).await;
}

#[tokio::test]
async fn lists_end_where_they_are_full() {
    let Some(store) = store() else { return };
    crate::store::conformance::lists_end_where_they_are_full(&*store).await;
}

#[tokio::test]
async fn a_cancelled_batch_with_an_outcome_far_from_all_others_is_left_as_it_is_and_goes_as_others_do() {
    let Some(store) = store() else { return };
    let id = opened(&store, None).await;
    store.record(&id, &oks([1 << 40])).await.unwrap();
    store.cancel(&id).await.unwrap();
    ask::<u64>(&store, &["HSET", &store.keys.batch(&id), "created", "1", "touched", "1"]).await;
    ask::<u64>(&store, &["ZADD", &store.index.batches(), "1", id.as_str()]).await;
    assert_eq!(store.sweep().await.unwrap(), 1);

    assert!(store.close(&id, Duration::ZERO).await.unwrap().is_empty());

    assert_eq!(store.progress(&id).await.unwrap().total, None);
    assert!(lives(&store, &id).await.iter().all(is_short), "to look at it is not to go on with it");
}

#[tokio::test]
async fn a_worker_is_listed_until_it_has_been_silent_for_three_beats() {
    let Some(store) = store() else { return };
    let now = unix_millis();
    let beat = |name: &str, at| Heartbeat { name: name.into(), at, every: 5000, ..Heartbeat::default() };
    let beats = [beat("b", now), beat("a", now - 14_000), beat("late", now - 16_000), beat("long gone", 1)];
    store.beat(&beats).await.unwrap();
    store.beat(&[]).await.unwrap();

    let names: Vec<_> = store.workers().await.unwrap().into_iter().map(|worker| worker.name).collect();

    assert_eq!(names, ["a", "b"]);
    assert_eq!(ask::<u64>(&store, &["HLEN", &store.index.workers()]).await, 3, "long gone is dropped");
    store.beat(&[beat("late", now)]).await.unwrap();
    assert_eq!(store.workers().await.unwrap().len(), 3);
}

#[tokio::test]
async fn the_dead_are_listed_with_what_is_known_of_their_end() {
    let Some(store) = store() else { return };
    let [one, other] = [opened(&store, Some(5001)).await, opened(&store, None).await];
    store.record(&one, &[vec![dead(7), dead(3)], oks(0..3), vec![dead(5000)]].concat()).await.unwrap();
    store.record(&other, &[dead(1)]).await.unwrap();

    let of_one = store.dead(Some(&one), AtMost::entries(10)).await.unwrap();

    let indices: Vec<_> = of_one.iter().map(|item| item.index).collect();
    assert_eq!(indices, [3, 7, 5000]);
    assert_eq!((of_one[0].failure.message.as_str(), of_one[0].input.get()), ("3 ended its worker", "3"));
    assert_eq!(of_one[0].task, "compute.map");
    assert_eq!(store.dead(Some(&one), AtMost::entries(1)).await.unwrap().len(), 1);
    assert_eq!(store.dead(None, AtMost::entries(10)).await.unwrap().len(), 4);
    assert_eq!(store.dead(None, AtMost::entries(2)).await.unwrap().len(), 2);
    assert_eq!(store.dead(Some(&BatchId::new()), AtMost::entries(2)).await.unwrap_err().kind, StoreErrorKind::Unknown);
}

#[tokio::test]
async fn a_dead_item_that_is_revived_can_have_another_outcome() {
    let Some(store) = store() else { return };
    let id = opened(&store, Some(3)).await;
    store.record(&id, &[ok(0), dead(1), ok(2)]).await.unwrap();
    assert!(!store.revive(&id, 0).await.unwrap(), "it is not dead");
    assert!(store.info(&id).await.unwrap().completed.is_some());

    assert!(store.revive(&id, 1).await.unwrap());
    assert!(store.revive(&id, 1).await.unwrap(), "it has no outcome, and may not be on its way");
    assert_eq!(store.dead(None, AtMost::entries(10)).await.unwrap()[0].index, 1, "it can be found until it has one");

    let info = store.info(&id).await.unwrap();
    assert_eq!((info.completed, info.progress.recorded()), (None, 2));
    assert!(lives(&store, &id).await.iter().all(|left| *left == -1));
    assert_eq!(read_all(&store, &id, Order::Input, 10).await, [0]);
    assert!(!store.read(&id, Order::Completion, 3, 10).await.unwrap().is_last, "more will come");
    let books = store.verify(&id).await.unwrap();
    assert_eq!((books.missing, books.missing_first, books.doubled), (1, vec![(1, 2)], 0));
    assert_eq!(books.counts, books.counters);

    store.record(&id, &[dead(1)]).await.unwrap();
    assert_eq!(store.dead(None, AtMost::entries(10)).await.unwrap()[0].index, 1, "dead once more");
    assert!(store.verify(&id).await.unwrap().balance());
    assert!(store.revive(&id, 1).await.unwrap());
    store.record(&id, &oks([1])).await.unwrap();
    assert!(!store.revive(&id, 1).await.unwrap(), "it is dead no more");

    assert!(store.verify(&id).await.unwrap().balance());
    assert!(store.info(&id).await.unwrap().completed.is_some());
    let page = store.read(&id, Order::Input, 0, 10).await.unwrap();
    assert!(page.is_last && page.outcomes.iter().all(|outcome| outcome.status() == Status::Ok));
    let fetched = store.fetch(&id, Order::Input, 0, AtMost::entries(10)).await.unwrap();
    let text = String::from_utf8(fetched.into_lines().unwrap()).unwrap();
    assert_eq!((text.lines().count(), text.contains("dead")), (3, false));
    let mut frames = Frames::default();
    frames.push(&store.fetch(&id, Order::Input, 0, AtMost::entries(10)).await.unwrap().into_frame(&id));
    assert_eq!(frames.take().unwrap().unwrap().into_lines().unwrap(), text.into_bytes());
    let landed = store.read(&id, Order::Completion, 0, 10).await.unwrap();
    assert_eq!((landed.outcomes.len(), landed.is_last), (5, true));
    assert!(store.dead(None, AtMost::entries(10)).await.unwrap().is_empty());
    assert_eq!(store.revive(&BatchId::new(), 0).await.unwrap_err().kind, StoreErrorKind::Unknown);
}

#[tokio::test]
async fn the_books_find_what_the_counters_do_not_know() {
    let Some(store) = store() else { return };
    let id = opened(&store, Some(5)).await;
    store.record(&id, &oks(0..4)).await.unwrap();
    let json = Segment::encode(&id, &oks([3, 9])).remove(0);
    ask::<String>(
        &store,
        &["XADD", &store.keys.outcomes(&id), "6-0", "s", std::str::from_utf8(json.bytes()).unwrap(), "n", "2"],
    )
    .await;
    ask::<u64>(&store, &["HSET", &store.keys.batch(&id), "landed", "6"]).await;

    let books = store.verify(&id).await.unwrap();

    assert_eq!((books.doubled, books.beyond, books.missing), (1, 1, 1));
    assert_eq!((books.counts[0], books.counters[0]), (6, 4));
    assert!(!books.balance());
}

#[tokio::test]
async fn a_change_by_one_process_wakes_whoever_waits_in_another() {
    let Some(server) = or_skip(tidemill_testing::Redis::shared()) else { return };
    let options = options(&server.url());
    let [here, there] = [0, 1].map(|_| Arc::new(Redis::connect(options.clone()).unwrap()));
    let id = opened(&here, None).await;
    let mut seen = there.changed(&id, Version::default()).await.unwrap();
    // By then it listens, so that no message is lost.
    while ask::<Vec<String>>(&here, &["PUBSUB", "CHANNELS", &here.keys.changed(&id)]).await.is_empty() {
        drop(tokio::time::timeout(Duration::from_millis(10), there.changed(&id, seen)).await);
    }

    let started = tokio::time::Instant::now();
    for index in 0..20 {
        let waiting = tokio::spawn({
            let (there, id) = (Arc::clone(&there), id.clone());
            async move { there.changed(&id, seen).await.unwrap() }
        });
        here.record(&id, &oks([index])).await.unwrap();
        let version = tokio::time::timeout(PATIENCE, waiting).await.expect("it wakes").unwrap();
        assert!(version > seen);
        seen = version;
    }
    assert!(started.elapsed() < Duration::from_secs(10), "messages wake it, not the look once a second");
}
