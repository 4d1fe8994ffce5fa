//! Asks over HTTP, as anybody would.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::future::pending;

use async_trait::async_trait;
use reqwest::header::HeaderMap;
use serde_json::Value;
use tidemill_core::broker::{
    Broker, BrokerError, Deliveries, Delivery, Health, Message, Notice, Notices, Permits, Queue,
};
use tidemill_results_api::testing::Server;
use tokio_util::sync::CancellationToken;

/// A broker that is away: whoever asks waits for ever.
#[derive(Debug)]
pub(crate) struct Away;

#[async_trait]
impl Broker for Away {
    async fn publish(&self, _: Queue, _: Message) -> Result<(), BrokerError> {
        pending().await
    }

    async fn consume(&self, _: Queue, _: Permits, _: CancellationToken) -> Result<Deliveries, BrokerError> {
        pending().await
    }

    async fn take_one(&self, _: Queue) -> Result<Option<Delivery>, BrokerError> {
        pending().await
    }

    async fn depth(&self, _: Queue) -> Result<u64, BrokerError> {
        pending().await
    }

    async fn announce(&self, _: Notice) -> Result<(), BrokerError> {
        pending().await
    }

    async fn notices(&self) -> Result<Notices, BrokerError> {
        pending().await
    }

    fn health(&self) -> Health {
        Health::Away("no route to it".into())
    }
}

/// An answer that was read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; it must have this status.
    #[track_caller]
    pub(crate) fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The body as a problem document of this status.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> Value {
        let problem = self.json(status);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(problem["status"], status);
        for field in ["type", "title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
        problem
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The indices of its lines.
    pub(crate) fn indices(&self) -> Vec<u64> {
        let index = |line: &str| serde_json::from_str::<Value>(line).unwrap()["index"].as_u64().unwrap();
        self.text().lines().map(index).collect()
    }
}

/// A client without a proxy and without TLS of its own.
pub(crate) fn client() -> reqwest::Client {
    tidemill_core::blobs::choose_cryptography();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

pub(crate) trait Asking {
    async fn get(&self, path: &str) -> Answer;
    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body> + Send,
    ) -> Answer;
}

impl Asking for Server {
    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body> + Send,
    ) -> Answer {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = client().request(method, format!("{self}{path}")).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, body: response.bytes().await.unwrap().to_vec() }
    }
}
