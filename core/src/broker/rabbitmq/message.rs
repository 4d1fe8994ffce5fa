//! What a message looks like to RabbitMQ.

use std::time::Duration;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde::{Deserialize, Serialize};

use super::publish::Parcel;
use super::topology::Route;
use crate::batch::{BatchId, ItemIndex, Priority};
use crate::broker::{Body, EXPRESS_WAIT, Message, Notice, Reply, ReplyTo};
use crate::segment::Segment;
use crate::wire::{self, Malformed};

/// On disk before it is confirmed.
const PERSISTENT: u8 = 2;
/// In memory only.
const TRANSIENT: u8 = 1;

/// Our headers. Most repeat for operators what the body says; what we read back is marked so.
mod headers {
    pub(super) const VERSION: &str = "v";
    pub(super) const BATCH: &str = "batch";
    /// W3C Trace Context: a batch is a trace, a chunk a span of it.
    pub(super) const TRACE: &str = "traceparent";
    pub(super) const TASK: &str = "task";
    /// The index of the chunk's first item, which names the chunk within its batch.
    pub(super) const CHUNK: &str = "chunk";
    /// Read back: see [`super::Message::rounds`].
    pub(super) const ROUNDS: &str = "rounds";
    /// Read back: see [`super::Message::refusal`].
    pub(super) const REASON: &str = "reason";
    /// The broker's own count, in quorum queues.
    pub(super) const DELIVERIES: &str = "x-delivery-count";
}

/// A body of fewer bytes says what it is at a glance, and goes without the headers that repeat it: the broker and both clients
/// take each of them apart for every message, and the five of a chunk of one short item are an eighth of what it costs in all.
const AT_A_GLANCE: usize = 1 << 10;

/// A message, ready to be published.
pub(super) fn parcel(message: &Message, bytes: Bytes, route: Route) -> Parcel {
    let mut fields = FieldTable::default();
    if bytes.len() >= AT_A_GLANCE || message.refusal.is_some() {
        repeat(&message.body, &mut fields);
    }
    if message.rounds > 0 {
        fields.insert(headers::ROUNDS.into(), number(message.rounds.into()));
    }
    if let Some(reason) = &message.refusal {
        fields.insert(headers::REASON.into(), text(&reason.chars().take(2000).collect::<String>()));
    }
    let mut properties =
        BasicProperties::default().with_delivery_mode(PERSISTENT).with_content_type("application/json".into());
    if !fields.inner().is_empty() {
        properties = properties.with_headers(fields);
    }
    if let Some(kind) = message.body.kind() {
        properties = properties.with_type(kind.as_str().into());
    }
    if message.priority > Priority(0) {
        properties = properties.with_priority(message.priority.0);
    }
    if let Some(delay) = route.delay {
        properties = properties.with_expiration(delay.to_string().as_str().into());
    }
    Parcel { route, bytes, properties, is_mandatory: true }
}

/// The headers that repeat what a body says.
fn repeat(body: &Body, fields: &mut FieldTable) {
    let mut set = |name: &str, value: AMQPValue| {
        fields.insert(name.into(), value);
    };
    set(headers::VERSION, number(wire::VERSION));
    if let Some(batch) = body.batch() {
        set(headers::BATCH, text(batch.as_str()));
        if let Some(parent) = trace_parent(batch, body) {
            set(headers::TRACE, text(&parent));
        }
    }
    if let Body::Chunk(chunk) = body {
        set(headers::TASK, text(&chunk.batch.task));
        set(headers::CHUNK, number(chunk.items.first().map_or(0, |item| item.index.0)));
    }
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn number(number: u64) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX))
}

/// A message for a queue in memory, where it is dropped if nobody takes it in time: with nothing but what its way needs.
pub(super) fn in_a_hurry(message: &Message, bytes: Bytes, route: Route) -> Parcel {
    let wait = EXPRESS_WAIT.as_millis().to_string();
    let mut properties = BasicProperties::default().with_delivery_mode(TRANSIENT).with_expiration(wait.as_str().into());
    if let Some(kind) = message.body.kind() {
        properties = properties.with_type(kind.as_str().into());
    }
    if let Some(reply_to) = &message.reply_to {
        properties = properties.with_reply_to(reply_to.as_str().into());
    }
    Parcel { route, bytes, properties, is_mandatory: true }
}

/// `00-<trace id>-<parent id>-<flags>`, see <https://www.w3.org/TR/trace-context/#traceparent-header>. The ids that we
/// make have the form of a trace's; one of somebody else's making may not, and is no trace. A span's id is never zero, so
/// the batch itself is span 1 and chunks count from 2.
fn trace_parent(batch: &BatchId, body: &Body) -> Option<String> {
    let id = batch.as_str();
    let is_hex = id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if id.len() != 32 || !is_hex || id.bytes().all(|byte| byte == b'0') {
        return None;
    }
    let span = match body {
        Body::Chunk(chunk) => chunk.items.first().map_or(0, |item| item.index.0).saturating_add(2),
        _ => 1,
    };
    Some(format!("00-{id}-{span:016x}-01"))
}

/// What a delivery holds; a `refusal` where it lies among the dead.
pub(super) fn read(delivery: &mut lapin::message::Delivery, is_dead: bool) -> Result<Message, (Malformed, Bytes)> {
    let bytes = Bytes::from(std::mem::take(&mut delivery.data));
    let properties = &delivery.properties;
    let kind = properties.kind().as_ref().map(|kind| kind.as_str().to_owned()).unwrap_or_default();
    let body = match wire::decode(&kind, bytes.clone()) {
        Ok(body) => body,
        Err(_) if is_dead => Body::Unreadable(bytes),
        Err(malformed) => return Err((malformed, bytes)),
    };
    Ok(Message {
        body,
        priority: Priority(properties.priority().unwrap_or(0)),
        delay: Duration::ZERO,
        refusal: header(properties, headers::REASON).and_then(as_text),
        rounds: header(properties, headers::ROUNDS)
            .and_then(as_number)
            .map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX)),
        reply_to: properties.reply_to().as_ref().and_then(|name| ReplyTo::new(name.as_str())),
    })
}

/// How often a message was delivered before.
pub(super) fn redelivered(delivery: &lapin::message::Delivery) -> u32 {
    let counted = header(&delivery.properties, headers::DELIVERIES).and_then(as_number).unwrap_or(0);
    u32::try_from(counted).unwrap_or(u32::MAX).max(u32::from(delivery.redelivered))
}

/// A message that goes to the dead letters as it came, with the reason.
pub(super) fn dead(bytes: Bytes, kind: Option<&str>, reason: &str, route: Route) -> Parcel {
    let refusal = Some(reason.to_owned());
    let message = Message { refusal, ..Message::new(Body::Unreadable(bytes.clone()), Priority(0)) };
    let mut parcel = parcel(&message, bytes, route);
    if let Some(kind) = kind {
        parcel.properties = parcel.properties.with_type(kind.chars().take(200).collect::<String>().as_str().into());
    }
    parcel
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

fn as_text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        _ => None,
    }
}

fn as_number(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(n) => Some((*n).into()),
        AMQPValue::ShortShortUInt(n) => Some((*n).into()),
        AMQPValue::ShortInt(n) => Some((*n).into()),
        AMQPValue::ShortUInt(n) => Some((*n).into()),
        AMQPValue::LongInt(n) => Some((*n).into()),
        AMQPValue::LongUInt(n) => Some((*n).into()),
        AMQPValue::LongLongInt(n) => Some(*n),
        _ => None,
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum NoticeForm {
    Cancel(BatchId),
    Drain(Option<String>),
    Find { batch: BatchId, index: ItemIndex },
    Found { batch: BatchId, index: ItemIndex },
}

/// A notice, ready to be published. That nobody listens is no trouble.
pub(super) fn notice(notice: &Notice, route: Route) -> Parcel {
    let form = match notice {
        Notice::Cancel(batch) => NoticeForm::Cancel(batch.clone()),
        Notice::Drain(worker) => NoticeForm::Drain(worker.clone()),
        Notice::Find(batch, index) => NoticeForm::Find { batch: batch.clone(), index: *index },
        Notice::Found(batch, index) => NoticeForm::Found { batch: batch.clone(), index: *index },
    };
    let bytes = Bytes::from(serde_json::to_vec(&form).unwrap_or_default());
    let properties = BasicProperties::default().with_content_type("application/json".into());
    Parcel { route, bytes, properties, is_mandatory: false }
}

/// What a notice says.
pub(super) fn read_notice(bytes: &[u8]) -> Result<Notice, Malformed> {
    serde_json::from_slice(bytes).map_err(|error| Malformed::from_json(&error)).map(|form| match form {
        NoticeForm::Cancel(batch) => Notice::Cancel(batch),
        NoticeForm::Drain(worker) => Notice::Drain(worker),
        NoticeForm::Find { batch, index } => Notice::Find(batch, index),
        NoticeForm::Found { batch, index } => Notice::Found(batch, index),
    })
}

/// A reply that is no outcome.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum ReplyForm {
    Passed(BatchId),
    Declined(BatchId),
}

/// A reply, for whoever waits. That nobody does (any more) is no trouble.
pub(super) fn reply(to: &ReplyTo, reply: &Reply) -> Parcel {
    let (kind, bytes) = match reply {
        Reply::Outcomes(segment) => (wire::Type::Outcomes.as_str(), segment.bytes().clone()),
        Reply::Passed(batch) => ("tidemill.passed", form(&ReplyForm::Passed(batch.clone()))),
        Reply::Declined(batch) => ("tidemill.declined", form(&ReplyForm::Declined(batch.clone()))),
    };
    // The default exchange, whose keys are the names of queues.
    let route = Route { exchange: String::new(), key: to.as_str().to_owned(), delay: None };
    let properties = BasicProperties::default().with_type(kind.into());
    Parcel { route, bytes, properties, is_mandatory: false }
}

fn form(reply: &ReplyForm) -> Bytes {
    serde_json::to_vec(reply).unwrap_or_default().into()
}

/// What a reply says.
pub(super) fn read_reply(data: Vec<u8>) -> Result<Reply, Malformed> {
    // No outcome is so short.
    if data.len() < LONGEST_FORM
        && let Ok(form) = serde_json::from_slice(&data)
    {
        return Ok(match form {
            ReplyForm::Passed(batch) => Reply::Passed(batch),
            ReplyForm::Declined(batch) => Reply::Declined(batch),
        });
    }
    Segment::parse(data.into()).map(Reply::Outcomes)
}

/// A batch's id has at most 128 bytes.
const LONGEST_FORM: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::conformance;

    #[test]
    fn a_trace_context_has_the_form_of_the_standard() {
        let batch = BatchId::new();
        let body = Body::Seal { batch: batch.clone(), total: 3 };
        let parts: Vec<String> = trace_parent(&batch, &body).unwrap().split('-').map(str::to_owned).collect();
        assert_eq!(parts.iter().map(String::len).collect::<Vec<_>>(), [2, 32, 16, 2]);
        assert_eq!((&parts[1][..], &parts[2][..]), (batch.as_str(), "0000000000000001"));
        assert!(parts.concat().bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "lower-case hexadecimal");
        assert_eq!(trace_parent(&"mine".parse().unwrap(), &body), None);
    }

    #[test]
    fn what_is_short_goes_without_the_headers_that_repeat_it_and_what_is_dead_does_not() {
        let route = Route { exchange: "tidemill".into(), key: "tidemill.jobs.cpu".into(), delay: None };
        let names = |message: &Message, bytes: usize| -> Vec<String> {
            let properties = parcel(message, vec![b' '; bytes].into(), route.clone()).properties;
            let names = properties.headers().iter().flat_map(|fields| fields.inner().keys());
            names.map(|name| name.as_str().to_owned()).collect()
        };
        let repeated = ["batch", "chunk", "task", "traceparent", "v"];
        let mut work = conformance::work(0);

        assert_eq!(names(&work, AT_A_GLANCE), repeated);
        assert_eq!(names(&work, AT_A_GLANCE - 1), [""; 0]);
        work.rounds = 1;
        assert_eq!(names(&work, AT_A_GLANCE - 1), ["rounds"], "it is read back");
        work.refusal = Some("it has no items".into());
        assert_eq!(names(&work, 2), ["batch", "chunk", "reason", "rounds", "task", "traceparent", "v"]);
    }

    #[test]
    fn a_notice_is_heard_as_it_was_said_and_one_that_is_not_known_is_none() {
        let batch: BatchId = "b-1".parse().unwrap();
        let route = Route { exchange: "tidemill.control".into(), key: String::new(), delay: None };
        for (said, text) in [
            (Notice::Cancel(batch.clone()), r#"{"cancel":"b-1"}"#),
            (Notice::Drain(None), r#"{"drain":null}"#),
            (Notice::Drain(Some("w".into())), r#"{"drain":"w"}"#),
            (Notice::Find(batch.clone(), ItemIndex(7)), r#"{"find":{"batch":"b-1","index":7}}"#),
            (Notice::Found(batch.clone(), ItemIndex(7)), r#"{"found":{"batch":"b-1","index":7}}"#),
        ] {
            let parcel = notice(&said, route.clone());
            assert_eq!((&parcel.bytes[..], parcel.is_mandatory), (text.as_bytes(), false));
            assert_eq!(read_notice(&parcel.bytes), Ok(said));
        }
        for text in [r#"{"dance":"b-1"}"#, r#"{"find":{"batch":"b-1"}}"#, r#"{"find":{"batch":"..","index":1}}"#] {
            assert!(read_notice(text.as_bytes()).is_err(), "{text}");
        }
    }
}
