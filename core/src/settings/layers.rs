//! Layers: where settings are read from, and how the later one wins.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use config::{Config, ConfigError, File, FileFormat, Source, Value, ValueKind};

use super::error::SettingsError;
use super::rules;
use super::secrets::{SECRETS, shown};
use super::values::{InvalidValue, LogFilter};
use super::{DEFAULTS, Settings};

/// What begins the name of every environment variable that is a setting.
const PREFIX: &str = "TIDEMILL__";

/// The environment variable that names a settings file.
const CONFIG_FILE: &str = "TIDEMILL_CONFIG";

/// The keys that hold paths. In a file, a relative one is relative to that file's folder, wherever the command runs.
const PATHS: [&str; 6] = [
    "broker.password_file",
    "store.password_file",
    "api.token_file",
    "vision.train_in",
    "vision.libtorch",
    "vision.models",
];

/// A file with a secret is not larger than this.
const SECRET_FILE_BYTES: u64 = 64 << 10;

/// What is laid over the built-in defaults.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file of `--config`; else that of the variable `TIDEMILL_CONFIG`, if it is in [`Sources::env`].
    pub config_file: Option<PathBuf>,
    /// The environment, as [`Sources::environment`] reads it.
    pub env: Vec<(String, String)>,
    /// From the command line: keys (`task.timeout`) and values as they would stand in the environment.
    pub overrides: Vec<(String, String)>,
}

impl Sources {
    /// The variables of this process that matter here: `TIDEMILL…` and `RUST_LOG`.
    pub fn environment() -> Vec<(String, String)> {
        let text = |text: OsString| text.to_string_lossy().into_owned();
        std::env::vars_os()
            .map(|(name, value)| (text(name), value))
            .filter(|(name, _)| name.starts_with("TIDEMILL") || name == "RUST_LOG")
            .map(|(name, value)| (name, text(value)))
            .collect()
    }

    pub(super) fn config_file(&self) -> Option<PathBuf> {
        let in_env = || self.env.iter().find(|(name, value)| name == CONFIG_FILE && !value.is_empty());
        self.config_file.clone().or_else(|| in_env().map(|(_, path)| path.into()))
    }
}

/// Without values: some of them are secrets.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |pairs: &[(String, String)]| pairs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        f.debug_struct("Sources")
            .field("config_file", &self.config_file)
            .field("env", &names(&self.env))
            .field("overrides", &names(&self.overrides))
            .finish()
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `config/default.toml`, as compiled in.
    Default,
    /// A settings file.
    File(PathBuf),
    /// The environment variable of this name.
    Environment(String),
    /// The command line.
    CommandLine,
    /// A file that holds nothing but this secret.
    SecretFile(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("built-in default"),
            Self::File(path) => write!(f, "settings file {}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::CommandLine => f.write_str("command line"),
            Self::SecretFile(path) => write!(f, "secret file {}", path.display()),
        }
    }
}

/// A value and where it came from.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// What one source says: keys with their values.
pub(super) type Layer = Vec<(String, Entry)>;

/// The layers laid over each other so far.
pub(super) struct Layers {
    entries: BTreeMap<String, Entry>,
}

impl Layers {
    /// Nothing but the built-in defaults: they also say which keys there are, and of what kind each is.
    pub(super) fn over_defaults() -> Self {
        let table = parse(DEFAULTS).expect("config/default.toml is TOML, as a test makes sure");
        Self { entries: flatten(table, &Origin::Default).into_iter().collect() }
    }

    pub(super) fn read_file(&self, path: &Path) -> Result<Layer, SettingsError> {
        let origin = Origin::File(path.to_owned());
        let text = std::fs::read_to_string(path).map_err(|error| {
            let hint = "name a settings file with --config FILE or TIDEMILL_CONFIG";
            SettingsError::unreadable(None, origin.clone(), error, hint)
        })?;
        let table = parse(&text).map_err(|error| SettingsError::malformed(origin.clone(), error))?;
        let mut layer = flatten(table, &origin);
        let folder = path.parent().unwrap_or(Path::new(""));
        for (key, entry) in &mut layer {
            if PATHS.contains(&key.as_str()) {
                place_in(folder, &mut entry.value);
            }
        }
        Ok(layer)
    }

    /// `TIDEMILL__SECTION__KEY`, and `RUST_LOG` below `TIDEMILL__LOG__LEVEL`. An empty variable counts as not set.
    pub(super) fn read_environment(&self, env: &[(String, String)]) -> Layer {
        let entry = |name: &String, text: &String| Entry {
            value: Value::new(None, text.as_str()),
            origin: Origin::Environment(name.clone()),
        };
        let rust_log = env.iter().filter(|(name, text)| name == "RUST_LOG" && text.parse::<LogFilter>().is_ok());
        let ours = env.iter().filter(|(name, text)| name.starts_with(PREFIX) && !text.is_empty());
        rust_log
            .map(|(name, text)| ("log.level".to_owned(), entry(name, text)))
            .chain(ours.map(|(name, text)| (key_of(name), entry(name, text))))
            .collect()
    }

    pub(super) fn read_command_line(&self, overrides: Vec<(String, String)>) -> Layer {
        let entry = |text: String| Entry { value: Value::new(None, text), origin: Origin::CommandLine };
        overrides.into_iter().map(|(key, text)| (key, entry(text))).collect()
    }

    /// Variables that look as if they were meant for us: with one underscore where two belong, or a log filter that
    /// cannot be read.
    pub(super) fn warnings(&self, env: &[(String, String)]) -> Vec<String> {
        let mut warnings = Vec::new();
        for (name, text) in env {
            if name == "RUST_LOG" && !text.is_empty() && text.parse::<LogFilter>().is_err() {
                warnings.push(format!("the environment variable RUST_LOG={text} is not a log filter, and ignored"));
            }
            let Some(rest) = name.strip_prefix("TIDEMILL_").filter(|_| !name.starts_with(PREFIX)) else {
                continue;
            };
            let meant = self.entries.keys().find(|key| key.replace('.', "_").eq_ignore_ascii_case(rest));
            if let Some(key) = meant {
                warnings
                    .push(format!("the environment variable {name} is ignored; did you mean {}?", variable_of(key)));
            }
        }
        warnings
    }

    /// Lays a layer over what is there.
    pub(super) fn lay(&mut self, layer: Layer) -> Result<(), SettingsError> {
        for secret in SECRETS {
            let (direct, by_file) = (position(&layer, secret), position(&layer, &format!("{secret}_file")));
            if let (Some(direct), Some(by_file)) = (direct, by_file) {
                let (key, entry) = &layer[by_file.max(direct)];
                let why = InvalidValue::new("the secret is given twice", format!("set {secret} or {secret}_file"));
                return Err(invalid(key, entry, why));
            }
        }
        for (key, mut entry) in layer {
            let Some(below) = self.entries.get(&key) else {
                return Err(SettingsError::unknown_key(&key, entry.origin.clone(), self.nearest(&key, &entry.origin)));
            };
            entry.value.kind =
                fit(entry.value.kind.clone(), &below.value.kind).map_err(|why| invalid(&key, &entry, why))?;
            // A secret given one way hides the same secret given the other way further below.
            let rival = match key.strip_suffix("_file") {
                Some(secret) => secret.to_owned(),
                None => format!("{key}_file"),
            };
            if let Some(rival) = self.entries.get_mut(&rival).filter(|_| given(&entry)) {
                *rival = Entry { value: Value::new(None, ""), origin: Origin::Default };
            }
            self.entries.insert(key, entry);
        }
        Ok(())
    }

    /// Puts in what the files of `password_file` and its like hold.
    pub(super) fn read_secret_files(&mut self) -> Result<(), SettingsError> {
        for secret in SECRETS {
            let key = format!("{secret}_file");
            let Some(path) =
                self.entries.get(&key).map(|entry| entry.value.to_string()).filter(|path| !path.is_empty())
            else {
                continue;
            };
            let origin = Origin::SecretFile(path.into());
            let Origin::SecretFile(path) = &origin else { continue };
            let text = read_secret(path).map_err(|error| {
                let hint = format!("{key} names it, in {}", self.entries[&key].origin);
                SettingsError::unreadable(Some(&key), origin.clone(), error, &hint)
            })?;
            self.entries.insert(secret.to_owned(), Entry { value: Value::new(None, text), origin });
        }
        Ok(())
    }

    /// The settings that the layers come to.
    pub(super) fn settings(&self) -> Result<Settings, SettingsError> {
        let invalid = |key: &str, why: InvalidValue| match self.entries.get(key) {
            Some(entry) => invalid(key, entry, why),
            None => SettingsError::invalid_value(key, String::new(), Origin::Default, why),
        };
        let mut builder = Config::builder();
        for (key, entry) in self.entries.iter().filter(|(key, _)| !names_secret_file(key)) {
            builder = builder.set_override(key, entry.value.clone()).map_err(|error| told(error, &invalid))?;
        }
        let settings: Settings =
            builder.build().and_then(Config::try_deserialize).map_err(|error| told(error, &invalid))?;
        rules::check(&settings).map_err(|(key, why)| invalid(key, why))?;
        Ok(settings)
    }

    pub(super) fn into_entries(self) -> BTreeMap<String, Entry> {
        self.entries
    }

    /// A hint for an unknown key, in the spelling of the place where it was found.
    fn nearest(&self, key: &str, origin: &Origin) -> String {
        let spelt = |key: &str| match origin {
            Origin::Environment(_) => variable_of(key),
            _ => key.to_owned(),
        };
        // Edit distance, not `crate::nearest`: the keys of a section share their beginning, which that one weighs most.
        let distance = |known: &str| strsim::damerau_levenshtein(known, key);
        let nearest = self.entries.keys().min_by_key(|known| distance(known)).filter(|known| {
            let room = (key.chars().count() / 3).clamp(2, 5);
            distance(known) <= room
        });
        let word = key.rsplit('.').next().unwrap_or(key);
        let same_word = |known: &&String| known.rsplit('.').next() == Some(word);
        if let Some(known) = nearest {
            return format!("did you mean {}?", spelt(known));
        }
        let same: Vec<_> = self.entries.keys().filter(same_word).map(|known| spelt(known)).collect();
        if !same.is_empty() {
            return format!("did you mean {}?", same.join(" or "));
        }
        let section = key.split('.').next().unwrap_or(key);
        let in_section = |known: &&String| known.split('.').next() == Some(section);
        let keys: Vec<_> = self.entries.keys().filter(in_section).map(|known| spelt(known)).collect();
        if !keys.is_empty() {
            return format!("there are {}", keys.join(", "));
        }
        let mut sections: Vec<_> = self.entries.keys().filter_map(|known| known.split('.').next()).collect();
        sections.dedup();
        format!("the sections are {}", sections.join(", "))
    }
}

/// Turns an error of the `config` crate, which knows the key, into ours, which also tells value and origin.
fn told(error: ConfigError, invalid: &impl Fn(&str, InvalidValue) -> SettingsError) -> SettingsError {
    match error {
        ConfigError::At { error, key: Some(key), .. } => {
            let text = error.to_string();
            let (problem, hint) = text.split_once('\n').unwrap_or((&text, ""));
            invalid(&key, InvalidValue::new(problem, hint))
        }
        ConfigError::Type { expected, key: Some(key), .. } => {
            invalid(&key, InvalidValue::new(format!("expected {expected}"), ""))
        }
        other => SettingsError::malformed(Origin::Default, other.to_string()),
    }
}

fn invalid(key: &str, entry: &Entry, why: InvalidValue) -> SettingsError {
    SettingsError::invalid_value(key, shown(key, &entry.value), entry.origin.clone(), why)
}

fn parse(toml: &str) -> Result<config::Map<String, Value>, String> {
    File::from_str(toml, FileFormat::Toml).collect().map_err(|error| match error {
        ConfigError::FileParse { cause, .. } => without_secrets(cause.to_string().trim_end()),
        other => other.to_string(),
    })
}

/// A parser's error without the excerpt that it shows, where that may hold a secret.
fn without_secrets(error: &str) -> String {
    let may_hold_one = |key: &&str| key.rsplit('.').next().is_some_and(|name| error.contains(name));
    if !SECRETS.iter().any(may_hold_one) && !error.contains("://") {
        return error.to_owned();
    }
    let excerpt = |line: &&str| line.split_once('|').is_some_and(|(number, _)| number.trim().parse::<u64>().is_ok());
    error
        .lines()
        .filter(|line| !excerpt(line))
        .filter(|line| !line.trim_start().starts_with('|'))
        .collect::<Vec<_>>()
        .join(": ")
}

/// Tables within tables as `section.key`.
fn flatten(table: config::Map<String, Value>, origin: &Origin) -> Layer {
    let mut layer = Layer::new();
    for (name, value) in table {
        match value.kind {
            ValueKind::Table(inner) if !inner.is_empty() => {
                let within = flatten(inner, origin).into_iter();
                layer.extend(within.map(|(key, entry)| (format!("{name}.{key}"), entry)));
            }
            ValueKind::Table(_) => {} // an empty section says nothing
            _ => layer.push((name, Entry { value, origin: origin.clone() })),
        }
    }
    layer.sort_by(|(a, _), (b, _)| a.cmp(b));
    layer
}

fn position(layer: &Layer, key: &str) -> Option<usize> {
    layer.iter().position(|(found, entry)| found == key && given(entry))
}

fn given(entry: &Entry) -> bool {
    !matches!(&entry.value.kind, ValueKind::String(text) if text.is_empty())
}

/// Whether a key is the companion of a secret that names its file.
pub(super) fn names_secret_file(key: &str) -> bool {
    key.strip_suffix("_file").is_some_and(|secret| SECRETS.contains(&secret))
}

/// `TIDEMILL__TASK__TIMEOUT` is `task.timeout`.
fn key_of(variable: &str) -> String {
    variable[PREFIX.len()..].to_lowercase().replace("__", ".")
}

fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

/// Makes relative paths begin at a folder.
fn place_in(folder: &Path, value: &mut Value) {
    match &mut value.kind {
        ValueKind::String(path) if !path.is_empty() => *path = folder.join(&*path).to_string_lossy().into_owned(),
        ValueKind::Array(paths) => paths.iter_mut().for_each(|path| place_in(folder, path)),
        _ => {}
    }
}

/// Reads a value as the kind that its key has: text stands for anything, for the environment knows nothing else.
fn fit(value: ValueKind, like: &ValueKind) -> Result<ValueKind, InvalidValue> {
    use ValueKind::{Array, Boolean, Float, I64, String as Text};
    match (like, value) {
        (I64(_), I64(number)) if number >= 0 => Ok(I64(number)),
        (I64(_), Text(text)) => match text.trim().replace('_', "").parse() {
            Ok(number) if number >= 0 => Ok(I64(number)),
            _ => Err(InvalidValue::new("not a whole number", "write a whole number, 0 or more")),
        },
        (I64(_), _) => Err(InvalidValue::new("not a whole number", "write a whole number, 0 or more")),
        (Boolean(_), Boolean(yes)) => Ok(Boolean(yes)),
        (Boolean(_), Text(text)) if matches!(text.trim(), "true" | "false") => Ok(Boolean(text.trim() == "true")),
        (Boolean(_), _) => Err(InvalidValue::new("neither yes nor no", "write true or false")),
        (Array(_), Array(items)) => {
            let one = Text(String::new());
            let fitted = items.into_iter().map(|item| fit(item.kind, &one).map(|kind| Value::new(None, kind)));
            Ok(Array(fitted.collect::<Result<_, _>>()?))
        }
        (Array(_), Text(text)) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(Array(items.map(|item| Value::new(None, item)).collect()))
        }
        (Array(_), _) => Err(InvalidValue::new("not a list", "write a list: [\"one\", \"two\"]")),
        (_, Text(text)) => Ok(Text(text)),
        (_, I64(number)) => Ok(Text(number.to_string())),
        (_, Float(number)) => Ok(Text(number.to_string())),
        (_, _) => Err(InvalidValue::new("not a text", "write a text in quotes")),
    }
}

fn read_secret(path: &Path) -> io::Result<String> {
    if std::fs::metadata(path)?.len() > SECRET_FILE_BYTES {
        return Err(io::Error::other("a file this large holds more than a secret"));
    }
    let text = std::fs::read_to_string(path)?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(io::Error::other("it is empty"));
    }
    Ok(secret.to_owned())
}
