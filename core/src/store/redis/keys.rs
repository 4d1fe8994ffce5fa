//! The names of keys.

use crate::batch::BatchId;

/// The keys of a batch; all lie in one slot.
#[derive(Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    fn of(&self, batch: &BatchId, what: &str) -> String {
        format!("{}:{{{batch}}}:{what}", self.prefix)
    }

    /// All that a batch has, with these pages of its bitmap; its hash is the first.
    pub(super) fn all(&self, batch: &BatchId, pages: impl IntoIterator<Item = u64>) -> Vec<String> {
        let names = ["batch", "outcomes", "bands", "dead", "revived", "reviving", "pages"];
        let bits = pages.into_iter().map(|page| self.bits(batch, page));
        names.into_iter().map(|what| self.of(batch, what)).chain(bits).collect()
    }

    pub(super) fn batch(&self, batch: &BatchId) -> String {
        self.of(batch, "batch")
    }

    pub(super) fn bits(&self, batch: &BatchId, page: u64) -> String {
        self.of(batch, &format!("bits:{page}"))
    }

    pub(super) fn outcomes(&self, batch: &BatchId) -> String {
        self.of(batch, "outcomes")
    }

    pub(super) fn bands(&self, batch: &BatchId) -> String {
        self.of(batch, "bands")
    }

    pub(super) fn dead(&self, batch: &BatchId) -> String {
        self.of(batch, "dead")
    }

    pub(super) fn revived(&self, batch: &BatchId) -> String {
        self.of(batch, "revived")
    }

    pub(super) fn changed(&self, batch: &BatchId) -> String {
        self.of(batch, "changed")
    }
}

/// The keys that are about all batches, each in a slot of its own.
#[derive(Debug)]
pub(super) struct Index {
    prefix: String,
}

impl Index {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn batches(&self) -> String {
        format!("{}:batches", self.prefix)
    }

    pub(super) fn cancelled(&self) -> String {
        format!("{}:cancelled", self.prefix)
    }

    pub(super) fn dead(&self) -> String {
        format!("{}:dead", self.prefix)
    }

    pub(super) fn workers(&self) -> String {
        format!("{}:workers", self.prefix)
    }

    pub(super) fn probe(&self) -> String {
        format!("{}:probe", self.prefix)
    }
}
