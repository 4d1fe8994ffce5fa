//! The contract on a real RabbitMQ, and what is only true of it.

use std::sync::Arc;

use futures::FutureExt as _;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use tidemill_testing::{Rabbit, Signal, or_skip, unique};

use super::*;
use crate::batch::BatchId;
use crate::broker::{Body, Delivery, Settlement, conformance};
use crate::task::Lane;

const JOBS: Queue = Queue::Jobs(Lane::Cpu);
const EXPRESS: Queue = Queue::Express(Lane::Cpu);
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker, and what keeps its server alive.
struct Sandbox {
    broker: RabbitMq,
    _server: Rabbit,
}

fn options(server: &Rabbit) -> Options {
    options_at(server.url())
}

fn options_at(url: impl Into<String>) -> Options {
    Options {
        url: url.into(),
        password: None,
        prefix: unique(),
        name: "test".into(),
        patience: None,
        look_ahead: None,
        used: None,
    }
}

async fn sandbox() -> Option<Sandbox> {
    let server = or_skip(Rabbit::shared())?;
    let broker = RabbitMq::connect(options(&server)).unwrap();
    broker.ready(Some(PATIENCE)).await.unwrap();
    Some(Sandbox { broker, _server: server })
}

/// For the suite: the server lives as long as the process.
async fn make() -> Option<Arc<dyn Broker>> {
    let Sandbox { broker, _server } = sandbox().await?;
    std::mem::forget(_server);
    Some(Arc::new(broker))
}

crate::broker_conformance!(make);

async fn next(deliveries: &mut Deliveries) -> Delivery {
    tokio::time::timeout(PATIENCE, deliveries.next()).await.expect("a delivery comes").expect("the consumer goes on")
}

fn index(delivery: &Delivery) -> u64 {
    match &delivery.message.body {
        Body::Chunk(chunk) => chunk.items[0].index.0,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_no_queue_takes_is_an_error_and_its_neighbours_are_not() {
    let Some(Sandbox { broker, _server }) = sandbox().await else { return };
    let live = broker.consuming.get().live(None).await.unwrap();
    let channel = live.connection.create_channel().await.unwrap();
    for name in broker.topology.names(Queue::Jobs(Lane::Vision)) {
        channel.queue_delete(name.as_str().into(), Default::default()).await.unwrap();
    }

    let publishing = (0..200).map(|n| {
        let queue = if n % 50 == 7 { Queue::Jobs(Lane::Vision) } else { JOBS };
        let broker = broker.clone();
        async move { broker.publish(queue, conformance::work(n)).await.map_err(|error| error.kind) }
    });
    let results = futures::future::join_all(publishing).await;

    for (n, result) in results.into_iter().enumerate() {
        let expected = if n % 50 == 7 { Err(BrokerErrorKind::Unroutable) } else { Ok(()) };
        assert_eq!(result, expected, "{n}");
    }
}

#[tokio::test]
async fn nobody_there_is_unreachable_once_patience_is_over() {
    let patience = Some(Duration::from_millis(200));
    let options = Options { patience, ..options_at("amqp://127.0.0.1:1,amqp://127.0.0.1:2") };
    let broker = RabbitMq::connect(options).unwrap();

    let error = broker.publish(JOBS, conformance::work(0)).await.unwrap_err();

    assert_eq!(error.kind, BrokerErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("amqp://127.0.0.1:1, amqp://127.0.0.1:2"), "{error}");
    assert!(matches!(broker.health(), Health::Away(_)));
}

#[tokio::test]
async fn a_wrong_password_is_told_at_once() {
    let Some(server) = or_skip(Rabbit::shared()) else { return };
    let broker = RabbitMq::connect(Options { password: Some("wrong".into()), ..options(&server) }).unwrap();

    let error = broker.ready(None).await.unwrap_err();

    assert_eq!(error.kind, BrokerErrorKind::Mismatch);
    assert!(error.to_string().contains("password"), "{error}");
}

#[tokio::test]
async fn the_second_address_is_tried_where_the_first_is_dead() {
    let Some(server) = or_skip(Rabbit::shared()) else { return };
    let url = format!("amqp://127.0.0.1:1,{}", server.url());
    let broker = RabbitMq::connect(Options { url, ..options(&server) }).unwrap();
    broker.ready(Some(PATIENCE)).await.unwrap();
}

#[tokio::test]
async fn an_address_in_brackets_is_not_taken_for_this_machine() {
    let at = |url| RabbitMq::connect(options_at(url));
    let broker = at("amqp://user:p%5Bss@[2001:db8::5]:1/%2f?heartbeat=5,amqps://[::1]").unwrap();
    assert_eq!(broker.addresses(), "amqp://[2001:db8::5]:1, amqps://[::1]:5671");
    assert_eq!(at("amqp://[here]:5672").unwrap_err().kind, BrokerErrorKind::Mismatch);
}

#[tokio::test]
async fn whoever_uses_a_few_queues_declares_no_others() {
    let Some(server) = or_skip(Rabbit::shared()) else { return };
    let patience = Some(Duration::from_secs(10));
    let used = Used { queues: vec![Queue::Results, JOBS], priority: Priority::default() };
    let options = Options { used: Some(used), patience, ..options(&server) };
    let broker = RabbitMq::connect(options).unwrap();

    broker.publish(JOBS, conformance::work(0)).await.unwrap();
    let urgent = Message { priority: Priority(1), ..conformance::work(0) };
    for (queue, message) in [(Queue::Jobs(Lane::Vision), conformance::work(0)), (JOBS, urgent)] {
        let error = broker.publish(queue, message).await.unwrap_err();
        assert_eq!(error.kind, BrokerErrorKind::Unroutable, "{error}");
    }
    assert_eq!(broker.depth(JOBS).await.unwrap(), 1);
}

#[tokio::test]
async fn a_queue_that_was_declared_in_another_way_is_reported_with_what_mends_it() {
    let Some(Sandbox { broker, _server }) = sandbox().await else { return };
    let name = broker.topology.names(Queue::Results).remove(0);
    let live = broker.consuming.get().live(None).await.unwrap();
    let channel = live.connection.create_channel().await.unwrap();
    channel.queue_delete(name.as_str().into(), Default::default()).await.unwrap();
    let durable = lapin::options::QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(name.as_str().into(), durable, Default::default()).await.unwrap();
    let prefix = name.trim_end_matches(".results").to_owned();

    let second = RabbitMq::connect(Options { prefix, ..options(&_server) }).unwrap();
    let error = second.ready(None).await.unwrap_err();

    assert_eq!(error.kind, BrokerErrorKind::Mismatch);
    assert!(error.to_string().contains(&format!("rabbitmqctl delete_queue {name}")), "{error}");
}

#[tokio::test]
async fn what_cannot_be_read_goes_to_the_dead_letters_and_the_consumer_lives() {
    let Some(Sandbox { broker, _server }) = sandbox().await else { return };
    let route = broker.topology.route(JOBS, &conformance::work(0));
    for (kind, bytes) in [("tidemill.chunk", "{\"v\":1"), ("nonsense", "\u{0}\u{1}"), ("tidemill.chunk", "{\"v\":9}")] {
        broker.post(message::dead(bytes.into(), Some(kind), "", route.clone())).await.unwrap();
    }
    broker.publish(JOBS, conformance::work(5)).await.unwrap();

    let mut jobs = broker.consume(JOBS, Permits(1), CancellationToken::new()).await.unwrap();
    assert_eq!(index(&next(&mut jobs).await), 5);

    let mut dead = broker.consume(Queue::Dead, Permits(10), CancellationToken::new()).await.unwrap();
    let mut reasons = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut dead).await;
        assert!(matches!(delivery.message.body, Body::Unreadable(_)));
        reasons.push(delivery.message.refusal.clone().unwrap());
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    let has = |part: &str| reasons.iter().any(|reason| reason.contains(part));
    assert!(has("EOF") && has("none of tidemill.open") && has("version 9"), "{reasons:?}");
}

#[tokio::test]
async fn what_cannot_be_read_takes_nothing_from_a_consumer_that_asks_once_and_no_more() {
    let Some(Sandbox { broker, _server }) = sandbox().await else { return };
    let route = broker.topology.route(JOBS, &conformance::work(0));
    for number in 0..40 {
        broker.post(message::dead("{".into(), Some("tidemill.chunk"), "", route.clone())).await.unwrap();
        broker.publish(JOBS, conformance::work(number)).await.unwrap();
    }

    let mut jobs = broker.consume(JOBS, Permits(4), CancellationToken::new()).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 40 {
        let mut held = vec![next(&mut jobs).await];
        while let Some(Some(more)) = jobs.next().now_or_never() {
            held.push(more);
        }
        for delivery in held {
            seen.push(index(&delivery));
            delivery.settle(Settlement::Ack).await.unwrap();
        }
    }

    assert_eq!(seen, (0..40).collect::<Vec<_>>());
    let mut dead = broker.consume(Queue::Dead, Permits(10), CancellationToken::new()).await.unwrap();
    for _ in 0..40 {
        next(&mut dead).await.settle(Settlement::Ack).await.unwrap();
    }
}

#[tokio::test]
async fn what_goes_in_a_hurry_needs_a_worker_and_is_answered_straight() {
    let Some(Sandbox { broker, _server }) = sandbox().await else { return };
    assert_eq!(broker.reply_to(), None, "nobody listens yet");
    let mut replies = broker.replies().await.unwrap();
    let reply_to = broker.reply_to();
    let message = || Message { reply_to: reply_to.clone(), ..conformance::work(0) };
    let kind = |published: Result<(), BrokerError>| published.map_err(|error| error.kind);
    assert_eq!(kind(broker.publish(EXPRESS, message()).await), Err(BrokerErrorKind::Unroutable));

    let (worker, stop) = (broker.clone(), CancellationToken::new());
    let mut chunks = worker.consume(EXPRESS, Permits(1), stop.clone()).await.unwrap();
    let first = async {
        // Where a consumer is about to be.
        let publishing = while_so(async || broker.publish(EXPRESS, message()).await.is_err());
        tokio::join!(next(&mut chunks), publishing).0
    };
    let first = first.await;
    assert!(reply_to.is_some() && first.message.reply_to == reply_to);

    // What is no reply is passed over.
    let to = first.message.reply_to.as_ref().unwrap();
    let rubbish = Parcel { bytes: "rubbish".into(), ..message::reply(to, &Reply::Declined(BatchId::new())) };
    publish::toss(&worker.publishing, rubbish).await;
    let (outcome, declined) = (conformance::outcome(), BatchId::new());
    worker.reply(to, Reply::Outcomes(outcome.clone())).await;
    worker.reply(to, Reply::Declined(declined.clone())).await;
    worker.reply(to, Reply::Passed(declined.clone())).await;
    let mut said = Vec::new();
    for _ in 0..3 {
        said.push(tokio::time::timeout(PATIENCE, replies.next()).await.unwrap().unwrap());
    }
    assert!(matches!(&said[0], Reply::Outcomes(segment) if segment.batch() == outcome.batch()), "{said:?}");
    assert!(matches!(&said[1], Reply::Declined(batch) if *batch == declined), "{said:?}");
    assert!(matches!(&said[2], Reply::Passed(batch) if *batch == declined), "{said:?}");

    // Behind one that is worked on the next is dropped in a while: its sender has it, and sends it by the other way.
    broker.publish(EXPRESS, message()).await.unwrap();
    let waits = async || broker.depth(EXPRESS).await.unwrap() > 0;
    while_so(waits).await;
    first.settle(Settlement::Ack).await.unwrap();
    broker.publish(EXPRESS, conformance::work(1)).await.unwrap();
    let second = next(&mut chunks).await;
    assert_eq!(index(&second), 1);
    second.settle(Settlement::Ack).await.unwrap();

    // With the last worker the queue goes.
    stop.cancel();
    assert!(chunks.next().await.is_none());
    let is_there = async || kind(broker.publish(EXPRESS, message()).await) != Err(BrokerErrorKind::Unroutable);
    while_so(is_there).await;
}

/// Waits while something is so, which the broker changes.
async fn while_so(is_so: impl AsyncFn() -> bool) {
    let waiting = async {
        while is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it changes");
}

#[test]
fn only_a_queue_that_the_broker_has_named_gets_replies() {
    for name in ["tidemill.jobs.cpu", "amq.gen-", "amq.gen-a b", &format!("amq.gen-{}", "x".repeat(100)), ""] {
        assert_eq!(ReplyTo::new(name), None, "{name}");
    }
    assert_eq!(ReplyTo::new("amq.gen-JzTY2BRgKO").unwrap().as_str(), "amq.gen-JzTY2BRgKO");
}

#[tokio::test]
async fn a_killed_broker_comes_back_with_all_that_was_confirmed() {
    let Some(mut server) = or_skip(Rabbit::own()) else { return };
    let broker = RabbitMq::connect(options(&server)).unwrap();
    broker.ready(Some(PATIENCE)).await.unwrap();
    let mut notices = broker.notices().await.unwrap();
    let mut replies = broker.replies().await.unwrap();
    let mut jobs = broker.consume(JOBS, Permits(2), CancellationToken::new()).await.unwrap();
    for n in 0..20 {
        broker.publish(JOBS, conformance::work(n)).await.unwrap();
    }
    let held = next(&mut jobs).await;
    assert_eq!(index(&held), 0);

    server.kill();
    // Published while it is away: waits, and is there in the end.
    let late = tokio::spawn({
        let broker = broker.clone();
        async move { broker.publish(JOBS, conformance::work(20)).await }
    });
    server.start();
    late.await.unwrap().unwrap();
    // Its channel is gone: this acknowledges nothing.
    held.settle(Settlement::Ack).await.unwrap();

    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 21 {
        let delivery = next(&mut jobs).await;
        seen.insert(index(&delivery));
        delivery.settle(Settlement::Ack).await.unwrap();
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), (0..21).collect::<Vec<_>>());

    // Who listened before hears again, as soon as its queue is there again.
    let notice = Notice::Drain(Some("w".into()));
    let heard = loop {
        broker.announce(notice.clone()).await.unwrap();
        if let Ok(heard) = tokio::time::timeout(Duration::from_millis(200), notices.next()).await {
            break heard;
        }
    };
    assert_eq!(heard, Some(notice));

    // So does whoever takes in replies, at another address.
    let reply = loop {
        if let Some(to) = broker.reply_to() {
            broker.reply(&to, Reply::Outcomes(conformance::outcome())).await;
        }
        if let Ok(reply) = tokio::time::timeout(Duration::from_millis(200), replies.next()).await {
            break reply;
        }
    };
    assert!(reply.is_some());
}

#[tokio::test]
async fn a_memory_alarm_blocks_and_is_told_and_passes() {
    let Some(server) = or_skip(Rabbit::own()) else { return };
    let patient = RabbitMq::connect(options(&server)).unwrap();
    patient.publish(JOBS, conformance::work(0)).await.unwrap();
    let patience = Some(Duration::from_millis(500));
    let broker = RabbitMq::connect(Options { patience, ..options(&server) }).unwrap();
    broker.ready(Some(PATIENCE)).await.unwrap();

    server.control(&["set_vm_memory_high_watermark", "absolute", "1MB"]);
    loop {
        // The alarm is raised at the node's next look at its memory; and a busy node may confirm later than that.
        match broker.publish(JOBS, conformance::work(1)).await {
            Err(error) if error.kind == BrokerErrorKind::Blocked => break,
            Err(error) => assert_eq!(error.kind, BrokerErrorKind::NotConfirmed, "{error}"),
            Ok(()) => {}
        }
    }
    assert!(matches!(broker.health(), Health::Blocked(_)));

    server.control(&["set_vm_memory_high_watermark", "absolute", "2GB"]);
    while broker.publish(JOBS, conformance::work(2)).await.is_err() {}
    assert_eq!(broker.health(), Health::Ready);
}

#[tokio::test]
async fn a_broker_that_falls_silent_is_away_until_it_speaks_again() {
    let Some(mut server) = or_skip(Rabbit::own()) else { return };
    let (url, patience) = (format!("{}/%2f?heartbeat=2", server.url()), Some(Duration::from_secs(1)));
    let broker = RabbitMq::connect(Options { url, patience, ..options(&server) }).unwrap();
    broker.ready(Some(PATIENCE)).await.unwrap();

    // It holds its connections, and takes new ones, as far as the system does that for it.
    server.signal(Signal::SIGSTOP);
    loop {
        let asked = Instant::now();
        let error = broker.publish(JOBS, conformance::work(1)).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert!(asked.elapsed() < Duration::from_secs(5), "whoever has little patience waits no longer");
        if matches!(broker.health(), Health::Away(_)) {
            break;
        }
    }

    server.signal(Signal::SIGCONT);
    while broker.publish(JOBS, conformance::work(2)).await.is_err() {}
    assert_eq!(broker.health(), Health::Ready);
}

#[tokio::test]
async fn a_consumer_whose_queue_is_deleted_and_declared_anew_goes_on() {
    let Some(Sandbox { broker, _server: server }) = sandbox().await else { return };
    let mut jobs = broker.consume(JOBS, Permits(1), CancellationToken::new()).await.unwrap();
    broker.publish(JOBS, conformance::work(0)).await.unwrap();
    let before = next(&mut jobs).await;
    assert_eq!(index(&before), 0);
    before.settle(Settlement::Ack).await.unwrap();

    let deleting = async {
        let live = broker.consuming.get().live(None).await.unwrap();
        let channel = live.connection.create_channel().await.unwrap();
        let names = broker.topology.names(JOBS);
        for name in &names {
            channel.queue_delete(name.as_str().into(), Default::default()).await.unwrap();
        }
        // RabbitMQ tells consumers a moment later, and never where the queue is there again by then.
        let is_one = |name: &str| names.iter().any(|queue| queue == name);
        while server.control(&["list_consumers", "queue_name"]).lines().any(is_one) {
            tokio::task::yield_now().await;
        }
        // RabbitMQ 4 may end the connection over it, while what was deleted is still going.
        let declared = async || {
            let live = broker.consuming.get().live(None).await.unwrap();
            let channel = live.connection.create_channel().await.map_err(|error| error.to_string())?;
            broker.topology.declare(&channel).await.map_err(|(_, reason)| reason)
        };
        while declared().await.is_err() {
            tokio::task::yield_now().await;
        }
        broker.publish(JOBS, conformance::work(1)).await.unwrap();
    };
    let (after, ()) = tokio::join!(next(&mut jobs), deleting);

    assert_eq!(index(&after), 1);
    after.settle(Settlement::Ack).await.unwrap();
}

#[tokio::test]
async fn who_asks_for_another_number_at_a_time_leaves_no_consumer_behind_that_is_filled_up_again() {
    let Some(Sandbox { broker, _server }) = sandbox().await else { return };
    let live = broker.consuming.get().live(None).await.unwrap();
    let channel = live.connection.create_channel().await.unwrap();
    let name = broker.topology.names(JOBS).pop().unwrap();
    // How many wait, and how many consumers there are.
    let now = async || {
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue = channel.queue_declare(name.as_str().into(), passive, FieldTable::default()).await.unwrap();
        (queue.message_count(), queue.consumer_count())
    };
    let until = async |hoped: (u32, u32)| {
        while now().await != hoped {
            tokio::task::yield_now().await;
        }
    };
    for item in 0..200 {
        broker.publish(JOBS, conformance::work(item)).await.unwrap();
    }
    until((200, 0)).await;

    // Of the first eight the size is known only when all are there: then as many are asked for as may be held.
    let mut jobs = broker.consume(JOBS, Permits(64), CancellationToken::new()).await.unwrap();
    let mut held = Vec::new();
    while held.len() < 8 {
        held.push(next(&mut jobs).await);
    }
    // The old one counts as long as something of it is held.
    until((200 - 8 - 64, 2)).await;

    // Nobody asks for more meanwhile: nothing but the old one could be filled up.
    for job in held {
        job.settle(Settlement::Ack).await.unwrap();
    }
    until((200 - 8 - 64, 1)).await;
    for item in 8..200 {
        let job = next(&mut jobs).await;
        assert_eq!(index(&job), item);
        job.settle(Settlement::Ack).await.unwrap();
    }
    until((0, 1)).await;
}

#[tokio::test]
async fn what_a_full_queue_will_not_have_is_refused_until_there_is_room() {
    let Some(Sandbox { broker, _server: server }) = sandbox().await else { return };
    let queue = broker.topology.names(JOBS).pop().unwrap();
    let pattern = format!("^{}$", queue.replace('.', "\\."));
    let limit = r#"{"max-length":1,"overflow":"reject-publish"}"#;
    server.control(&["set_policy", "--apply-to", "queues", &queue, &pattern, limit]);

    // A quorum queue looks at its length a little later.
    let mut taken = 0;
    let error = loop {
        match broker.publish(JOBS, conformance::work(taken)).await {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 10_000, "it has no limit");
    };
    assert_eq!(error.kind, BrokerErrorKind::Refused, "{error}");
    assert!(!error.is_transient() && error.to_string().contains("(nack)"), "{error}");
    assert_eq!(broker.health(), Health::Ready);

    let mut jobs = broker.consume(JOBS, Permits(1), CancellationToken::new()).await.unwrap();
    let take = async |jobs: &mut Deliveries| {
        let delivery = next(jobs).await;
        let number = index(&delivery);
        delivery.settle(Settlement::Ack).await.unwrap();
        number
    };
    for n in 0..taken {
        assert_eq!(take(&mut jobs).await, n);
    }
    while broker.publish(JOBS, conformance::work(taken)).await.is_err() {}
    assert_eq!(take(&mut jobs).await, taken, "what was confirmed is there, and nothing else");
    server.control(&["clear_policy", &queue]);
}
