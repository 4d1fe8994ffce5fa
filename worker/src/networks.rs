//! What a worker asks of whatever runs its networks.

use std::fmt;
use std::sync::Arc;

use futures::future::{BoxFuture, pending};
use tidemill_core::broker::NetworkWork;

/// Whatever runs the networks of a worker's tasks.
pub trait Networks: Send + Sync {
    /// What each model has done since the process started.
    fn work(&self) -> Vec<NetworkWork>;

    /// Resolves once a device is lost to this process, with the reason; never otherwise. From then on no item that needs
    /// one ends: the worker gives back what it holds and ends.
    fn lost(&self) -> BoxFuture<'_, String>;
}

/// The networks of a worker, where it has any.
#[derive(Clone, Default)]
pub struct OwnNetworks(pub Option<Arc<dyn Networks>>);

impl OwnNetworks {
    pub(crate) fn work(&self) -> Vec<NetworkWork> {
        self.0.as_ref().map(|networks| networks.work()).unwrap_or_default()
    }

    pub(crate) fn lost(&self) -> BoxFuture<'_, String> {
        self.0.as_ref().map_or_else(|| Box::pin(pending()) as _, |networks| networks.lost())
    }
}

impl fmt::Debug for OwnNetworks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnNetworks").field(&self.0.is_some()).finish()
    }
}
