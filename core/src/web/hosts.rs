//! Hosts: how many requests go on at once, to one host and to all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use crate::lock::lock;

/// The slots of every host that is being asked; the others need none.
#[derive(Debug)]
pub(super) struct Hosts {
    all: Semaphore,
    per_host: usize,
    known: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// Lets one request go on; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    hosts: Arc<Hosts>,
    host: String,
    slots: Arc<Semaphore>,
    has_own: bool,
    has_common: bool,
}

impl Hosts {
    pub(super) fn new(all: usize, per_host: usize) -> Self {
        Self { all: Semaphore::new(all), per_host, known: Mutex::default() }
    }

    /// Waits for a slot. Dropping the future gives up the place in the line.
    pub(super) async fn slot(self: &Arc<Self>, host: String) -> Slot {
        let slots = {
            let mut known = lock(&self.known);
            Arc::clone(known.entry(host.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.per_host))))
        };
        let mut slot = Slot { hosts: Arc::clone(self), host, slots, has_own: false, has_common: false };
        // The host's own first: whoever waits for a slow host keeps nobody from others. Neither is ever closed.
        if let Ok(permit) = slot.slots.acquire().await {
            permit.forget();
            slot.has_own = true;
        }
        if let Ok(permit) = self.all.acquire().await {
            permit.forget();
            slot.has_common = true;
        }
        slot
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.hosts.all.add_permits(usize::from(self.has_common));
        self.slots.add_permits(usize::from(self.has_own));
        let mut known = lock(&self.hosts.known);
        // One is the list's, one is this.
        if Arc::strong_count(&self.slots) == 2 {
            known.remove(&self.host);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_busy_host_keeps_nobody_from_others_and_all_together_are_bounded() {
        let hosts = Arc::new(Hosts::new(3, 2));
        let slot = |host: &str| hosts.slot(host.to_owned());
        let (first, second) = (slot("a").await, slot("a").await);

        assert!(slot("a").now_or_never().is_none(), "two at a time");
        let third = slot("b").now_or_never().expect("another host has slots of its own");
        assert!(slot("c").now_or_never().is_none(), "three in all");
        drop(first);
        assert!(slot("c").now_or_never().is_some());
        assert!(slot("a").now_or_never().is_some());

        drop((second, third));
        assert!(hosts.known.lock().unwrap().is_empty(), "nothing is kept of those that are not asked");
        assert_eq!(hosts.all.available_permits(), 3);
    }
}
