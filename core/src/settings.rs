//! Settings: what the person who runs Tidemill may choose, and where each choice came from.
//!
//! ```text
//! config/default.toml  ←  --config FILE        ←  environment            ←  command line
//!   (compiled in)          or TIDEMILL_CONFIG      TIDEMILL__TASK__TIMEOUT    task.timeout=30s
//! ```
//!
//! [`Settings::load`] lays these over each other; the later one wins, key by key. `config/default.toml` is the
//! documentation *and* the built-in value of every key: it is compiled in, and never looked for at run time. A file in
//! the folder where someone happens to stand must not change what an installed command does, and a command must not
//! need a file beside it.
//!
//! An unknown key is an error with the nearest name, a bad value one with its key, its origin and what would be good
//! ([`SettingsError`]). [`Loaded::entries`] tells every value in force and its origin, with secrets starred.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use crate::task::Lane;

mod error;
mod layers;
mod rules;
mod secrets;
#[cfg(test)]
mod tests;
mod values;

pub use error::{ErrorKind, SettingsError};
pub use layers::{Origin, Sources};
pub use values::{
    Device, InvalidValue, LogFilter, LogFormat, Precision, Secret, ServiceUrl, format_size, parse_duration, parse_size,
};

/// `config/default.toml`: every key, documented, with its built-in value.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Every setting, checked. A field's meaning is told once, in `config/default.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the one description of each key")]
pub struct Settings {
    pub broker: BrokerSettings,
    pub store: StoreSettings,
    pub results: ResultsSettings,
    pub api: ApiSettings,
    pub submit: SubmitSettings,
    pub blobs: BlobSettings,
    pub worker: WorkerSettings,
    pub run: RunSettings,
    pub serve: ServeSettings,
    pub chunk: ChunkSettings,
    pub retry: RetrySettings,
    pub task: TaskSettings,
    pub image: ImageSettings,
    pub vision: VisionSettings,
    pub fetch: FetchSettings,
    pub net: NetSettings,
    pub log: LogSettings,
}

/// `[broker]`: where jobs wait for workers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the one description of each key")]
pub struct BrokerSettings {
    #[serde(deserialize_with = "values::from_text")]
    pub url: ServiceUrl,
    #[serde(deserialize_with = "values::optional")]
    pub password: Option<Secret>,
    pub prefix: String,
    #[serde(deserialize_with = "values::duration")]
    pub look_ahead: Duration,
    #[serde(deserialize_with = "values::size")]
    pub queue_bytes: u64,
}

/// `[store]`: where outcomes are kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the one description of each key")]
pub struct StoreSettings {
    #[serde(deserialize_with = "values::from_text")]
    pub url: ServiceUrl,
    #[serde(deserialize_with = "values::optional")]
    pub password: Option<Secret>,
    pub prefix: String,
}

/// `[results]`: how long outcomes are kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the one description of each key")]
pub struct ResultsSettings {
    #[serde(deserialize_with = "values::duration")]
    pub ttl: Duration,
}

/// `[api]`: the results API, for those who call it and for itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the one description of each key")]
pub struct ApiSettings {
    #[serde(deserialize_with = "values::from_text")]
    pub url: ServiceUrl,
    #[serde(deserialize_with = "values::from_text")]
    pub listen: SocketAddr,
    #[serde(deserialize_with = "values::optional")]
    pub token: Option<Secret>,
    pub open: bool,
    pub hosts: Vec<String>,
}

/// `[submit]`: how a batch is sent to the cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the one description of each key")]
pub struct SubmitSettings {
    #[serde(deserialize_with = "values::duration")]
    pub patience: Duration,
}

/// `[blobs]`: where produced files are kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the one description of each key")]
pub struct BlobSettings {
    #[serde(deserialize_with = "values::optional")]
    pub url: Option<ServiceUrl>,
    #[serde(deserialize_with = "values::duration")]
    pub keep: Duration,
}

/// `[worker]`: how much one worker takes on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the one description of each key")]
pub struct WorkerSettings {
    #[serde(deserialize_with = "values::optional")]
    pub name: Option<String>,
    pub threads: usize,
    pub waiting: usize,
    #[serde(deserialize_with = "values::duration")]
    pub grace: Duration,
    pub lanes: Vec<Lane>,
    #[serde(deserialize_with = "values::duration")]
    pub heartbeat: Duration,
    #[serde(deserialize_with = "values::optional")]
    pub listen: Option<SocketAddr>,
    pub suspect_after: u32,
    pub crash_limit: u32,
    #[serde(deserialize_with = "values::duration")]
    pub stuck_after: Duration,
}

/// `[run]`: the bounds of `tidemill run`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the one description of each key")]
pub struct RunSettings {
    #[serde(rename = "window", deserialize_with = "values::size")]
    pub window_bytes: u64,
}

/// `[serve]`: the bounds of `tidemill serve`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the one description of each key")]
pub struct ServeSettings {
    #[serde(rename = "keep", deserialize_with = "values::size")]
    pub keep_bytes: u64,
    #[serde(deserialize_with = "values::size")]
    pub keep_files: u64,
}

/// `[chunk]`: how a batch is cut.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the one description of each key")]
pub struct ChunkSettings {
    #[serde(deserialize_with = "values::duration")]
    pub target: Duration,
    pub max_items: usize,
    #[serde(deserialize_with = "values::size")]
    pub max_bytes: u64,
}

/// `[retry]`: how often, and how far apart.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the one description of each key")]
pub struct RetrySettings {
    pub attempts: u32,
    #[serde(deserialize_with = "values::duration")]
    pub base: Duration,
    #[serde(deserialize_with = "values::duration")]
    pub max: Duration,
}

/// `[task]`: what holds for every task.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the one description of each key")]
pub struct TaskSettings {
    #[serde(deserialize_with = "values::duration")]
    pub timeout: Duration,
}

/// `[image]`: how large a picture may be.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the one description of each key")]
pub struct ImageSettings {
    pub max_pixels: u64,
    #[serde(deserialize_with = "values::size")]
    pub max_bytes: u64,
}

/// `[vision]`: networks, and what they run on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the one description of each key")]
pub struct VisionSettings {
    pub models: Vec<PathBuf>,
    pub default_model: String,
    pub preload: Vec<String>,
    #[serde(deserialize_with = "values::from_text")]
    pub device: Device,
    #[serde(deserialize_with = "values::from_text")]
    pub precision: Precision,
    pub instances: usize,
    pub threads: usize,
    pub max_batch: usize,
    #[serde(deserialize_with = "values::duration")]
    pub max_delay: Duration,
    #[serde(rename = "model_memory", deserialize_with = "values::size")]
    pub model_memory_bytes: u64,
    #[serde(deserialize_with = "values::optional")]
    pub train_in: Option<PathBuf>,
    #[serde(deserialize_with = "values::optional")]
    pub libtorch: Option<PathBuf>,
}

/// `[fetch]`: inputs that are fetched.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the one description of each key")]
pub struct FetchSettings {
    #[serde(deserialize_with = "values::duration")]
    pub timeout: Duration,
    #[serde(deserialize_with = "values::size")]
    pub max_bytes: u64,
}

/// `[net]`: requests over HTTP to addresses that inputs name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the one description of each key")]
pub struct NetSettings {
    #[serde(deserialize_with = "values::networks")]
    pub allow_private: Vec<IpNet>,
    pub use_proxy: bool,
    #[serde(deserialize_with = "values::duration")]
    pub connect_timeout: Duration,
    #[serde(deserialize_with = "values::duration")]
    pub deadline: Duration,
    #[serde(deserialize_with = "values::size")]
    pub slowest: u64,
    pub max_redirects: usize,
    #[serde(deserialize_with = "values::size")]
    pub max_bytes: u64,
    #[serde(deserialize_with = "values::size")]
    pub max_page_bytes: u64,
    pub at_once: usize,
    pub at_once_per_host: usize,
}

/// `[log]`: what is told, and how.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml is the one description of each key")]
pub struct LogSettings {
    #[serde(deserialize_with = "values::from_text")]
    pub level: LogFilter,
    #[serde(deserialize_with = "values::from_text")]
    pub format: LogFormat,
}

impl Settings {
    /// Lays the sources over the built-in defaults and checks the result.
    ///
    /// # Errors
    /// [`SettingsError`]: the first thing that is wrong, with its key, its origin and the remedy.
    pub fn load(sources: Sources) -> Result<Loaded, SettingsError> {
        let mut layers = layers::Layers::over_defaults();
        if let Some(path) = sources.config_file() {
            layers.lay(layers.read_file(&path)?)?;
        }
        let warnings = layers.warnings(&sources.env);
        layers.lay(layers.read_environment(&sources.env))?;
        layers.lay(layers.read_command_line(sources.overrides))?;
        layers.read_secret_files()?;
        let settings = layers.settings()?;
        Ok(Loaded { settings, entries: layers.into_entries(), warnings })
    }
}

impl Default for Settings {
    /// The built-in settings, from nothing but `config/default.toml`.
    fn default() -> Self {
        Self::load(Sources::default()).expect("the built-in settings are good, as a test makes sure").settings
    }
}

/// Settings in force, and where each came from.
#[derive(Clone)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// What looks like a mistake but stops nothing: for people, one line each.
    pub warnings: Vec<String>,
    entries: BTreeMap<String, layers::Entry>,
}

/// One key, its value in force, and where that came from; see [`Loaded::entries`].
#[derive(Clone, Debug)]
pub struct EntryView<'a> {
    /// Section and key: `task.timeout`.
    pub key: &'a str,
    /// The value as it would stand in a TOML file, with secrets starred.
    pub value: String,
    /// Where the value came from.
    pub origin: &'a Origin,
}

impl Loaded {
    /// Every key in alphabetical order, with its value, secrets starred, and its origin.
    pub fn entries(&self) -> impl Iterator<Item = EntryView<'_>> {
        self.entries.iter().map(|(key, entry)| EntryView {
            key,
            value: secrets::shown(key, &entry.value),
            origin: &entry.origin,
        })
    }

    /// Where the value of a key came from; nothing where there is no such key.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.entries.get(key).map(|entry| &entry.origin)
    }
}

/// As it is shown, for the entries hold secrets.
impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

/// The entries as TOML, each with its origin as a comment: what `tidemill doctor --config` prints.
impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self
            .entries()
            .map(|entry| {
                let (section, key) = entry.key.split_once('.').unwrap_or(("", entry.key));
                (section, format!("{key} = {}", entry.value), entry.origin)
            })
            .collect();
        let width = lines.iter().map(|(_, line, _)| line.chars().count()).max().unwrap_or(0).min(48);
        let mut current = "";
        for (section, line, origin) in &lines {
            if *section != current {
                let gap = if current.is_empty() { "" } else { "\n" };
                writeln!(f, "{gap}[{section}]")?;
                current = section;
            }
            writeln!(f, "{line:<width$}  # {origin}")?;
        }
        Ok(())
    }
}
