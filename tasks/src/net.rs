//! Tasks that open sockets. What may be asked, how long and how much at once, is ruled by [`tidemill_core::web`].

pub mod download;
mod html;
pub mod links;
mod name;

use tidemill_core::settings::{NetSettings, Settings};

/// How much these tasks take from a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest file that is stored.
    pub max_bytes: u64,
    /// The largest page that is read.
    pub max_page_bytes: u64,
    /// Requests that are under way at once.
    pub at_once: usize,
}

impl From<&NetSettings> for Limits {
    fn from(settings: &NetSettings) -> Self {
        Self { max_bytes: settings.max_bytes, max_page_bytes: settings.max_page_bytes, at_once: settings.at_once }
    }
}

impl Default for Limits {
    /// Those of the built-in settings.
    fn default() -> Self {
        Self::from(&Settings::default().net)
    }
}
