//! Secrets: which keys are some, and how a value is shown without giving any away.

use config::{Value, ValueKind};

/// The keys that are secrets. Each has a companion with `_file` at its end, which names a file that holds it.
pub(super) const SECRETS: [&str; 3] = ["broker.password", "store.password", "api.token"];

/// What stands for a secret; always as long, whatever the secret's length.
pub(super) const STARS: &str = "********";

/// Words in the name of a URL's query parameter that make its value a secret.
const SECRET_WORDS: [&str; 6] = ["secret", "password", "token", "signature", "key", "credential"];

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

/// A URL, or several with commas between them, without their secrets: the password before the host, and query parameters
/// that are named like secrets. Anything else comes back as it is. Where a password was not percent-encoded and the URL is
/// ambiguous, too much is starred rather than too little.
pub(super) fn masked(text: &str) -> String {
    let (mut masked, mut from) = (String::new(), 0);
    for (comma, _) in text.match_indices(',') {
        let url = &text[from..comma];
        // Before the `@` it may be a password's.
        if url.contains('@') && begins_with_scheme(&text[comma + 1..]) {
            masked += &masked_url(url);
            masked.push(',');
            from = comma + 1;
        }
    }
    masked + &masked_url(&text[from..])
}

fn begins_with_scheme(text: &str) -> bool {
    let is_scheme =
        |scheme: &str| !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    text.trim_start().split_once("://").is_some_and(|(scheme, _)| is_scheme(scheme))
}

fn masked_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end_of_address = rest.find('?').filter(|end| !rest[*end..].contains('@')).unwrap_or(rest.len());
    let address = &rest[..end_of_address];
    // Behind a comma there may be one more login.
    let end_of_host = address.find('/').filter(|end| !address[*end..].contains(',')).unwrap_or(address.len());
    let at = address[..end_of_host].rfind('@').or_else(|| address.rfind('@'));
    let (login, rest) = match at.map(|at| (rest[..at].split_once(':'), &rest[at..])) {
        Some((Some((user, _password)), rest)) => (format!("{user}:{STARS}"), rest),
        _ => (String::new(), rest),
    };
    let Some((rest, query)) = rest.split_once('?') else {
        return format!("{scheme}://{login}{rest}");
    };
    let parameters: Vec<_> = query.split('&').map(masked_parameter).collect();
    format!("{scheme}://{login}{rest}?{}", parameters.join("&"))
}

fn masked_parameter(parameter: &str) -> String {
    let (name, _) = parameter.split_once('=').unwrap_or((parameter, ""));
    let lower = name.to_lowercase();
    if SECRET_WORDS.iter().any(|word| lower.contains(word)) { format!("{name}={STARS}") } else { parameter.to_owned() }
}
