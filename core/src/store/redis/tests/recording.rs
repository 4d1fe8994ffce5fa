use std::collections::BTreeSet;

use super::*;
use crate::segment::MAX_INDEX;

#[tokio::test]
async fn a_write_that_is_repeated_is_suppressed_and_counted() {
    let Some(store) = store() else { return };
    let id = opened(&store, Some(5000)).await;
    let segments = Segment::encode(&id, &oks(0..5000));

    for _ in 0..3 {
        let results = store.record_segments(&segments).await;
        assert!(results.iter().all(Result::is_ok));
    }

    let progress = store.progress(&id).await.unwrap();
    assert_eq!((progress.recorded(), progress.duplicates), (5000, 10_000));
    assert_eq!(read_all(&store, &id, Order::Completion, 999).await, Vec::from_iter(0..5000));
    assert!(store.verify(&id).await.unwrap().balance());
}

#[tokio::test]
async fn of_a_segment_that_is_known_in_part_the_rest_is_recorded() {
    let Some(store) = store() else { return };
    let id = opened(&store, Some(100)).await;
    store.record(&id, &oks((0..100).filter(|index| index % 3 == 0))).await.unwrap();
    let late = outcome(3, Ending::Cancelled);

    store.record(&id, &[vec![late], oks((0..100).filter(|index| *index != 3))].concat()).await.unwrap();

    let progress = store.progress(&id).await.unwrap();
    assert_eq!((progress.count(Status::Ok), progress.recorded(), progress.duplicates), (100, 100, 34));
    assert!(progress.is_complete());
    assert_eq!(read_all(&store, &id, Order::Input, 7).await, Vec::from_iter(0..100));
    assert!(store.verify(&id).await.unwrap().balance());
}

#[tokio::test]
async fn two_of_one_item_in_the_same_call_are_one_and_a_duplicate() {
    let Some(store) = store() else { return };
    let id = opened(&store, None).await;
    store.record(&id, &[ok(4), ok(4), ok(5)]).await.unwrap();
    let segments = [Segment::encode(&id, &[ok(6)]), Segment::encode(&id, &[ok(6), ok(7)])].concat();

    assert!(store.record_segments(&segments).await.iter().all(Result::is_ok));

    let progress = store.progress(&id).await.unwrap();
    assert_eq!((progress.recorded(), progress.duplicates), (4, 2));
}

#[tokio::test]
async fn segments_of_many_batches_each_have_their_own_result() {
    let Some(store) = store() else { return };
    let known = [opened(&store, None).await, opened(&store, None).await];
    let unknown = BatchId::new();
    let mut segments = Vec::new();
    for id in [&known[0], &unknown, &known[1], &unknown, &known[0]] {
        let next = segments.len() as u64;
        segments.extend(Segment::encode(id, &[ok(next)]));
    }

    let results = store.record_segments(&segments).await;

    let kinds: Vec<_> = results.iter().map(|result| result.as_ref().err().map(|error| error.kind)).collect();
    let gone = Some(StoreErrorKind::Unknown);
    assert_eq!(kinds, [None, gone, None, gone, None]);
    assert_eq!(read_all(&store, &known[0], Order::Completion, 10).await, [0, 4]);
    assert!(keys(&store, Some(&unknown)).await.is_empty(), "nothing is made of an unknown batch");
}

#[tokio::test]
async fn scattered_and_huge_indices_cost_a_page_each() {
    let Some(store) = store() else { return };
    let id = opened(&store, None).await;
    let borders = [7, 8, 4095, 4096, 65_535, 65_536, 65_567, 65_568, 1 << 32, (1 << 40) + 3, MAX_INDEX - 1, MAX_INDEX];

    store.record(&id, &oks(borders)).await.unwrap();
    store.record(&id, &oks(borders)).await.unwrap();
    store.record(&id, &oks(borders[4]..borders[4] + 200)).await.unwrap();

    let progress = store.progress(&id).await.unwrap();
    assert_eq!((progress.recorded(), progress.duplicates), (12 + 196, 12 + 4));
    let mut bytes = 0;
    for key in keys(&store, Some(&id)).await.iter().filter(|key| key.contains(":bits:")) {
        bytes += ask::<u64>(&store, &["STRLEN", key]).await;
    }
    assert!(bytes <= 6 * 8192, "{bytes}");
    let books = store.verify(&id).await.unwrap();
    assert_eq!((books.doubled, books.missing), (0, MAX_INDEX + 1 - 208));
    assert_eq!(books.missing_first[..3], [(0, 7), (9, 4095), (4097, 65_535)]);
    assert_eq!(store.read(&id, Order::Input, MAX_INDEX - 1, 10).await.unwrap().outcomes.len(), 2);
    assert_eq!(store.read(&id, Order::Input, u64::MAX, 10).await.unwrap().outcomes.len(), 0);
}

#[tokio::test]
async fn every_range_marks_its_items_and_no_others() {
    let Some(store) = store() else { return };
    for (from, to) in
        [(0, 1), (3, 5), (0, 32), (1, 33), (1, 34), (8, 40), (5, 300), (65_500, 65_600), (65_536, 131_072)]
    {
        let id = opened(&store, None).await;
        store.record(&id, &oks(from..to)).await.unwrap();
        let beside = from.saturating_sub(1)..to + 1;
        store.record(&id, &oks(beside.clone())).await.unwrap();
        let progress = store.progress(&id).await.unwrap();
        assert_eq!((progress.recorded(), progress.duplicates), (beside.end - beside.start, to - from), "{from}..{to}");
    }
}

/// Segments of every shape over the same items, which together hold each of them.
fn random_segments(id: &BatchId, total: u64, random: &mut fastrand::Rng) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut left: BTreeSet<u64> = (0..total).collect();
    for _ in 0..40 {
        let (start, length) = (random.u64(0..total), random.usize(1..300));
        let step = if random.bool() { 1 } else { random.usize(1..50) };
        let indices: Vec<_> = (start..total).step_by(step).take(length).collect();
        for index in &indices {
            left.remove(index);
        }
        segments.extend(Segment::encode(id, &oks(indices)));
    }
    for some in Vec::from_iter(left).chunks(random.usize(1..100)) {
        segments.extend(Segment::encode(id, &oks(some.iter().copied())));
    }
    random.shuffle(&mut segments);
    segments
}

#[tokio::test]
async fn of_recorders_that_overlap_each_item_is_recorded_once() {
    let Some(store) = store() else { return };
    for seed in 0..5 {
        let total = 3000;
        let id = opened(&store, Some(total)).await;
        let sent: u64 = futures::future::join_all((0..3).map(|recorder| {
            let (store, id) = (Arc::clone(&store), id.clone());
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed * 10 + recorder);
                let segments = random_segments(&id, total, &mut random);
                for some in segments.chunks(random.usize(1..40)) {
                    assert!(store.record_segments(some).await.iter().all(Result::is_ok));
                }
                segments.iter().map(Segment::len).sum::<u64>()
            })
        }))
        .await
        .into_iter()
        .map(Result::unwrap)
        .sum();

        let progress = store.progress(&id).await.unwrap();
        assert_eq!((progress.recorded(), progress.duplicates), (total, sent - total), "seed {seed}");
        assert!(store.verify(&id).await.unwrap().balance(), "seed {seed}");
        assert_eq!(read_all(&store, &id, Order::Input, 777).await, Vec::from_iter(0..total));
        let mut landed = read_all(&store, &id, Order::Completion, 777).await;
        landed.sort_unstable();
        assert_eq!(landed, Vec::from_iter(0..total));
    }
}
