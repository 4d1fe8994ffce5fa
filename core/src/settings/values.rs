//! Values as people write them: times, sizes, addresses, secrets, and words from a closed list.

use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error};
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

use super::secrets::{STARS, masked};

/// Why a text is not a good value, and what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}\n{hint}")]
pub struct InvalidValue {
    /// What is wrong: a lowercase fragment.
    pub problem: String,
    /// What would be good: one line.
    pub hint: String,
}

impl InvalidValue {
    pub(super) fn new(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { problem: problem.into(), hint: hint.into() }
    }

    /// A word that is not in a closed list.
    fn not_one_of(words: &[&str]) -> Self {
        Self::new("no such choice", format!("it is one of {}", words.join(", ")))
    }
}

impl From<Infallible> for InvalidValue {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Reads a time with its unit: `250ms`, `30s`, `1h 30m`.
///
/// # Errors
/// [`InvalidValue`] for anything else; a bare number is refused, for nobody knows its unit.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidValue> {
    let text = text.trim();
    if text.parse::<f64>().is_ok_and(f64::is_finite) {
        let hint = format!("write {text}s for seconds, {text}ms for milliseconds, {text}m for minutes");
        return Err(InvalidValue::new("a time needs a unit", hint));
    }
    let hint = "write a time like 250ms, 30s, 10m or 1h 30m";
    humantime::parse_duration(text).map_err(|error| InvalidValue::new(error.to_string(), hint))
}

/// The units of sizes, with their names in lower case.
const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kb", 1000),
    ("mb", 1000 * 1000),
    ("gb", 1000 * 1000 * 1000),
    ("tb", 1000 * 1000 * 1000 * 1000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// Reads a number of bytes: `64MiB` (2²⁰), `64MB` (10⁶), `1.5 GiB`, or a bare number of bytes.
///
/// # Errors
/// [`InvalidValue`] for anything else; `64M` is refused, for it could be either.
pub fn parse_size(text: &str) -> Result<u64, InvalidValue> {
    let text = text.trim();
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '_')).unwrap_or(text.len());
    let (number, unit) = (text[..end].replace('_', ""), text[end..].trim().to_lowercase());
    let invalid =
        |problem: &str| InvalidValue::new(problem, "write a size like 64MiB (2^20 bytes) or 64MB (10^6 bytes)");
    if matches!(unit.as_str(), "k" | "m" | "g" | "t") {
        let unit = unit.to_uppercase();
        let hint = format!("write {number}{unit}iB for powers of 1024, or {number}{unit}B for powers of 1000");
        return Err(InvalidValue::new(format!("{unit} could mean two units"), hint));
    }
    let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(invalid("not a size"));
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(*factor).ok_or_else(|| invalid("more bytes than can be counted"));
    }
    let bytes = number.parse::<f64>().map_err(|_| invalid("not a size"))? * *factor as f64;
    if bytes >= u64::MAX as f64 {
        return Err(invalid("more bytes than can be counted"));
    }
    Ok(bytes.round() as u64)
}

/// Writes a number of bytes in the largest unit that leaves a number of at least 1: `64MiB`, `1.5GiB`, `999B`.
pub fn format_size(bytes: u64) -> String {
    for (unit, factor) in [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor {
            return match bytes % factor {
                0 => format!("{}{unit}", bytes / factor),
                _ => format!("{:.1}{unit}", bytes as f64 / factor as f64),
            };
        }
    }
    format!("{bytes}B")
}

/// A password or token. It is never printed; whoever needs it says [`Secret::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STARS)
    }
}

/// The URL of a broker, a store or a place for blobs. Printed without its password; [`ServiceUrl::expose`] has all.
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceUrl(String);

impl ServiceUrl {
    /// What stands before `://`, and chooses the implementation: `memory`, `amqp`, `redis`, `file`.
    pub fn scheme(&self) -> &str {
        self.0.split_once("://").map_or("", |(scheme, _)| scheme)
    }

    /// What follows `://`.
    pub fn rest(&self) -> &str {
        self.0.split_once("://").map_or("", |(_, rest)| rest)
    }

    /// Whether this is `memory://`: inside this process.
    pub fn is_memory(&self) -> bool {
        self.scheme() == "memory"
    }

    /// The whole URL, with its password where it has one: for a client library, not for people.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<std::net::AddrParseError> for InvalidValue {
    fn from(_: std::net::AddrParseError) -> Self {
        Self::new("not an address", "it is an IP address and a port, such as 127.0.0.1:8460")
    }
}

impl FromStr for ServiceUrl {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text.split_once("://") {
            Some((scheme, _)) if !scheme.is_empty() => Ok(Self(text.to_owned())),
            _ => {
                Err(InvalidValue::new("not a URL", "a URL begins with a scheme: memory://, amqp://host, file:///path"))
            }
        }
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(&self.0))
    }
}

impl fmt::Debug for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", masked(&self.0))
    }
}

/// Where networks run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// Every GPU there is, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA devices of these numbers; none named: every one.
    Cuda(Vec<u32>),
}

impl FromStr for Device {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let unknown = || InvalidValue::not_one_of(&["auto", "cpu", "cuda", "cuda:0", "cuda:0,cuda:1 and so on"]);
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(Vec::new())),
            _ => {
                let number = |name: &str| name.trim().strip_prefix("cuda:")?.parse().ok();
                let mut numbers: Vec<u32> = text.split(',').map(number).collect::<Option<_>>().ok_or_else(unknown)?;
                numbers.sort_unstable();
                numbers.dedup();
                Ok(Self::Cuda(numbers))
            }
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(numbers) if numbers.is_empty() => f.write_str("cuda"),
            Self::Cuda(numbers) => {
                let names: Vec<String> = numbers.iter().map(|number| format!("cuda:{number}")).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

/// The numbers that networks compute with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// What the device is good at.
    Auto,
    /// 32-bit floating point.
    Fp32,
    /// 16-bit floating point with the range of 32 bits.
    Bf16,
    /// 16-bit floating point.
    Fp16,
}

impl Precision {
    /// The word in settings and model cards.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
        }
    }
}

impl FromStr for Precision {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let all = [Self::Auto, Self::Fp32, Self::Bf16, Self::Fp16];
        all.into_iter()
            .find(|precision| precision.as_str() == text)
            .ok_or_else(|| InvalidValue::not_one_of(&all.map(Self::as_str)))
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Short lines for people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

impl FromStr for LogFormat {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(InvalidValue::not_one_of(&["text", "json"])),
        }
    }
}

/// Which log lines are written: a level, or a list of `part=level`.
#[derive(Clone, Debug)]
pub struct LogFilter(Targets);

impl LogFilter {
    /// The filter for a subscriber.
    pub fn targets(&self) -> Targets {
        self.0.clone()
    }
}

impl FromStr for LogFilter {
    type Err = InvalidValue;

    /// A single word is a level. `info` and `debug` are about Tidemill itself: the libraries below it keep to `warn`,
    /// or their talk would drown it; `trace`, or naming them, lets them speak.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.contains(['=', ',']) {
            let hint = "write a level, or levels by part: warn,tidemill_worker=debug";
            return text.parse().map(Self).map_err(|_| InvalidValue::new("not a log filter", hint));
        }
        let level: LevelFilter = match text {
            "off" => LevelFilter::OFF,
            "error" => Level::ERROR.into(),
            "warn" => Level::WARN.into(),
            "info" => Level::INFO.into(),
            "debug" => Level::DEBUG.into(),
            "trace" => Level::TRACE.into(),
            _ => return Err(InvalidValue::not_one_of(&["off", "error", "warn", "info", "debug", "trace"])),
        };
        let quiet = matches!(text, "info" | "debug");
        let others = if quiet { LevelFilter::WARN } else { level };
        Ok(Self(
            Targets::new()
                .with_default(others)
                .with_target("tidemill", level)
                // How far long work has come is no warning, and yet it is what people wait for.
                .with_target(crate::telemetry::events::PROGRESS, if text == "warn" { LevelFilter::INFO } else { level })
                // What it cannot verify is our failure to tell: the item says so.
                .with_target("rustls_platform_verifier", LevelFilter::OFF),
        ))
    }
}

/// Reads anything that is made from text.
pub(super) fn from_text<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: Into<InvalidValue>>,
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|error: T::Err| D::Error::custom(error.into()))
}

/// Reads anything that is made from text, where an empty text means that there is none.
pub(super) fn optional<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: FromStr<Err: Into<InvalidValue>>,
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error: T::Err| D::Error::custom(error.into()))
}

/// Reads a time, see [`parse_duration`].
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Reads networks; an address by itself is a network of one.
pub(super) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let parse = |text: &String| match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.into()),
        Err(_) => text.parse().map_err(|_| {
            let hint = "it is an IP address, or a network such as 10.0.0.0/8 or fd00::/8";
            D::Error::custom(InvalidValue::new(format!("{text:?} is not a network"), hint))
        }),
    };
    Vec::<String>::deserialize(deserializer)?.iter().map(parse).collect()
}

/// Reads a number of bytes, see [`parse_size`].
pub(super) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    parse_size(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}
