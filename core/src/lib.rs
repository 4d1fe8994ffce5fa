//! What every part of Tidemill shares.
//!
//! ```text
//!  batch ── chunk ──▶ Broker ──▶ worker: task ──▶ outcome ──▶ Broker ──▶ Store ──▶ reader
//!                    (seam)     (compute, blobs)             (seam)    (seam)
//! ```
//!
//! - the words: [`batch`], [`chunk`], [`outcome`], [`failure`], [`retry`]
//! - how they travel: [`wire`], [`segment`]
//! - the work: [`task`] (traits and register), [`compute`] (the bridge to the cores), [`notes`] (how far it is)
//! - the seams: [`broker`], [`store`], [`blobs`]
//! - the world outside: [`web`] (what inputs make us ask over HTTP)
//! - the house: [`settings`], [`telemetry`], [`nearest`], [`failpoint`], [`lock`]

pub mod batch;
pub mod blobs;
pub mod broker;
pub mod chunk;
pub mod compute;
pub mod failpoint;
pub mod failure;
pub mod lock;
mod micros;
mod millis;
pub mod nearest;
pub mod notes;
pub mod outcome;
pub mod retry;
pub mod segment;
pub mod settings;
pub mod store;
pub mod task;
pub mod telemetry;
pub mod web;
pub mod wire;
