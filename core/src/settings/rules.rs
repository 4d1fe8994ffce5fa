//! Rules: what holds between values, and how far each may go.

use std::time::Duration;

use super::Settings;
use super::values::{InvalidValue, ServiceUrl};
use crate::wire::MAX_CHUNK_BYTES;

/// Finds the first key whose value breaks a rule.
pub(super) fn check(settings: &Settings) -> Result<(), (&'static str, InvalidValue)> {
    let Settings {
        broker,
        store,
        results,
        api,
        submit,
        blobs,
        worker,
        run,
        serve,
        chunk,
        retry,
        task,
        image,
        vision,
        fetch,
        net,
        log: _,
    } = settings;
    scheme("broker.url", &broker.url, &["memory", "amqp", "amqps"])?;
    scheme("store.url", &store.url, &STORES)?;
    scheme("api.url", &api.url, &["http", "https"])?;
    if worker.lanes.is_empty() {
        return Err(("worker.lanes", InvalidValue::new("empty", "name one or more of cpu, wait, vision, process")));
    }
    let mut lanes = worker.lanes.iter().enumerate();
    if let Some((_, twice)) = lanes.find(|(place, lane)| worker.lanes[..*place].contains(lane)) {
        // It would hold twice as much as there are hands for.
        let problem = format!("{} stands there twice", twice.as_str());
        return Err(("worker.lanes", InvalidValue::new(problem, "name each lane once")));
    }
    if let Some(url) = &blobs.url {
        scheme("blobs.url", url, &["file", "memory", "redis", "rediss", "s3", "gs", "az"])?;
    }
    api.hosts.iter().try_for_each(|name| host("api.hosts", name))?;
    label("broker.prefix", &broker.prefix)?;
    label("store.prefix", &store.prefix)?;
    worker.name.as_deref().map_or(Ok(()), |name| label("worker.name", name))?;
    label("vision.default_model", &vision.default_model)?;
    vision.preload.iter().try_for_each(|name| label("vision.preload", name))?;

    for (key, value, least, most) in [
        ("broker.queue_bytes", broker.queue_bytes, 64 << 10, u64::MAX),
        ("worker.threads", worker.threads as u64, 0, 4096),
        ("worker.waiting", worker.waiting as u64, 1, 1_000_000),
        ("worker.suspect_after", worker.suspect_after.into(), 1, 1000),
        ("worker.crash_limit", worker.crash_limit.into(), 1, 1000),
        ("run.window", run.window_bytes, 64 << 10, u64::MAX),
        ("serve.keep", serve.keep_bytes, 1 << 20, u64::MAX),
        ("serve.keep_files", serve.keep_files, 1 << 20, u64::MAX),
        ("chunk.max_items", chunk.max_items as u64, 1, 1_000_000),
        ("chunk.max_bytes", chunk.max_bytes, 1 << 10, MOST_OF_A_CHUNK),
        ("retry.attempts", retry.attempts.into(), 1, 1000),
        ("image.max_pixels", image.max_pixels, 1, u64::MAX),
        ("image.max_bytes", image.max_bytes, 1 << 20, u64::MAX),
        ("vision.instances", vision.instances as u64, 0, 1024),
        ("vision.threads", vision.threads as u64, 0, 4096),
        ("vision.max_batch", vision.max_batch as u64, 0, 65_536),
        ("vision.model_memory", vision.model_memory_bytes, 1 << 20, u64::MAX),
        ("fetch.max_bytes", fetch.max_bytes, 1, u64::MAX),
        ("net.slowest", net.slowest, 0, 1 << 30),
        ("net.max_redirects", net.max_redirects as u64, 0, 100),
        ("net.max_bytes", net.max_bytes, 1, u64::MAX),
        ("net.max_page_bytes", net.max_page_bytes, 1, 1 << 30),
        ("net.at_once", net.at_once as u64, 1, 65_536),
        ("net.at_once_per_host", net.at_once_per_host as u64, 1, 65_536),
    ] {
        between(key, value, least, most)?;
    }
    for (key, value, least, most) in [
        ("broker.look_ahead", broker.look_ahead, Duration::ZERO, MINUTE),
        ("chunk.target", chunk.target, MILLISECOND, HOUR),
        ("retry.base", retry.base, MILLISECOND, DAY),
        ("retry.max", retry.max, MILLISECOND, DAY),
        ("task.timeout", task.timeout, MILLISECOND, 30 * DAY),
        ("vision.max_delay", vision.max_delay, Duration::ZERO, MINUTE),
        ("worker.grace", worker.grace, Duration::ZERO, DAY),
        ("worker.heartbeat", worker.heartbeat, 100 * MILLISECOND, HOUR),
        ("worker.stuck_after", worker.stuck_after, Duration::ZERO, DAY),
        ("results.ttl", results.ttl, MINUTE, 3650 * DAY),
        ("blobs.keep", blobs.keep, MINUTE, 3650 * DAY),
        ("submit.patience", submit.patience, MILLISECOND, 30 * DAY),
        ("fetch.timeout", fetch.timeout, MILLISECOND, DAY),
        ("net.connect_timeout", net.connect_timeout, MILLISECOND, HOUR),
        ("net.deadline", net.deadline, MILLISECOND, 30 * DAY),
    ] {
        let text = |duration| humantime::format_duration(duration).to_string();
        if value < least {
            return Err((key, InvalidValue::new("too short", format!("it is at least {}", text(least)))));
        }
        if value > most {
            return Err((key, InvalidValue::new("too long", format!("it is at most {}", text(most)))));
        }
    }
    if retry.max < retry.base {
        let base = humantime::format_duration(retry.base);
        let hint = format!("it is at least as long as retry.base, which is {base}");
        return Err(("retry.max", InvalidValue::new("too short", hint)));
    }
    if blobs.keep < results.ttl {
        let ttl = humantime::format_duration(results.ttl);
        let hint = format!("it is at least as long as results.ttl, which is {ttl}: outcomes name these files");
        return Err(("blobs.keep", InvalidValue::new("too short", hint)));
    }
    Ok(())
}

const STORES: [&str; 7] =
    ["memory", "redis", "rediss", "redis-cluster", "rediss-cluster", "redis-sentinel", "rediss-sentinel"];

/// A message carries the options of the batch, too.
const MOST_OF_A_CHUNK: u64 = MAX_CHUNK_BYTES as u64 / 2;

const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn between(key: &'static str, value: u64, least: u64, most: u64) -> Result<(), (&'static str, InvalidValue)> {
    let in_bytes =
        key.ends_with("bytes") || matches!(key, "run.window" | "serve.keep" | "serve.keep_files" | "net.slowest");
    let text = |value: u64| if in_bytes { super::format_size(value) } else { value.to_string() };
    if value < least {
        return Err((key, InvalidValue::new("too small", format!("it is at least {}", text(least)))));
    }
    if value > most {
        return Err((key, InvalidValue::new("too large", format!("it is at most {}", text(most)))));
    }
    Ok(())
}

fn scheme(key: &'static str, url: &ServiceUrl, known: &[&str]) -> Result<(), (&'static str, InvalidValue)> {
    if !known.contains(&url.scheme()) {
        let known: Vec<_> = known.iter().map(|scheme| format!("{scheme}://")).collect();
        let hint = format!("it begins with one of {}", known.join(", "));
        return Err((key, InvalidValue::new("unknown scheme", hint)));
    }
    if !url.is_memory() && url.rest().trim_start_matches('/').is_empty() {
        let hint = format!("write what follows the scheme: {}://…", url.scheme());
        return Err((key, InvalidValue::new("it names no place", hint)));
    }
    Ok(())
}

/// Names go into outcomes, logs and metrics, and a model's name is looked up as a folder.
fn label(key: &'static str, name: &str) -> Result<(), (&'static str, InvalidValue)> {
    let good = |c: char| c.is_alphanumeric() || "-_.:@+".contains(c);
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.chars().all(good) {
        let hint = "a name has 1 to 128 letters, digits and - _ . : @ +, and does not begin with a full stop";
        return Err((key, InvalidValue::new("not a name", hint)));
    }
    Ok(())
}

/// A name as it stands in a URL: no port, no scheme, no pattern.
fn host(key: &'static str, name: &str) -> Result<(), (&'static str, InvalidValue)> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(good) {
        let hint = "write names as they stand in URLs, without scheme and port: mill.example";
        return Err((key, InvalidValue::new(format!("{name:?} is not the name of a host"), hint)));
    }
    Ok(())
}
