//! What every [`Store`] promises, as tests. An implementation runs them all with `store_conformance!`.
#![allow(clippy::unwrap_used, reason = "these are tests, also where they are compiled as a feature")]

use std::sync::Arc;
use std::time::Duration;

use super::{AtMost, Order, Shared, Store, StoreError, StoreErrorKind, Version};
use crate::batch::{Attempt, Batch, BatchId, ItemIndex, Priority};
use crate::failure::Failure;
use crate::outcome::{Ending, Maker, Outcome, Status};
use crate::retry::RetryPolicy;
use crate::segment::Segment;
use crate::task::raw;

/// Runs the whole suite against stores made by an expression of type `Fn() -> Future<Output = Arc<dyn Store>>`. The
/// expression may give an `Option`: with `None`, where the store is not installed, the test is skipped.
#[macro_export]
macro_rules! store_conformance {
    ($make:expr) => {
        $crate::store_conformance!(@tests $make;
            the_first_write_of_an_item_wins
            what_is_all_there_is_of_a_batch_seals_it
            the_ordered_read_ends_before_the_first_gap
            the_completion_read_gives_them_as_they_landed
            a_read_can_begin_anywhere_and_goes_on_where_it_ended
            a_batch_is_complete_once_it_is_sealed_and_every_item_has_landed
            an_empty_batch_is_complete_when_it_is_sealed
            sealing_twice_is_once_and_another_total_is_a_conflict
            a_batch_has_no_outcomes_beyond_its_end
            opening_twice_loses_nothing
            progress_counts_each_status
            what_was_forgotten_cannot_be_read_and_is_not_recorded_again
            a_change_wakes_whoever_waits
            an_unknown_batch_is_an_error
            cancelling_is_remembered
            outcomes_come_back_as_they_were_written
        );
    };
    (@tests $make:expr; $($test:ident)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                if let Some(store) = ($make)().await.into() {
                    $crate::store::conformance::$test(store).await;
                }
            }
        )*
    };
}

/// How long a test waits before it says that something never came.
const PATIENCE: Duration = Duration::from_secs(20);

/// A batch with a new id.
pub fn batch() -> Batch {
    Batch {
        id: BatchId::new(),
        task: "compute.map".into(),
        options: raw(&serde_json::json!({"expr": "x"})),
        retry: RetryPolicy { attempts: 3, base: Duration::from_millis(500), max: Duration::from_secs(60) },
        timeout: Duration::from_secs(60),
        priority: Priority(0),
        expires: None,
    }
}

pub(super) fn outcome(index: u64, ending: Ending) -> Outcome {
    Outcome {
        index: ItemIndex(index),
        input: raw(&index),
        name: None,
        source: None,
        ending,
        attempts: Attempt(1),
        maker: Arc::new(Maker { worker: "w".into(), device: "cpu".into() }),
        queued: Duration::from_micros(5),
        run: Duration::from_micros(7),
    }
}

fn ok(index: u64) -> Outcome {
    outcome(index, Ending::Ok(raw(&(index * 10))))
}

async fn opened(store: &dyn Store) -> BatchId {
    let batch = batch();
    store.open(&batch).await.unwrap();
    batch.id
}

async fn record(store: &dyn Store, id: &BatchId, outcomes: Vec<Outcome>) -> Result<(), StoreError> {
    let outcomes: Vec<Arc<Outcome>> = outcomes.into_iter().map(Arc::new).collect();
    store.record(id, &outcomes).await
}

fn segment(id: &BatchId, outcomes: Vec<Outcome>) -> Segment {
    let outcomes: Vec<Arc<Outcome>> = outcomes.into_iter().map(Arc::new).collect();
    Segment::encode(id, &outcomes).remove(0)
}

async fn indices(store: &dyn Store, id: &BatchId, order: Order, from: u64, limit: usize) -> Vec<u64> {
    let page = store.read(id, order, from, limit).await.unwrap();
    page.outcomes.iter().map(|outcome| outcome.index.0).collect()
}

macro_rules! promise {
    ($(#[$doc:meta])* $name:ident, $store:ident, $body:block) => {
        $(#[$doc])*
        pub async fn $name($store: Arc<dyn Store>) $body
    };
}

promise!(/// Recording is once.
the_first_write_of_an_item_wins, store, {
    let id = opened(&*store).await;
    record(&*store, &id, vec![ok(0), ok(1)]).await.unwrap();
    let late = outcome(1, Ending::Failed(Failure::permanent("late", "too late")));
    record(&*store, &id, vec![late, ok(2)]).await.unwrap();

    let page = store.read(&id, Order::Input, 0, 10).await.unwrap();
    assert!(page.outcomes.iter().all(|outcome| outcome.status() == Status::Ok));
    let progress = store.progress(&id).await.unwrap();
    assert_eq!((progress.recorded(), progress.duplicates), (3, 1));
});

promise!(/// One round trip, and never one without the other.
what_is_all_there_is_of_a_batch_seals_it, store, {
    let [one, bad, begun, two, dead] = [(); 5].map(|()| batch());
    store.open(&begun).await.unwrap();
    let failed = outcome(0, Ending::Failed(Failure::permanent("late", "too late")));
    let died = outcome(0, Ending::Dead(Failure::permanent("crashed", "three times")));
    let whole = [
        (&one, vec![ok(0)]),
        (&bad, vec![failed]),
        (&begun, vec![ok(0)]),
        (&two, vec![ok(0), ok(1)]),
        (&dead, vec![died]),
    ];
    for (batch, outcomes) in whole {
        let only = segment(&batch.id, outcomes);
        let total = Some(only.len());
        assert!(store.record_only(batch, &only).await.unwrap());
        let progress = store.progress(&batch.id).await.unwrap();
        assert_eq!((progress.total, progress.is_complete(), Some(progress.recorded())), (total, true, total));
        assert_eq!(progress.counts, only.counts());
        assert!(store.read(&batch.id, Order::Input, 0, 10).await.unwrap().is_last);
        assert_eq!(store.read(&batch.id, Order::Completion, 0, 10).await.unwrap().next, only.len());
        // Twice it is not all there is.
        assert!(!store.record_only(batch, &only).await.unwrap());
        assert_eq!(store.progress(&batch.id).await.unwrap(), progress);
    }

    // Nor is it beside others, or where more is to come.
    let [other, longer] = [(); 2].map(|()| batch());
    store.open(&other).await.unwrap();
    store.open(&longer).await.unwrap();
    record(&*store, &other.id, vec![ok(7)]).await.unwrap();
    store.seal(&longer.id, 2).await.unwrap();
    for (batch, total, recorded) in [(other, None, 1), (longer, Some(2), 0)] {
        assert!(!store.record_only(&batch, &segment(&batch.id, vec![ok(0)])).await.unwrap());
        let progress = store.progress(&batch.id).await.unwrap();
        assert_eq!((progress.total, progress.recorded()), (total, recorded));
    }
});

promise!(/// Nothing is read before what comes before it.
the_ordered_read_ends_before_the_first_gap, store, {
    let id = opened(&*store).await;
    record(&*store, &id, vec![ok(3), ok(1)]).await.unwrap();
    assert_eq!(indices(&*store, &id, Order::Input, 0, 10).await, [0u64; 0]);
    record(&*store, &id, vec![ok(0)]).await.unwrap();
    assert_eq!(indices(&*store, &id, Order::Input, 0, 10).await, [0, 1]);
    record(&*store, &id, vec![ok(2)]).await.unwrap();
    assert_eq!(indices(&*store, &id, Order::Input, 2, 10).await, [2, 3]);
});

promise!(/// Completion order is the order of recording.
the_completion_read_gives_them_as_they_landed, store, {
    let id = opened(&*store).await;
    record(&*store, &id, vec![ok(3)]).await.unwrap();
    record(&*store, &id, vec![ok(0), ok(2)]).await.unwrap();
    assert_eq!(indices(&*store, &id, Order::Completion, 0, 10).await, [3, 0, 2]);
    assert_eq!(indices(&*store, &id, Order::Completion, 1, 1).await, [0]);
});

promise!(/// Pages join without overlap or gap.
a_read_can_begin_anywhere_and_goes_on_where_it_ended, store, {
    let id = opened(&*store).await;
    record(&*store, &id, (0..10).map(ok).collect()).await.unwrap();
    store.seal(&id, 10).await.unwrap();
    for order in [Order::Input, Order::Completion] {
        let (mut seen, mut from) = (Vec::new(), 3);
        loop {
            let page = store.read(&id, order, from, 4).await.unwrap();
            seen.extend(page.outcomes.iter().map(|outcome| outcome.index.0));
            from = page.next;
            if page.is_last {
                break;
            }
        }
        assert_eq!(seen, [3, 4, 5, 6, 7, 8, 9]);
    }
});

promise!(/// Completion follows from what was written.
a_batch_is_complete_once_it_is_sealed_and_every_item_has_landed, store, {
    let id = opened(&*store).await;
    record(&*store, &id, vec![ok(0)]).await.unwrap();
    assert!(!store.progress(&id).await.unwrap().is_complete(), "it is not sealed");
    store.seal(&id, 2).await.unwrap();
    assert!(!store.progress(&id).await.unwrap().is_complete(), "one is missing");
    record(&*store, &id, vec![ok(0)]).await.unwrap();
    assert!(!store.progress(&id).await.unwrap().is_complete(), "a duplicate is not another one");
    record(&*store, &id, vec![ok(1)]).await.unwrap();
    assert!(store.progress(&id).await.unwrap().is_complete());
});

promise!(/// Nothing to do is done.
an_empty_batch_is_complete_when_it_is_sealed, store, {
    let id = opened(&*store).await;
    store.seal(&id, 0).await.unwrap();
    assert!(store.progress(&id).await.unwrap().is_complete());
    assert!(store.read(&id, Order::Input, 0, 10).await.unwrap().is_last);
});

promise!(/// The total is said once.
sealing_twice_is_once_and_another_total_is_a_conflict, store, {
    let id = opened(&*store).await;
    store.seal(&id, 5).await.unwrap();
    store.seal(&id, 5).await.unwrap();
    assert_eq!(store.seal(&id, 6).await.unwrap_err().kind, StoreErrorKind::Conflict);
    assert_eq!(store.progress(&id).await.unwrap().total, Some(5));
});

promise!(/// A producer that starts again finds its batch.
opening_twice_loses_nothing, store, {
    let batch = batch();
    store.open(&batch).await.unwrap();
    record(&*store, &batch.id, vec![ok(0)]).await.unwrap();
    store.open(&batch).await.unwrap();
    assert_eq!(store.progress(&batch.id).await.unwrap().recorded(), 1);
});

promise!(/// The books balance.
progress_counts_each_status, store, {
    let id = opened(&*store).await;
    let failure = || Failure::permanent("bad", "bad");
    let endings =
        [Ending::Ok(raw(&1)), Ending::Failed(failure()), Ending::Dead(failure()), Ending::Cancelled, Ending::Expired];
    let outcomes = endings.into_iter().zip(0..).map(|(ending, index)| outcome(index, ending)).collect();
    record(&*store, &id, outcomes).await.unwrap();
    let progress = store.progress(&id).await.unwrap();
    for status in Status::ALL {
        assert_eq!(progress.count(status), 1, "{status}");
    }
});

promise!(/// Letting go of an outcome does not open its place again.
what_was_forgotten_cannot_be_read_and_is_not_recorded_again, store, {
    for order in [Order::Input, Order::Completion] {
        let id = opened(&*store).await;
        record(&*store, &id, (0..4).map(ok).collect()).await.unwrap();
        store.forget(&id, order, 2).await.unwrap();

        assert_eq!(store.read(&id, order, 1, 10).await.unwrap_err().kind, StoreErrorKind::Forgotten);
        assert_eq!(indices(&*store, &id, order, 2, 10).await, [2, 3]);
        record(&*store, &id, vec![ok(0)]).await.unwrap();
        let progress = store.progress(&id).await.unwrap();
        assert_eq!((progress.recorded(), progress.duplicates), (4, 1));
    }
});

promise!(/// Nobody has to ask again and again.
a_change_wakes_whoever_waits, store, {
    let id = opened(&*store).await;
    let seen = match tokio::time::timeout(Duration::from_millis(50), store.changed(&id, Version::default())).await {
        Ok(version) => version.unwrap(),
        Err(_) => Version::default(),
    };
    let waiting = tokio::spawn({
        let (store, id) = (Arc::clone(&store), id.clone());
        async move { store.changed(&id, seen).await }
    });
    record(&*store, &id, vec![ok(0)]).await.unwrap();
    let version = tokio::time::timeout(PATIENCE, waiting).await.expect("it wakes").unwrap().unwrap();
    assert!(version > seen);
});

promise!(/// A batch that was never opened is not made by writing to it.
an_unknown_batch_is_an_error, store, {
    let id = BatchId::new();
    assert_eq!(record(&*store, &id, vec![ok(0)]).await.unwrap_err().kind, StoreErrorKind::Unknown);
    assert_eq!(store.progress(&id).await.unwrap_err().kind, StoreErrorKind::Unknown);
    assert_eq!(store.read(&id, Order::Input, 0, 1).await.unwrap_err().kind, StoreErrorKind::Unknown);
    assert_eq!(store.seal(&id, 0).await.unwrap_err().kind, StoreErrorKind::Unknown);
    assert_eq!(store.cancel(&id).await.unwrap_err().kind, StoreErrorKind::Unknown);
});

promise!(/// Whoever asks later learns of it.
cancelling_is_remembered, store, {
    let id = opened(&*store).await;
    assert!(!store.progress(&id).await.unwrap().cancelled);
    store.cancel(&id).await.unwrap();
    store.cancel(&id).await.unwrap();
    assert!(store.progress(&id).await.unwrap().cancelled);
});

promise!(/// A batch that two have sent under one name does not become a mixture of both that is never complete.
a_batch_has_no_outcomes_beyond_its_end, store, {
    let id = opened(&*store).await;
    record(&*store, &id, vec![ok(0), ok(4)]).await.unwrap();
    assert_eq!(store.seal(&id, 4).await.unwrap_err().kind, StoreErrorKind::Conflict);
    store.seal(&id, 5).await.unwrap();

    record(&*store, &id, vec![ok(1), ok(5), ok(70_000)]).await.unwrap();
    record(&*store, &id, vec![ok(6)]).await.unwrap();
    record(&*store, &id, vec![ok(2), ok(3)]).await.unwrap();

    let progress = store.progress(&id).await.unwrap();
    assert_eq!((progress.recorded(), progress.duplicates, progress.is_complete()), (5, 0, true));
    for order in [Order::Input, Order::Completion] {
        let page = store.read(&id, order, 0, 10).await.unwrap();
        assert_eq!((page.outcomes.len(), page.is_last), (5, true));
    }
});

promise!(/// Nothing of an outcome is lost or changed.
outcomes_come_back_as_they_were_written, store, {
    let id = opened(&*store).await;
    let written = Outcome { name: Some("a/b.jpg".into()), ..ok(0) };
    record(&*store, &id, vec![written.clone()]).await.unwrap();
    let page = store.read(&id, Order::Input, 0, 1).await.unwrap();
    assert_eq!(serde_json::to_value(&*page.outcomes[0]).unwrap(), serde_json::to_value(&written).unwrap());
});

/// A cancelled batch that nobody goes on with ends at what is known of it. Of a [`Shared`] store alone, so not in the suite.
pub async fn a_cancelled_batch_that_nobody_goes_on_with_is_closed(store: &dyn Shared) {
    const FAR: u64 = 70_000;
    let cancelled = |index| outcome(index, Ending::Cancelled);
    let [deserted, running, sealed] = [opened(store).await, opened(store).await, opened(store).await];
    store.seal(&sealed, 9).await.unwrap();
    store.cancel(&sealed).await.unwrap();
    store.accept(&deserted, 2).await.unwrap();
    record(store, &deserted, vec![ok(0), cancelled(FAR)]).await.unwrap();
    store.cancel(&deserted).await.unwrap();
    assert!(store.close(&deserted, PATIENCE).await.unwrap().is_empty(), "it may be gone on with");
    assert_eq!(store.progress(&deserted).await.unwrap().total, None);

    for (batch, total) in [(&running, None), (&sealed, Some(9))] {
        assert!(store.close(batch, Duration::ZERO).await.unwrap().is_empty());
        assert_eq!(store.progress(batch).await.unwrap().total, total);
    }
    let mut open = Vec::new();
    loop {
        let some = store.close(&deserted, Duration::ZERO).await.unwrap();
        if some.is_empty() {
            break;
        }
        record(store, &deserted, some.iter().map(|index| cancelled(index.0)).collect()).await.unwrap();
        open.extend(some.into_iter().map(|index| index.0));
    }

    assert!(open.into_iter().eq(2..FAR), "those that the broker is not known to have");
    let progress = store.progress(&deserted).await.unwrap();
    assert_eq!((progress.total, progress.is_complete()), (Some(FAR + 1), false), "of item 1 an outcome will come");
    for late in [vec![ok(FAR + 1)], vec![ok(1), ok(FAR + 2), ok(FAR + 3)], vec![]] {
        record(store, &deserted, late).await.unwrap();
    }
    store.seal(&deserted, FAR + 4).await.unwrap();
    let books = store.verify(&deserted).await.unwrap();
    assert!(books.balance(), "{books:?}");
    assert_eq!((books.total, books.counts[Status::Ok as usize], books.duplicates), (Some(FAR + 1), 2, 0));
    assert!(store.info(&deserted).await.unwrap().completed.is_some());
}

/// Of two who open a batch under one id, one makes it and the other is given that one. Of a [`Shared`] store alone.
pub async fn who_opens_second_is_given_what_the_first_opened(store: &dyn Shared) {
    let first = batch();
    let second = Batch { options: raw(&serde_json::json!({"expr": "x+1"})), ..first.clone() };

    assert!(store.begin(&first).await.unwrap().is_none());
    for _ in 0..2 {
        let known = store.begin(&second).await.unwrap().expect("it was opened");
        assert_eq!((known.id, known.options.get()), (first.id.clone(), first.options.get()));
    }

    let kept = store.info(&first.id).await.unwrap().batch;
    assert_eq!(kept.options.get(), first.options.get());
}

/// Lists end where they have enough entries or bytes, with one entry at least. Of a [`Shared`] store alone.
pub async fn lists_end_where_they_are_full(store: &dyn Shared) {
    const BYTES: usize = 10_000;
    let large = raw(&"x".repeat(BYTES));
    let mut ids = Vec::new();
    for _ in 0..3 {
        let batch = Batch { options: large.clone(), ..batch() };
        store.open(&batch).await.unwrap();
        let failure = Failure::permanent("crash", "it ended its worker");
        let dead = |index| Outcome { input: large.clone(), ..outcome(index, Ending::Dead(failure.clone())) };
        record(store, &batch.id, (0..2).map(dead).collect()).await.unwrap();
        ids.push(batch.id);
        // Lists go by the millisecond.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let (two, none) = (AtMost { count: 9, bytes: 5 * BYTES / 2 }, AtMost { count: 9, bytes: 0 });

    let listed = async |most| store.list(most).await.unwrap().into_iter().map(|info| info.batch.id).collect::<Vec<_>>();
    assert_eq!(listed(AtMost::entries(9)).await, [ids[2].clone(), ids[1].clone(), ids[0].clone()]);
    assert_eq!(listed(two).await, [ids[2].clone(), ids[1].clone()]);
    assert_eq!(listed(none).await, [ids[2].clone()]);
    assert!(listed(AtMost::entries(0)).await.is_empty());

    for (most, of_all, of_one) in
        [(AtMost::entries(9), 6, 2), (AtMost::entries(5), 5, 2), (two, 2, 2), (none, 1, 1), (AtMost::entries(0), 0, 0)]
    {
        assert_eq!(store.dead(None, most).await.unwrap().len(), of_all, "{most:?}");
        let dead = store.dead(Some(&ids[1]), most).await.unwrap();
        assert_eq!(
            dead.iter().map(|item| item.index).collect::<Vec<_>>(),
            (0..of_one).collect::<Vec<u64>>(),
            "{most:?}"
        );
    }
}
