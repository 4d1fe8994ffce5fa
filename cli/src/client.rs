//! Client: speaks to the results API, and turns its troubles into ours.

mod blobs;

use std::time::Duration;

use reqwest::{Method, Response, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tidemill_core::batch::{BatchId, ItemIndex};
use tidemill_core::blobs::choose_cryptography;
use tidemill_core::broker::Heartbeat;
use tidemill_core::failure::chain;
use tidemill_core::outcome::Outcome;
use tidemill_core::settings::{Secret, Settings};
use tidemill_core::store::frame::MEDIA_TYPE;
use tidemill_core::store::{BatchInfo, Books, DeadItem, Order};

pub(crate) use self::blobs::{BlobTrouble, digest_of};
use crate::error::{CliError, Exit};
use crate::line;

/// A machine that does not answer by then is not there.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long an answer may take that is no stream, and for which not all of a batch is read.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// A stream may be silent for hours; that its other end is gone is found out within about a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A client of the results API. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    /// The same without a password, for people.
    shown: String,
    token: Option<Secret>,
}

/// What the API could not do.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) trouble: Trouble,
    message: String,
}

/// Kinds of trouble with the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It cannot be reached, or the connection was lost.
    Unreachable,
    /// It answers that something behind it is away.
    Away,
    /// What was asked for is not there.
    Unknown,
    /// It does not know us.
    Unauthorised,
    /// It does not answer to whoever calls it like that.
    Forbidden,
    /// It did not like the question.
    Refused,
    /// It failed.
    Fault,
    /// It answers in a way that is not ours.
    Strange,
    /// It has no place for blobs.
    NoBlobs,
}

impl ApiError {
    pub(crate) fn new(trouble: Trouble, message: String) -> Self {
        Self { trouble, message }
    }

    /// Whether trying again may help.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self.trouble, Trouble::Unreachable | Trouble::Away)
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl From<ApiError> for CliError {
    fn from(error: ApiError) -> Self {
        let (exit, hint) = match error.trouble {
            Trouble::Unreachable => (
                Exit::Unreachable,
                "api.url says where it is (TIDEMILL__API__URL); `tidemill doctor` tells what is reachable",
            ),
            Trouble::Away => (Exit::Unreachable, "try again in a moment; `tidemill doctor` tells what is reachable"),
            Trouble::Unknown => (Exit::Usage, "`tidemill status` lists the batches"),
            Trouble::Unauthorised => (Exit::Configuration, "set api.token or api.token_file (TIDEMILL__API__TOKEN)"),
            Trouble::Forbidden => (
                Exit::Configuration,
                "call it by an address (api.url), name it in api.hosts where it runs, or give both a token (api.token)",
            ),
            Trouble::Refused => (Exit::Usage, ""),
            Trouble::NoBlobs => (
                Exit::Configuration,
                "set blobs.url where it runs (TIDEMILL__BLOBS__URL); --by-path sends nothing, where workers see the same files",
            ),
            Trouble::Fault => (Exit::Fault, "the log of the results API tells more"),
            Trouble::Strange => (Exit::Fault, "is it a results API, of this version or a later one?"),
        };
        let refused = Self::new(exit, error.message);
        if hint.is_empty() { refused } else { refused.hint(hint) }
    }
}

/// What of a problem document is for people.
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

impl Client {
    /// A client of the API that the settings name. Nothing is sent yet.
    pub(crate) fn new(settings: &Settings) -> Result<Self, CliError> {
        let base = settings.api.url.expose().trim_end_matches('/').to_owned();
        let wrong = |reason: String| {
            CliError::new(Exit::Configuration, format!("api.url is {}: {reason}", settings.api.url))
                .hint("it looks like http://127.0.0.1:8460")
        };
        let url = reqwest::Url::parse(&base).map_err(|error| wrong(error.to_string()))?;
        choose_cryptography();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .tcp_keepalive(KEEP_ALIVE)
            .tcp_keepalive_interval(KEEP_ALIVE)
            .user_agent(concat!("tidemill/", env!("CARGO_PKG_VERSION")));
        if is_this_machine(&url) {
            // A proxy, meant for the world outside, would look for it on its own machine.
            builder = builder.no_proxy();
        }
        if url.scheme() == "http" {
            // It need not read the system's certificates, which takes longer than all else that a short command does.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| wrong(chain(&error)))?;
        Ok(Self { http, base, shown: settings.api.url.to_string(), token: settings.api.token.clone() })
    }

    /// Where the API is, for people.
    pub(crate) fn url(&self) -> &str {
        &self.shown
    }

    /// Sends a request and waits for the beginning of its answer, whose status is a good one.
    pub(crate) async fn begin(
        &self,
        method: Method,
        path: &str,
        change: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Result<Response, ApiError> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        let response = change(request).send().await.map_err(|error| self.unreachable(error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.problem(response).await) }
    }

    /// The connection was refused or lost.
    pub(crate) fn unreachable(&self, error: reqwest::Error) -> ApiError {
        let message = format!("cannot reach the results API at {}: {}", self.shown, chain(&error.without_url()));
        ApiError { trouble: Trouble::Unreachable, message }
    }

    async fn problem(&self, response: Response) -> ApiError {
        let status = response.status();
        let trouble = match status {
            StatusCode::NOT_FOUND => Trouble::Unknown,
            StatusCode::UNAUTHORIZED => Trouble::Unauthorised,
            StatusCode::FORBIDDEN => Trouble::Forbidden,
            StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::BAD_GATEWAY
            | StatusCode::GATEWAY_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS => Trouble::Away,
            status if status.is_server_error() => Trouble::Fault,
            _ => Trouble::Refused,
        };
        let body = response.bytes().await.unwrap_or_default();
        let message = match serde_json::from_slice::<Problem>(&body) {
            Ok(Problem { detail }) => detail,
            // A proxy answers in its own words, or something else listens there.
            Err(_) => format!("{} answered {status}, not as a results API does", self.shown),
        };
        ApiError { trouble, message }
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<String>) -> Result<T, ApiError> {
        let with_body = |request: reqwest::RequestBuilder| match body {
            Some(body) => request.header(header::CONTENT_TYPE, "application/json").body(body),
            None => request,
        };
        self.told(self.begin(method, path, |request| with_body(request.timeout(ANSWER_WITHIN))).await?).await
    }

    /// What an answer says.
    async fn told<T: DeserializeOwned>(&self, response: Response) -> Result<T, ApiError> {
        let body = response.bytes().await.map_err(|error| self.unreachable(error))?;
        serde_json::from_slice(&body).map_err(|error| self.strange(&error.to_string()))
    }

    /// It is none, or of another version.
    pub(crate) fn strange(&self, reason: &str) -> ApiError {
        let message = format!("{} did not answer as a results API of this version does: {reason}", self.shown);
        ApiError::new(Trouble::Strange, message)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.ask(Method::GET, path, None).await
    }

    /// The newest batches, newest first.
    pub(crate) async fn batches(&self, limit: usize) -> Result<Vec<BatchInfo>, ApiError> {
        #[derive(Deserialize)]
        struct Listed {
            batches: Vec<BatchInfo>,
        }
        Ok(self.get::<Listed>(&format!("/v1/batches?limit={limit}")).await?.batches)
    }

    /// Where a batch stands.
    pub(crate) async fn batch(&self, batch: &BatchId) -> Result<BatchInfo, ApiError> {
        self.get(&format!("/v1/batches/{batch}")).await
    }

    /// Where a batch stands; `None` where it is not known.
    pub(crate) async fn find_batch(&self, batch: &BatchId) -> Result<Option<BatchInfo>, ApiError> {
        match self.batch(batch).await {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.trouble == Trouble::Unknown => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says that the broker has the items before `before`.
    pub(crate) async fn accept(&self, batch: &BatchId, before: u64) -> Result<(), ApiError> {
        let body = format!("{{\"before\":{before}}}");
        self.ask::<serde::de::IgnoredAny>(Method::PUT, &format!("/v1/batches/{batch}/accepted"), Some(body))
            .await
            .map(drop)
    }

    /// Cancels a batch.
    pub(crate) async fn cancel(&self, batch: &BatchId) -> Result<BatchInfo, ApiError> {
        self.ask(Method::DELETE, &format!("/v1/batches/{batch}"), None).await
    }

    /// Counts a batch's outcomes anew, which takes as long as the batch is large.
    pub(crate) async fn verify(&self, batch: &BatchId) -> Result<Books, ApiError> {
        let path = format!("/v1/batches/{batch}/verify");
        self.told(self.begin(Method::GET, &path, |request| request).await?).await
    }

    /// The dead items, of one batch or of all.
    pub(crate) async fn dead(&self, batch: Option<&BatchId>, limit: usize) -> Result<Vec<DeadItem>, ApiError> {
        #[derive(Deserialize)]
        struct Listed {
            dead: Vec<DeadItem>,
        }
        let of_batch = batch.map(|batch| format!("&batch={batch}")).unwrap_or_default();
        Ok(self.get::<Listed>(&format!("/v1/dead?limit={limit}{of_batch}")).await?.dead)
    }

    /// Takes a dead item's outcome back; `false` where it is not dead.
    pub(crate) async fn revive(&self, batch: &BatchId, index: u64) -> Result<bool, ApiError> {
        #[derive(Deserialize)]
        struct Answer {
            revived: bool,
        }
        let path = format!("/v1/batches/{batch}/items/{index}/revive");
        Ok(self.ask::<Answer>(Method::POST, &path, None).await?.revived)
    }

    /// The workers that live.
    pub(crate) async fn workers(&self) -> Result<Vec<Heartbeat>, ApiError> {
        #[derive(Deserialize)]
        struct Listed {
            workers: Vec<Heartbeat>,
        }
        Ok(self.get::<Listed>("/v1/workers").await?.workers)
    }

    /// One item's outcome.
    pub(crate) async fn outcome(&self, batch: &BatchId, index: ItemIndex) -> Result<Outcome, ApiError> {
        let line: Box<RawValue> = self.get(&format!("/v1/batches/{batch}/items/{index}")).await?;
        line::parse(line.get().as_bytes()).map_err(|message| self.strange(&message))
    }

    /// Begins to read a batch's outcomes, as frames.
    pub(crate) async fn results(&self, batch: &BatchId, wanted: &Wanted) -> Result<Response, ApiError> {
        let Wanted { order, from, limit, follows } = wanted;
        let order = match order {
            Order::Input => "input",
            Order::Completion => "completion",
        };
        let limit = limit.map(|limit| format!("&limit={limit}")).unwrap_or_default();
        let path = format!("/v1/batches/{batch}/results?order={order}&from={from}&follow={follows}{limit}");
        let response = self.begin(Method::GET, &path, |request| request.header(header::ACCEPT, MEDIA_TYPE)).await?;
        let is_ours = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == MEDIA_TYPE);
        if is_ours { Ok(response) } else { Err(self.strange("it sends outcomes in another form")) }
    }
}

/// Which outcomes are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) order: Order,
    pub(crate) from: u64,
    pub(crate) limit: Option<u64>,
    pub(crate) follows: bool,
}

fn is_this_machine(url: &reqwest::Url) -> bool {
    url.host_str().is_some_and(|host| {
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    })
}
