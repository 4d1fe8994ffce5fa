//! Child processes: this executable started again, each child a part of an item.
//!
//! ```text
//!  parent                                              child, another process
//!  Children::start ── spawn: exe __child PART NAME ──▶ main_if_child ▶ Part::run(&Me)
//!     │      └──── socket: the order, descriptors ───▶ standard input, then its lifeline: the end of it ends the child
//!     │◀───────── one pipe for all children ────────── standard output: Me::say, Me::give
//!     └────────── Shared: a page of memory ─────────── Turns, Lock, Barrier, values
//! ```
//!
//! No child outlives its item. If the item ends early, its children are killed and waited for. If the parent is killed,
//! the system closes its ends of the sockets, and every child ends itself at the end of its lifeline. No descriptor here
//! is inherited, so no sibling keeps another's lifeline open; and the death of a *thread* of the parent, at which
//! `PR_SET_PDEATHSIG` would strike, ends nobody.

mod ears;
mod me;
mod parent;
mod program;
mod reins;
mod role;
mod shared;
pub(crate) mod sync;
mod wire;

pub(crate) use self::me::{Me, Part};
pub(crate) use self::parent::{ChildId, Children};
pub use self::program::Program;
pub(crate) use self::program::main_if_child;
pub(crate) use self::role::Role;
