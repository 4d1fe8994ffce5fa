//! Secrets: which keys are some, and how a value is shown without giving any away.

use config::{Value, ValueKind};

/// The keys that are secrets. Each has a companion with `_file` at its end, which names a file that holds it.
pub(super) const SECRETS: [&str; 3] = ["broker.password", "store.password", "api.token"];

/// What stands for a secret; always as long, whatever the secret's length.
pub(super) const STARS: &str = "********";

/// Words in the name of a URL's query parameter that make its value a secret.
const SECRET_WORDS: [&str; 5] = ["secret", "password", "token", "signature", "key"];

/// A value as it would stand in a TOML file, with secrets starred.
pub(super) fn shown(key: &str, value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) if SECRETS.contains(&key) && !text.is_empty() => format!("{STARS:?}"),
        ValueKind::String(text) => quoted(&masked(text)),
        ValueKind::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| shown(key, item)).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Table(_) => "{ … }".to_owned(),
        _ => value.to_string(),
    }
}

/// A text as a TOML string.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A URL without its secrets: the password before the host, and query parameters that are named like secrets. Anything
/// else comes back as it is. Where a password was not percent-encoded and the URL is ambiguous, too much is starred
/// rather than too little.
pub(super) fn masked(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) if !query.contains('@') => (rest, Some(query)),
        _ => (rest, None),
    };
    let mut masked = format!("{scheme}://");
    let end_of_host = rest.find('/').unwrap_or(rest.len());
    let at = rest[..end_of_host].rfind('@').or_else(|| rest.rfind('@'));
    match at.map(|at| (rest[..at].split_once(':'), &rest[at..])) {
        Some((Some((user, _password)), host)) => masked.extend([user, ":", STARS, host]),
        _ => masked.push_str(rest),
    }
    if let Some(query) = query {
        let parameters: Vec<_> = query.split('&').map(masked_parameter).collect();
        masked.extend(["?", &parameters.join("&")]);
    }
    masked
}

fn masked_parameter(parameter: &str) -> String {
    let (name, _) = parameter.split_once('=').unwrap_or((parameter, ""));
    let lower = name.to_lowercase();
    if SECRET_WORDS.iter().any(|word| lower.contains(word)) { format!("{name}={STARS}") } else { parameter.to_owned() }
}
