//! The wire: how what travels is written, and how what arrives is checked. `docs/wire.md` tells it to other languages.
//!
//! Nothing that arrives is trusted: sizes, names and numbers are checked here, and what does not pass is
//! [`Malformed`], with the reason that it will carry among the dead letters.

mod head;

use std::fmt;
use std::path::{Component, Path};
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{self, DeserializeOwned, IgnoredAny, SeqAccess, Visitor};
use serde::ser::SerializeTuple as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::batch::{Attempt, Batch, BatchId, ItemIndex};
use crate::broker::{Body, Heartbeat};
use crate::chunk::{Chunk, Item};
use crate::segment::{MAX_INDEX, Segment};

/// The version that is spoken.
pub const VERSION: u64 = 1;

/// No message is larger: RabbitMQ 4 takes no more by default.
pub const MAX_BYTES: usize = 16 << 20;

/// The largest chunk: its outcomes repeat its inputs, and it is written anew when some of it runs again.
pub const MAX_CHUNK_BYTES: usize = 12 << 20;

/// Why a message is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

impl Malformed {
    /// The reason is a fragment for people.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// What the JSON parser says, with its place.
    pub fn from_json(error: &serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

/// What is said of a version that is not ours.
pub(crate) fn unknown_version(version: Option<u64>) -> String {
    match version {
        Some(version) => format!("version {version} is not spoken here; version {VERSION} is"),
        None => format!("v is missing; it is {VERSION}"),
    }
}

/// What a message is, as its AMQP property `type` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A batch begins.
    Open,
    /// Work.
    Chunk,
    /// What became of it.
    Outcomes,
    /// A batch is whole.
    Seal,
    /// A worker lives.
    Heartbeat,
}

impl Type {
    /// Every type.
    pub const ALL: [Self; 5] = [Self::Open, Self::Chunk, Self::Outcomes, Self::Seal, Self::Heartbeat];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "tidemill.open",
            Self::Chunk => "tidemill.chunk",
            Self::Outcomes => "tidemill.outcomes",
            Self::Seal => "tidemill.seal",
            Self::Heartbeat => "tidemill.heartbeat",
        }
    }
}

impl Body {
    /// What it is; nothing for what cannot be read.
    pub fn kind(&self) -> Option<Type> {
        match self {
            Self::Open(_) => Some(Type::Open),
            Self::Chunk(_) => Some(Type::Chunk),
            Self::Outcomes { .. } | Self::Segment(_) => Some(Type::Outcomes),
            Self::Seal { .. } => Some(Type::Seal),
            Self::Heartbeat(_) => Some(Type::Heartbeat),
            Self::Unreadable(_) => None,
        }
    }
}

/// A batch's end.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealForm {
    v: u64,
    batch: BatchId,
    total: u64,
}

/// A batch's beginning.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenForm {
    v: u64,
    batch: Arc<Batch>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeartbeatForm {
    v: u64,
    worker: Heartbeat,
}

#[derive(Serialize)]
struct ChunkForm<'a> {
    v: u64,
    #[serde(serialize_with = "head::serialize")]
    batch: &'a Arc<Batch>,
    attempt: Attempt,
    items: &'a [Item],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnedChunkForm {
    v: u64,
    batch: Arc<Batch>,
    attempt: Attempt,
    items: Vec<Item>,
}

/// The same, which does not know the place of an error.
#[derive(Deserialize)]
#[serde(remote = "OwnedChunkForm", deny_unknown_fields)]
struct QuickChunkForm {
    v: u64,
    #[serde(deserialize_with = "head::deserialize")]
    batch: Arc<Batch>,
    attempt: Attempt,
    items: Vec<Item>,
}

/// Writes what travels: one or more messages, since a message of outcomes has one maker.
pub fn encode(body: &Body) -> Vec<Bytes> {
    let v = VERSION;
    let one = |bytes: Result<Vec<u8>, serde_json::Error>| {
        // Plain structs, to memory: it cannot fail.
        vec![Bytes::from(bytes.unwrap_or_default())]
    };
    match body {
        Body::Open(batch) => one(serde_json::to_vec(&OpenForm { v, batch: Arc::clone(batch) })),
        Body::Chunk(Chunk { batch, attempt, items }) => {
            let mut text =
                Vec::with_capacity(512 + items.iter().map(|item| item.input.get().len() + 16).sum::<usize>());
            one(serde_json::to_writer(&mut text, &ChunkForm { v, batch, attempt: *attempt, items }).map(|()| text))
        }
        Body::Outcomes { batch, outcomes } => {
            Segment::encode(batch, outcomes).iter().map(|segment| segment.bytes().clone()).collect()
        }
        Body::Segment(segment) => vec![segment.bytes().clone()],
        Body::Seal { batch, total } => one(serde_json::to_vec(&SealForm { v, batch: batch.clone(), total: *total })),
        Body::Heartbeat(worker) => one(serde_json::to_vec(&HeartbeatForm { v, worker: worker.clone() })),
        Body::Unreadable(bytes) => vec![bytes.clone()],
    }
}

/// The longest name of a worker, and the longest time until it speaks again: a day.
const MAX_NAME_BYTES: usize = 200;
const MAX_EVERY: u64 = 24 * 60 * 60 * 1000;

/// Reads what arrived and checks it.
///
/// # Errors
/// [`Malformed`]: it goes to the dead letters with this reason.
pub fn decode(kind: &str, bytes: Bytes) -> Result<Body, Malformed> {
    if bytes.len() > MAX_BYTES {
        return Err(Malformed::new(format!(
            "{} bytes are more than the {MAX_BYTES} that a message may have",
            bytes.len()
        )));
    }
    let Some(kind) = Type::ALL.into_iter().find(|known| known.as_str() == kind) else {
        let known = Type::ALL.map(Type::as_str).join(", ");
        return Err(Malformed::new(format!("its type is {:?}, none of {known}", shortened(kind))));
    };
    match kind {
        Type::Open => {
            let OpenForm { v, batch } = read(&bytes)?;
            check_version(v)?;
            check_batch(&batch)?;
            Ok(Body::Open(batch))
        }
        Type::Chunk if bytes.len() > MAX_CHUNK_BYTES => Err(Malformed::new(format!(
            "a chunk of {} bytes is larger than the {MAX_CHUNK_BYTES} that leave room for its outcomes",
            bytes.len()
        ))),
        Type::Chunk => {
            let mut json = serde_json::Deserializer::from_slice(&bytes);
            let quick = QuickChunkForm::deserialize(&mut json).and_then(|form| json.end().map(|()| form));
            let OwnedChunkForm { v, batch, attempt, items } = quick.or_else(|_| read(&bytes))?;
            check_version(v)?;
            let chunk = Chunk { batch, attempt, items };
            check_chunk(&chunk)?;
            Ok(Body::Chunk(chunk))
        }
        Type::Outcomes => Segment::parse(bytes).map(Body::Segment),
        Type::Seal => {
            let SealForm { v, batch, total } = read(&bytes)?;
            check_version(v)?;
            if total > MAX_INDEX {
                return Err(Malformed::new(format!("a total of {total} is above the largest, {MAX_INDEX}")));
            }
            Ok(Body::Seal { batch, total })
        }
        Type::Heartbeat => {
            let HeartbeatForm { v, worker } = read(&bytes)?;
            check_version(v)?;
            if worker.name.len() > MAX_NAME_BYTES || worker.every > MAX_EVERY {
                let limits = format!("a name of {MAX_NAME_BYTES} bytes and {MAX_EVERY} ms to its next word");
                return Err(Malformed::new(format!("a worker has at most {limits}")));
            }
            Ok(Body::Heartbeat(worker))
        }
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    serde_json::from_slice(bytes).map_err(|error| {
        // A newer version has fields that are not known here: its number is the better reason.
        #[derive(Deserialize)]
        struct Version {
            v: Option<u64>,
        }
        match serde_json::from_slice::<Version>(bytes) {
            Ok(Version { v }) if v != Some(VERSION) => Malformed(unknown_version(v)),
            _ => Malformed::from_json(&error),
        }
    })
}

fn check_version(version: u64) -> Result<(), Malformed> {
    if version == VERSION { Ok(()) } else { Err(Malformed(unknown_version(Some(version)))) }
}

fn check_batch(batch: &Batch) -> Result<(), Malformed> {
    if batch.task.is_empty() || batch.task.len() > 200 {
        return Err(Malformed::new("the name of a task has 1 to 200 bytes"));
    }
    if batch.timeout.is_zero() {
        return Err(Malformed::new("timeout is longer than nothing"));
    }
    if batch.retry.attempts == 0 {
        return Err(Malformed::new("retry.attempts is at least 1"));
    }
    Ok(())
}

fn check_chunk(chunk: &Chunk) -> Result<(), Malformed> {
    check_batch(&chunk.batch)?;
    if chunk.attempt < Attempt::FIRST {
        return Err(Malformed::new("attempt counts from 1"));
    }
    check_order(&chunk.items)?;
    if let Some(item) = chunk.items.iter().find(|item| item.index.0 > MAX_INDEX) {
        return Err(Malformed::new(format!("index {} is above the largest, {MAX_INDEX}", item.index)));
    }
    for item in &chunk.items {
        if let Some(name) = &item.name
            && !is_relative(name)
        {
            let name = shortened(name);
            return Err(Malformed::new(format!("item {}: the name {name:?} is no plain relative path", item.index)));
        }
    }
    Ok(())
}

/// Checks that there are items, and that they stand in their order: what was not read from a message may be wrong there too.
///
/// # Errors
/// [`Malformed`]
pub fn check_order(items: &[Item]) -> Result<(), Malformed> {
    if items.is_empty() || !items.is_sorted_by(|one, next| one.index < next.index) {
        return Err(Malformed::new("the items of a chunk are one or more, in ascending order of index"));
    }
    Ok(())
}

/// Whether an item may have this name: it stays inside the folder that it is put in, and is not too long.
pub fn is_relative(name: &str) -> bool {
    !name.is_empty()
        && !name.contains('\0')
        && name.len() <= 4096
        && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// `[index, input]`, and after these, where there is one, the name and the source (either may be `null`).
impl Serialize for Item {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let parts = 2 + if self.source.is_some() { 2 } else { usize::from(self.name.is_some()) };
        let mut tuple = serializer.serialize_tuple(parts)?;
        tuple.serialize_element(&self.index)?;
        tuple.serialize_element(&self.input)?;
        if parts > 2 {
            tuple.serialize_element(&self.name)?;
        }
        if parts > 3 {
            tuple.serialize_element(&self.source)?;
        }
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemVisitor;
        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[index, input] and perhaps a name and a source")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Item, A::Error> {
                let item = Item {
                    index: ItemIndex(need(&mut seq, "index")?),
                    input: need(&mut seq, "input")?,
                    name: seq.next_element::<Option<Box<str>>>()?.flatten(),
                    source: seq.next_element::<Option<Box<str>>>()?.flatten(),
                };
                match seq.next_element::<IgnoredAny>()? {
                    None => Ok(item),
                    Some(_) => Err(de::Error::custom("an item has at most four parts")),
                }
            }
        }
        deserializer.deserialize_seq(ItemVisitor)
    }
}

/// The next part of an array, which must be there.
fn need<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(seq: &mut A, part: &str) -> Result<T, A::Error> {
    seq.next_element()?.ok_or_else(|| de::Error::custom(format!("{part} is missing")))
}
