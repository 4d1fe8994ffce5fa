//! Sent: how many files have gone out with a submission, and how many bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{HumanBytes, HumanCount};

/// What has gone out so far. What was stored before the submission is not among it: it need not go out.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Those that have arrived.
    files: AtomicU64,
    /// Of these and of those that are on their way.
    bytes: AtomicU64,
}

impl Sent {
    /// One more file is on its way.
    pub(super) fn begin(self: &Arc<Self>) -> Going {
        Going { sent: Arc::clone(self), bytes: AtomicU64::new(0) }
    }

    /// `3 files sent, 1.20 MiB`; nothing where nothing has gone out.
    pub(super) fn shown(&self) -> Option<String> {
        let (files, bytes) = (self.files.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        let noun = if files == 1 { "file" } else { "files" };
        (files > 0 || bytes > 0).then(|| format!("{} {noun} sent, {}", HumanCount(files), HumanBytes(bytes)))
    }
}

/// A file on its way. Where it does not arrive, what has gone of it counts no more: all of it goes again.
#[derive(Debug)]
pub(super) struct Going {
    sent: Arc<Sent>,
    /// What was told of it, until it has arrived.
    bytes: AtomicU64,
}

impl Going {
    /// So many more bytes have gone.
    pub(super) fn moved(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.sent.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It has arrived, and has so many bytes, whether all of them were told of or not.
    pub(super) fn arrived(&self, bytes: u64) {
        let told = self.bytes.swap(0, Ordering::Relaxed);
        self.sent.files.fetch_add(1, Ordering::Relaxed);
        self.sent.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.sent.bytes.fetch_sub(told, Ordering::Relaxed);
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.sent.bytes.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_gone_out_is_told_while_it_goes() {
        let sent = Arc::<Sent>::default();
        assert_eq!(sent.shown(), None);

        let going = sent.begin();
        going.moved(1 << 20);
        assert_eq!(sent.shown().unwrap(), "0 files sent, 1.00 MiB");

        going.moved(1 << 20);
        going.arrived((2 << 20) + 1024);
        drop(going);
        assert_eq!(sent.shown().unwrap(), "1 file sent, 2.00 MiB");
    }

    #[test]
    fn every_byte_of_a_file_counts_once_however_often_it_is_sent_and_whatever_is_told_of_it() {
        let sent = Arc::<Sent>::default();

        let broken_off = sent.begin();
        broken_off.moved(700);
        drop(broken_off);
        assert_eq!(sent.shown(), None);

        let (told, untold) = (sent.begin(), sent.begin());
        told.moved(700);
        told.moved(300);
        told.arrived(1000);
        // A client may not ask whether there is more of a file whose length it knows.
        untold.arrived(23);
        drop((told, untold));

        assert_eq!(sent.shown().unwrap(), "2 files sent, 1023 B");
    }
}
