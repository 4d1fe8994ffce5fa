//! Notes: how far long items have come, for whoever asks their worker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::batch::{BatchId, ItemIndex};
use crate::lock::lock;

/// The longest text of a note, in characters; what is longer is cut.
const MAX_CHARS: usize = 200;

/// How far an item has come, in its task's own words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// The batch of the item.
    pub batch: BatchId,
    /// Its place in it.
    pub index: ItemIndex,
    /// One line.
    pub text: String,
}

/// The notes of a worker: the last one of each item that writes any.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<Mutex<BTreeMap<(BatchId, ItemIndex), String>>>);

impl Notes {
    /// Where an item writes.
    pub fn of(&self, batch: &BatchId, index: ItemIndex) -> Notepad {
        Notepad(Some(Arc::new(Sheet { notes: self.clone(), item: (batch.clone(), index) })))
    }

    /// What items have written that are not done yet, at most `limit` of them.
    pub fn list(&self, limit: usize) -> Vec<Note> {
        let note = |((batch, index), text): (&(BatchId, ItemIndex), &String)| Note {
            batch: batch.clone(),
            index: *index,
            text: text.clone(),
        };
        lock(&self.0).iter().take(limit).map(note).collect()
    }
}

/// Where an item writes how far it has come. What it wrote goes with the last copy of this. By default nobody reads it.
#[derive(Clone, Debug, Default)]
pub struct Notepad(Option<Arc<Sheet>>);

impl Notepad {
    /// Writes a line in place of the one before.
    pub fn write(&self, text: &str) {
        let Self(Some(sheet)) = self else { return };
        let text = text.chars().take(MAX_CHARS).collect();
        lock(&sheet.notes.0).insert(sheet.item.clone(), text);
    }
}

#[derive(Debug)]
struct Sheet {
    notes: Notes,
    item: (BatchId, ItemIndex),
}

impl Drop for Sheet {
    fn drop(&mut self) {
        lock(&self.notes.0).remove(&self.item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_items_last_note_is_listed_until_it_is_done() {
        let (notes, batch) = (Notes::default(), BatchId::new());
        let [first, second, silent] = [2, 1, 0].map(|index| notes.of(&batch, ItemIndex(index)));
        let texts = || notes.list(9).into_iter().map(|note| (note.index.0, note.text)).collect::<Vec<_>>();

        first.write("epoch 1 of 2");
        first.write("epoch 2 of 2");
        second.clone().write(&"x".repeat(300));

        assert_eq!(texts(), [(1, "x".repeat(MAX_CHARS)), (2, "epoch 2 of 2".to_owned())]);
        assert_eq!(notes.list(1).len(), 1);
        drop((second, silent));
        assert_eq!(texts(), [(2, "epoch 2 of 2".to_owned())]);
        drop(first);
        assert_eq!(texts(), []);
    }

    #[test]
    fn nobody_need_read() {
        Notepad::default().write("epoch 1 of 2");
    }
}
