//! Role: what a child is to be.

use std::os::fd::BorrowedFd;

use serde::Serialize;
use serde_json::value::RawValue;
use tidemill_core::task::raw;

use super::me::Part;

/// What a child is to be.
#[derive(Debug)]
pub(crate) struct Role<'a> {
    pub(super) part: &'a Part,
    pub(super) name: String,
    pub(super) args: Box<RawValue>,
    pub(super) handed_over: Vec<BorrowedFd<'a>>,
    pub(super) is_daemon: bool,
}

impl<'a> Role<'a> {
    /// A child of that part, called so.
    pub(crate) fn new(part: &'a Part, name: impl Into<String>) -> Self {
        let args = RawValue::NULL.to_owned();
        Self { part, name: name.into(), args, handed_over: Vec::new(), is_daemon: false }
    }

    /// What it reads with `Me::args`.
    pub(crate) fn with(mut self, args: &impl Serialize) -> Self {
        self.args = raw(args);
        self
    }

    /// A descriptor that it takes with `Me::take`.
    pub(crate) fn handed(mut self, descriptor: BorrowedFd<'a>) -> Self {
        self.handed_over.push(descriptor);
        self
    }

    /// Makes it a daemon: what it says goes nowhere, and `Children::join_all` ends it.
    pub(crate) fn daemon(mut self, is_daemon: bool) -> Self {
        self.is_daemon = is_daemon;
        self
    }
}
