use super::*;
use crate::store::frame::Frames;

/// The page's lines, where to go on, and whether it is the last.
async fn lines(store: &Redis, id: &BatchId, order: Order, from: u64, limit: usize) -> (String, u64, bool) {
    let fetched = store.fetch(id, order, from, AtMost::entries(limit)).await.unwrap();
    let (count, next, is_last) = (fetched.len(), fetched.next(), fetched.is_last());
    let text = String::from_utf8(fetched.into_lines().unwrap()).unwrap();
    assert_eq!(text.lines().count() as u64, count);
    assert_eq!(by_frame(store, id, order, from, limit).await, (text.clone(), next));
    (text, next, is_last)
}

/// The same for somebody far away.
async fn by_frame(store: &Redis, id: &BatchId, order: Order, from: u64, limit: usize) -> (String, u64) {
    let frame = store.fetch(id, order, from, AtMost::entries(limit)).await.unwrap().into_frame(id);
    let mut frames = Frames::default();
    frames.push(&frame);
    let page = frames.take().unwrap().unwrap();
    let next = page.next();
    (String::from_utf8(page.into_lines().unwrap()).unwrap(), next)
}

#[tokio::test]
async fn text_is_the_outcomes_line_by_line_in_either_order() {
    let Some(store) = store() else { return };
    let id = opened(&store, Some(30)).await;
    let failure = || Failure::transient("timeout", "took \"too\" long");
    for indices in [20..30, 0..7, 7..9, 9..20] {
        let outcomes: Vec<_> = indices
            .map(|index| match index % 5 {
                0 => outcome(index, Ending::Failed(failure())),
                1 => outcome(index, Ending::Cancelled),
                2 => Arc::new(Outcome { maker: Arc::default(), ..Outcome::clone(&ok(index)) }),
                _ => ok(index),
            })
            .collect();
        store.record(&id, &outcomes).await.unwrap();
    }

    for order in [Order::Input, Order::Completion] {
        for (from, limit) in [(0, 100), (0, 3), (5, 10), (29, 1), (30, 1), (100, 5)] {
            let page = store.read(&id, order, from, limit).await.unwrap();
            let mut expected = Vec::new();
            for outcome in &page.outcomes {
                outcome.write_line(&mut expected);
                expected.push(b'\n');
            }
            let (text, next, is_last) = lines(&store, &id, order, from, limit).await;
            assert_eq!(text.as_bytes(), expected, "{order:?} {from} {limit}");
            assert_eq!((next, is_last), (page.next, page.is_last));
        }
    }
}

#[tokio::test]
async fn scattered_outcomes_are_read_in_order_from_the_middle_on() {
    let Some(store) = store() else { return };
    let id = opened(&store, Some(10_000)).await;
    for step in [3, 1, 0, 4, 2] {
        for start in [7500, 5000, 2500, 0] {
            store.record(&id, &oks((start + step..start + 2500).step_by(5))).await.unwrap();
        }
    }

    let page = store.read(&id, Order::Input, 4000, 1000).await.unwrap();

    let indices: Vec<_> = page.outcomes.iter().map(|outcome| outcome.index.0).collect();
    assert_eq!(indices, Vec::from_iter(4000..5000));
    assert_eq!((page.next, page.is_last), (5000, false));
    let (text, _, is_last) = lines(&store, &id, Order::Input, 9990, 1000).await;
    assert_eq!((text.lines().count(), is_last), (10, true));
}

#[tokio::test]
async fn a_page_over_whole_segments_asks_for_no_others() {
    let Some(store) = store() else { return };
    let id = opened(&store, None).await;
    for chunk in 0..20 {
        store.record(&id, &oks(chunk * 1000..(chunk + 1) * 1000)).await.unwrap();
    }

    let prefix = store.prefix(&id, 4000, 1000).await.unwrap();

    assert_eq!((prefix.upto, prefix.tokens.len()), (5000, 1));
    assert_eq!(store.prefix(&id, 4500, 1000).await.unwrap().tokens.len(), 2);
}

#[tokio::test]
async fn a_page_ends_when_it_has_enough_bytes_and_has_one_outcome_at_least() {
    let Some(store) = store() else { return };
    let id = opened(&store, Some(12)).await;
    let large = |index| outcome(index, Ending::Ok(raw(&"x".repeat(3 << 20))));
    for index in [5, 0, 1, 2, 3, 4, 6, 7, 8, 9, 10] {
        store.record(&id, &[large(index)]).await.unwrap();
    }
    store.record(&id, &[outcome(11, Ending::Ok(raw(&"x".repeat(20 << 20))))]).await.unwrap();

    for order in [Order::Input, Order::Completion] {
        let page = store.read(&id, order, 0, 100).await.unwrap();
        assert_eq!(page.outcomes.len(), 3, "{order:?}");
        assert_eq!(store.read(&id, order, 11, 100).await.unwrap().outcomes.len(), 1);
        assert_eq!(read_all(&store, &id, order, 100).await.len(), 12);
    }
}

#[tokio::test]
async fn a_page_that_is_fetched_has_whole_segments_of_about_the_bytes_that_it_may_have() {
    let Some(store) = store() else { return };
    let id = opened(&store, Some(40)).await;
    for start in (0..40).step_by(4) {
        let large = |index| outcome(index, Ending::Ok(raw(&"x".repeat(50_000))));
        store.record(&id, &(start..start + 4).map(large).collect::<Vec<_>>()).await.unwrap();
    }

    for order in [Order::Input, Order::Completion] {
        let mut next = 0;
        let mut ends = Vec::new();
        while next < 40 {
            let fetched = store.fetch(&id, order, next, AtMost { count: 1000, bytes: 300_000 }).await.unwrap();
            next = fetched.next();
            ends.push(next);
        }
        assert_eq!(ends, [8, 16, 24, 32, 40], "{order:?}");
    }
}

#[tokio::test]
async fn pages_of_segments_that_lie_over_one_another_are_worth_what_is_fetched_for_them() {
    let Some(store) = store() else { return };
    let id = opened(&store, Some(4000)).await;
    // Forty makers, each of whom reports a hundred items from all over the batch.
    for maker in 0..40 {
        let padded = |index| outcome(index, Ending::Ok(raw(&"x".repeat(300))));
        store.record(&id, &(0..100).map(|nth| padded(nth * 40 + maker)).collect::<Vec<_>>()).await.unwrap();
    }

    let (mut next, mut pages) = (0, 0);
    while next < 4000 {
        let fetched = store.fetch(&id, Order::Input, next, AtMost { count: 4000, bytes: 100_000 }).await.unwrap();
        next = fetched.next();
        pages += 1;
    }

    assert!(pages <= 2, "{pages} pages, each with all of the segments");
}

#[tokio::test]
async fn a_page_in_the_order_of_landing_ends_with_a_segment_where_that_leaves_half_of_it() {
    let Some(store) = store() else { return };
    let id = opened(&store, Some(60)).await;
    for start in [0, 20, 40] {
        store.record(&id, &oks(start..start + 20)).await.unwrap();
    }
    let ends = [(0, 30), (0, 45), (0, 39), (20, 100), (0, 10)].map(|(from, limit)| (&store, &id, from, limit));
    let mut found = Vec::new();
    for (store, id, from, limit) in ends {
        found.push(store.fetch(id, Order::Completion, from, AtMost::entries(limit)).await.unwrap().next());
    }
    assert_eq!(found, [20, 40, 20, 60, 10]);
}

#[tokio::test]
async fn large_outcomes_behind_many_small_ones_do_not_all_come_at_once() {
    let Some(store) = store() else { return };
    let id = opened(&store, Some(340)).await;
    for index in 0..340 {
        let large = |index| outcome(index, Ending::Ok(raw(&"x".repeat(1 << 20))));
        store.record(&id, &[if index < 300 { ok(index) } else { large(index) }]).await.unwrap();
    }

    for order in [Order::Input, Order::Completion] {
        let page = store.read(&id, order, 0, 340).await.unwrap();

        // As many as there are small ones at a time.
        assert!((308..=316).contains(&page.next), "{order:?}: {}", page.next);
        let rest = store.read(&id, order, page.next, 340).await.unwrap();
        assert!(
            rest.outcomes.len() < 12 && rest.outcomes[0].index.0 == page.next,
            "{order:?}: {}",
            rest.outcomes.len()
        );
    }
}

#[tokio::test]
async fn many_small_segments_are_read_in_a_few_round_trips() {
    let Some(store) = store() else { return };
    let id = opened(&store, Some(5000)).await;
    let segments: Vec<_> = (0..5000).flat_map(|index| Segment::encode(&id, &[ok(index)])).collect();
    assert!(store.record_segments(&segments).await.iter().all(Result::is_ok));

    assert_eq!(read_all(&store, &id, Order::Input, 4096).await, Vec::from_iter(0..5000));
    assert_eq!(read_all(&store, &id, Order::Completion, 4096).await, Vec::from_iter(0..5000));
}

#[tokio::test]
async fn forgetting_gives_the_memory_back_and_keeps_what_is_still_to_be_read() {
    let Some(store) = store() else { return };
    for order in [Order::Input, Order::Completion] {
        let id = opened(&store, Some(20_000)).await;
        for start in (0..20_000).step_by(1000) {
            store.record(&id, &oks(start..start + 1000)).await.unwrap();
        }

        store.forget(&id, order, 10_500).await.unwrap();
        store.forget(&id, order, 3).await.unwrap();

        let left: usize = ask(&store, &["XLEN", &store.keys.outcomes(&id)]).await;
        assert!((10..=12).contains(&left), "{left}");
        assert_eq!(store.read(&id, order, 10_499, 10).await.unwrap_err().kind, StoreErrorKind::Forgotten);
        assert_eq!(store.read(&id, order, 10_500, 10_000).await.unwrap().next, 20_000);
        let other = if order == Order::Input { Order::Completion } else { Order::Input };
        assert_eq!(store.read(&id, other, 0, 10).await.unwrap_err().kind, StoreErrorKind::Forgotten);
        assert_eq!(store.verify(&id).await.unwrap_err().kind, StoreErrorKind::Forgotten);
    }
}
