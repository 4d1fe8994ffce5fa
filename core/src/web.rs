//! Web: requests over HTTP to addresses that somebody else has chosen.
//!
//! ```text
//!  URL ─▶ scheme, IP address ─▶ a slot of its host ─▶ look up, each address checked ─▶ connect ─▶ answer ─▶ body
//!            ▲  (allowed?)        and of all             (Guarded)                                │   (pace, size)
//!            └──────────────────────────────── redirected, a few times ◀──────────────────────────┘
//! ```
//!
//! Nothing of an input is trusted. An address is checked where the connection is made, so neither a name that leads to a
//! private address, nor one that leads there the second time it is looked up, nor a redirect reaches one. What comes
//! back is bounded in size, in time and in how slowly it may come.

mod addresses;
mod answer;
mod hosts;
mod resolve;
#[cfg(test)]
mod tests;

use std::error::Error as StdError;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use tokio::time::Instant;
pub use url::Url;
use url::{Host, ParseError};

pub use self::answer::{Answer, Most};
use self::hosts::Hosts;
use self::resolve::{Forbidden, Guarded};
use crate::blobs::{BlobError, choose_cryptography};
use crate::failure::chain;
use crate::settings::{NetSettings, Settings};

/// Fetches over HTTP, by rules. Cheap to clone; the clones share their connections and their slots.
#[derive(Clone, Debug, Default)]
pub struct Web {
    /// None: the built-in rules.
    rules: Option<Arc<NetSettings>>,
    /// Made for the first request: most runs make none, and loading the certificates takes milliseconds.
    desk: Arc<OnceLock<Desk>>,
}

/// What requests need.
#[derive(Debug)]
struct Desk {
    client: reqwest::Client,
    rules: Arc<NetSettings>,
    hosts: Arc<Hosts>,
}

impl Web {
    /// Fetches by these rules.
    pub fn new(rules: NetSettings) -> Self {
        Self { rules: Some(Arc::new(rules)), desk: Arc::default() }
    }

    /// Asks for what is at a URL, and follows redirects. `accept` is the header of that name, `patience` how long a server
    /// may be silent.
    ///
    /// Dropping the future, or the answer, ends the request.
    ///
    /// # Errors
    /// [`BlobError`], naming the URL, of kind `invalid_input` (no such URL can be), `forbidden` (an address that is not
    /// public), `redirects`, `too_large` (as announced), `not_found`, `http_status`, `tls`: for good; `unreachable`,
    /// `timeout`, and `http_status` where the server says that it may pass: to be tried again.
    pub async fn get(&self, url: &str, accept: &str, most: Most, patience: Duration) -> Result<Answer, BlobError> {
        let mut url = parse(url)?;
        let desk = self.desk(&url)?;
        let mut asked: Option<Instant> = None;
        let mut seen = vec![url.clone()];
        loop {
            desk.check(&url)?;
            let waits = Instant::now();
            let slot = desk.hosts.slot(host_and_port(&url)).await;
            // Waiting for a slot is no fault of the server's, nor is waiting for another one where it redirects.
            let asked = *asked.insert(asked.map_or_else(Instant::now, |asked| asked + waits.elapsed()));
            let response = desk.ask(&url, accept, patience, asked + desk.rules.deadline).await?;
            let status = response.status();
            if status.is_success() {
                return Answer::new(url, response, slot, (most, patience), &desk.rules, asked);
            }
            let Some(next) = redirect(&url, status, response.headers())? else {
                return Err(refused(&url, status, response.headers()));
            };
            if seen.contains(&next) {
                return Err(failed("redirects", &url, "it redirects in a circle"));
            }
            if seen.len() > desk.rules.max_redirects {
                let reason = format!("it redirects more than the {} times of net.max_redirects", seen.len() - 1);
                return Err(failed("redirects", &url, &reason));
            }
            seen.push(next.clone());
            url = next;
        }
    }

    fn desk(&self, url: &Url) -> Result<&Desk, BlobError> {
        if let Some(desk) = self.desk.get() {
            return Ok(desk);
        }
        let rules = self.rules.clone().unwrap_or_else(|| Arc::new(Settings::default().net));
        let desk = Desk::new(rules).map_err(|error| failed("unreachable", url, &chain(&error)))?;
        Ok(self.desk.get_or_init(|| desk))
    }
}

impl Desk {
    fn new(rules: Arc<NetSettings>) -> Result<Self, reqwest::Error> {
        choose_cryptography();
        let builder = reqwest::Client::builder()
            .connect_timeout(rules.connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(Guarded::new(&rules)))
            .user_agent(concat!("tidemill/", env!("CARGO_PKG_VERSION")));
        let builder = if rules.use_proxy { builder } else { builder.no_proxy() };
        let hosts = Arc::new(Hosts::new(rules.at_once, rules.at_once_per_host));
        Ok(Self { client: builder.build()?, rules, hosts })
    }

    /// What can be said of a URL before its name is looked up.
    fn check(&self, url: &Url) -> Result<(), BlobError> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            Some(Host::Domain(_)) => return Ok(()),
            None => return Err(failed("invalid_input", url, "it names no host")),
        };
        if addresses::may_be_asked(address, &self.rules.allow_private) {
            return Ok(());
        }
        Err(forbidden(url, &Forbidden { host: address.to_string() }))
    }

    /// One request, until the head of its answer is there.
    async fn ask(
        &self,
        url: &Url,
        accept: &str,
        patience: Duration,
        deadline: Instant,
    ) -> Result<reqwest::Response, BlobError> {
        let asking = self.client.get(url.clone()).header(reqwest::header::ACCEPT, accept).send();
        let until = deadline.min(Instant::now() + patience);
        match tokio::time::timeout_at(until, asking).await {
            Ok(answered) => answered.map_err(|error| broken(url, error)),
            Err(_) if until == deadline => Err(over_deadline(url, self.rules.deadline)),
            Err(_) => Err(transient("timeout", url, &format!("no answer within {patience:?}"))),
        }
    }
}

/// A URL that can be asked for.
fn parse(text: &str) -> Result<Url, BlobError> {
    let invalid = |reason: &str| BlobError::permanent("invalid_input", format!("cannot fetch {text:?}: {reason}"));
    let url = Url::parse(text).map_err(|error| match error {
        ParseError::RelativeUrlWithoutBase => invalid("it is no URL; a URL begins with http:// or https://"),
        error => invalid(&error.to_string()),
    })?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        scheme => Err(invalid(&format!("{scheme}: is neither http nor https"))),
    }
}

/// Checks a URL as far as can be done without asking anybody.
///
/// # Errors
/// What is wrong with it.
pub fn check_url(text: &str) -> Result<Url, String> {
    parse(text).map_err(|error| error.message)
}

/// Where an answer sends its reader; nowhere if it does not.
fn redirect(from: &Url, status: StatusCode, head: &HeaderMap) -> Result<Option<Url>, BlobError> {
    let goes_on = [301, 302, 303, 307, 308].contains(&status.as_u16());
    let Some(location) = head.get(LOCATION).filter(|_| goes_on) else { return Ok(None) };
    let no_url = || failed("redirects", from, "it redirects to what is no URL");
    let to = from.join(&String::from_utf8_lossy(location.as_bytes())).map_err(|_| no_url())?;
    match to.scheme() {
        "http" | "https" => Ok(Some(to)),
        scheme => {
            Err(failed("redirects", from, &format!("it redirects to {scheme}:, which is neither http nor https")))
        }
    }
}

/// What an answer without success means for those who asked.
fn refused(url: &Url, status: StatusCode, head: &HeaderMap) -> BlobError {
    let may_pass = [408, 425, 429].contains(&status.as_u16()) || status.is_server_error();
    let kind = if matches!(status.as_u16(), 404 | 410) { "not_found" } else { "http_status" };
    let error = failed(kind, url, &format!("the server answered {status}"));
    if !may_pass {
        return error;
    }
    let wanted = head.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(retry_after);
    BlobError { transient: true, retry_after: wanted, ..error }
}

/// Reads `Retry-After`: seconds, or a date.
fn retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    date.duration_since(std::time::SystemTime::now()).ok()
}

/// Why a request, or its answer's body, broke off.
fn broken(url: &Url, error: reqwest::Error) -> BlobError {
    let error = error.without_url();
    if let Some(found) = cause::<Forbidden>(&error) {
        return forbidden(url, found);
    }
    if let Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) = cause(&error) {
        return failed("tls", url, &innermost(&error));
    }
    transient(if error.is_timeout() { "timeout" } else { "unreachable" }, url, &innermost(&error))
}

/// What is at the bottom of an error: what lies above it is about layers that people did not ask for.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// The first cause of that type.
fn cause<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An I/O error hides the very error that it was made of from its list of causes.
        let within = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = within.map(|within| within as &(dyn StdError + 'static)).or_else(|| error.source());
    }
    None
}

fn forbidden(url: &Url, why: &Forbidden) -> BlobError {
    let reason = format!("{why}; the setting net.allow_private names those that may be asked all the same");
    failed("forbidden", url, &reason)
}

fn over_deadline(url: &Url, deadline: Duration) -> BlobError {
    transient("timeout", url, &format!("it took longer than the {deadline:?} of net.deadline"))
}

fn transient(kind: &'static str, url: &Url, reason: &str) -> BlobError {
    BlobError { transient: true, ..failed(kind, url, reason) }
}

fn failed(kind: &'static str, url: &Url, reason: &str) -> BlobError {
    BlobError::permanent(kind, format!("cannot fetch {}: {reason}", shown(url)))
}

/// A URL for people: without what may be a password.
fn shown(url: &Url) -> String {
    let mut bare = url.clone();
    match (bare.set_password(None), bare.set_username("")) {
        (Ok(()), Ok(())) => bare.to_string(),
        // Only where there is no host.
        _ => format!("{}:…", url.scheme()),
    }
}

/// Whom a connection is made to, as far as its slots are concerned.
fn host_and_port(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}
