//! Telemetry: what a running Tidemill tells of itself.
//!
//! Logs go through `tracing`, numbers through the `metrics` facade: without a recorder (the results API installs one, `serve`
//! too, and a worker that listens) a number costs next to nothing. What happens to the work is told by the types in
//! [`events`], which write both, so that log and metric cannot drift apart.

use std::cell::Cell;
use std::io::IsTerminal;
use std::panic::{self, PanicHookInfo};

use tracing::{Level, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt};

use crate::settings::{LogFormat, LogSettings};

pub mod events;

/// How text is written; JSON is always written in full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextStyle {
    /// With colours.
    pub colour: bool,
    /// With the time and the part of Tidemill that speaks: for files, not for someone who watches.
    pub full: bool,
}

impl TextStyle {
    /// What suits standard error: short and in colour on a terminal (unless `NO_COLOR` is set), in full elsewhere.
    pub fn for_stderr() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { colour: terminal && !set("NO_COLOR") && !dumb, full: !terminal }
    }
}

/// Starts logging for this process, and turns panics into log lines.
///
/// # Errors
/// [`TryInitError`] when something has started logging before.
pub fn init<W>(settings: &LogSettings, style: TextStyle, writer: W) -> Result<(), TryInitError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    subscriber(settings, style, writer).try_init()?;
    log_panics();
    Ok(())
}

/// The subscriber that [`init`] installs, for whoever installs it some other way.
pub fn subscriber<W>(settings: &LogSettings, style: TextStyle, writer: W) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match (settings.format, style.full) {
        (LogFormat::Json, _) => Box::new(lines.json().flatten_event(true).with_span_list(false)),
        (LogFormat::Text, true) => Box::new(lines.with_ansi(style.colour)),
        (LogFormat::Text, false) => Box::new(lines.with_ansi(style.colour).compact().without_time().with_target(false)),
    };
    Registry::default().with(lines.with_filter(settings.level.targets()))
}

/// Writes panics to the log (thread, place, message) and nowhere else: an item that panics is an outcome, and its
/// trace is no business of the terminal. At the level `debug` the backtrace follows.
pub fn log_panics() {
    panic::set_hook(Box::new(|info| {
        thread_local!(static LOGGING: Cell<bool> = const { Cell::new(false) });
        // A panic in the log's own code must not be logged, or it would go round for ever.
        if LOGGING.replace(true) {
            return;
        }
        log_panic(info);
        LOGGING.set(false);
    }));
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    events::Panicked {
        thread: thread.name().unwrap_or("unnamed"),
        location: &location,
        message: info.payload_as_str().unwrap_or("a panic without a message"),
    }
    .emit();
    if tracing::enabled!(Level::DEBUG) {
        tracing::debug!(backtrace = %std::backtrace::Backtrace::force_capture(), "panicked here");
    }
}

#[cfg(test)]
mod tests;
