//! Manners: who may call, what is answered to nonsense, and what is told of health.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use support::Asking;
use tidemill_core::batch::BatchId;
use tidemill_core::broker::Health;
use tidemill_results_api::http::{Access, Api, ServeError, serve};
use tidemill_results_api::testing::Server;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a test waits before it says that something never came.
const PATIENCE: Duration = Duration::from_secs(20);

fn with_token(api: Api) -> Api {
    Api { access: Access { token: Some("a-secret".parse().unwrap()), ..Access::default() }, ..api }
}

#[tokio::test]
async fn what_is_asked_wrongly_is_answered_with_what_was_wrong() {
    let server = Server::start().await;
    let unknown = BatchId::new();
    for (path, status, kind, detail) in [
        (format!("/v1/batches/{unknown}"), 404, "unknown_batch", format!("no batch {unknown} is known")),
        (format!("/v1/batches/{unknown}/results"), 404, "unknown_batch", "may have expired".into()),
        ("/v1/batches/a%2Fb".into(), 400, "bad_request", "is no batch id".into()),
        ("/v1/batches?limit=many".into(), 400, "bad_request", "behind the `?`: limit: a whole number is wanted".into()),
        ("/v1/batches?limits=3".into(), 400, "bad_request", "unknown field `limits`".into()),
        (format!("/v1/batches/{unknown}/results?order=random"), 400, "bad_request", "random".into()),
        ("/v2/batches".into(), 404, "no_such_address", "openapi.json".into()),
    ] {
        let problem = server.get(&path).await.problem(status);
        assert_eq!(problem["type"], format!("urn:tidemill:problem:{kind}"), "{path}");
        assert!(problem["detail"].as_str().unwrap().contains(&detail), "{path}: {problem}");
    }
    server.send("PATCH", "/v1/batches", &[], "").await.problem(405);
    let path = format!("/v1/batches/{unknown}/accepted");
    server.send("PUT", &path, &[("content-type", "application/json")], "{\"after\":1}").await.problem(400);
    server.send("PUT", &path, &[], "{\"before\":1}").await.problem(415);
    let large = format!("{{\"before\":{}1}}", " ".repeat(2 << 20));
    server.send("PUT", &path, &[("content-type", "application/json")], large).await.problem(413);
}

#[tokio::test]
async fn a_store_that_is_away_is_said_and_its_address_is_not() {
    let server = Server::start().await;
    let batch = server.batch(None, []).await;
    server.store.set_away(true);

    for path in [format!("/v1/batches/{batch}"), format!("/v1/batches/{batch}/results"), "/v1/workers".into()] {
        let answer = server.get(&path).await;
        let problem = answer.problem(503);
        assert!(answer.headers.contains_key("retry-after"));
        assert!(!problem.to_string().contains("secret-host"), "{problem}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_a_full_store_for_what_it_cannot_take_is_told_so_and_soon() {
    let server = Server::start().await;
    let batch = server.batch(None, []).await;
    server.store.set_stalled(Some(Health::Blocked("its memory is full".into())));
    let path = format!("/v1/batches/{batch}");

    for (method, seconds) in [("DELETE", 1), ("GET", 30)] {
        let started = Instant::now();
        let problem = server.send(method, &path, &[], "").await.problem(503);

        assert_eq!(problem["detail"], "the store takes nothing now: its memory is full");
        assert_eq!(started.elapsed().as_secs(), seconds, "{method}: what is only read may take its time");
    }
}

#[tokio::test]
async fn with_a_token_only_who_presents_it_may_call() {
    let server = Server::start_with(with_token).await;
    for presented in [None, Some("Bearer another"), Some("Bearer a-secre"), Some("Basic a-secret"), Some("a-secret")] {
        let headers: Vec<_> = presented.map(|value| ("authorization", value)).into_iter().collect();
        let answer = server.send("GET", "/v1/batches", &headers, "").await;
        answer.problem(401);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
    }
    for presented in ["Bearer a-secret", "bearer a-secret"] {
        server.send("GET", "/v1/batches", &[("authorization", presented)], "").await.json(200);
    }
    server.get("/healthz").await.json(200);
}

#[tokio::test]
async fn without_a_token_a_page_in_a_browser_may_not_call() {
    let server = Server::start().await;
    let evil = [("host", "evil.example"), ("origin", "https://evil.example")];
    for headers in [&evil[..1], &evil[1..], &[("origin", "null")]] {
        server.send("GET", "/v1/batches", headers, "").await.problem(403);
    }
    server.send("GET", "/v1/batches", &[("host", "localhost:1"), ("origin", "http://localhost:1")], "").await.json(200);
    server.send("GET", "/v1/batches", &[("host", "[::1]:8460")], "").await.json(200);
}

#[tokio::test]
async fn an_open_api_is_called_by_programs_by_an_address_or_a_name_of_its_own_and_by_no_page() {
    let access = Access { is_open: true, hosts: vec!["mill.example".into()], ..Access::default() };
    let server = Server::start_with(|api| Api { access, ..api }).await;
    for host in ["localhost", "10.1.2.3:8460", "[fd00::1]:8460", "mill.example", "MILL.example:8460"] {
        server.send("GET", "/v1/batches", &[("host", host)], "").await.json(200);
    }
    for header in [
        ("host", "evil.example"),
        ("host", "mill.example.evil.example"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        server.send("GET", "/v1/batches", &[header], "").await.problem(403);
        server.send("POST", "/v1/batches", &[header], "{}").await.problem(403);
    }
    let own = [("host", "mill.example"), ("origin", "https://mill.example"), ("sec-fetch-site", "same-origin")];
    server.send("GET", "/v1/batches", &own, "").await.json(200);

    // Who follows a link of another site comes here himself; that site does not see the answer.
    let led = [("host", "mill.example"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
    server.send("GET", "/v1/batches", &led, "").await.json(200);
    server.send("POST", "/v1/batches", &led, "{}").await.problem(403);
}

#[tokio::test]
async fn without_a_token_it_does_not_listen_where_others_can_call() {
    let server = Server::start().await;
    let api = |access| Api {
        store: server.store.clone(),
        broker: server.broker.clone(),
        is_broker_shared: true,
        blobs: None,
        submitter: None,
        catalogue: Default::default(),
        metrics: None,
        access,
        stop_taking: CancellationToken::new(),
    };
    let stop = CancellationToken::new();
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let error = serve(listener, api(Access::default()), stop.clone()).await.unwrap_err();
    assert!(matches!(error, ServeError::Unguarded(_)));
    assert!(error.to_string().contains("set api.token or api.token_file"), "{error}");

    stop.cancel();
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    serve(listener, api(Access { is_open: true, ..Access::default() }), stop).await.unwrap();
}

#[tokio::test]
async fn ready_says_who_is_away_and_tells_why_only_to_those_who_may_call() {
    let server = Server::start_with(with_token).await;
    assert_eq!(server.get("/readyz").await.json(200)["ready"], true);

    server.store.set_away(true);

    let told = server.get("/readyz").await.json(503);
    assert_eq!((&told["store"]["state"], &told["broker"]["state"]), (&"away".into(), &"ready".into()));
    assert_eq!(told["store"].get("reason"), None);
    let told = server.send("GET", "/readyz", &[("authorization", "Bearer a-secret")], "").await.json(503);
    assert_eq!(told["store"]["reason"], "secret-host:6379 refused the connection");
}

#[tokio::test]
async fn a_request_has_an_id_its_own_or_ours() {
    let server = Server::start().await;
    let ours = server.get("/healthz").await.headers["x-request-id"].clone();
    assert_eq!(ours.len(), 32);
    let own = server.send("GET", "/healthz", &[("x-request-id", "abc-1")], "").await;
    assert_eq!(own.headers["x-request-id"], "abc-1");
    let bad = server.send("GET", "/healthz", &[("x-request-id", "a b")], "").await;
    assert_ne!(bad.headers["x-request-id"], "a b");
}

#[tokio::test]
async fn every_route_is_described() {
    let server = Server::start().await;
    let described = server.get("/openapi.json").await.json(200);
    // A route may stand in two lines, for its methods have different bodies.
    let mut routes: BTreeMap<&str, String> = BTreeMap::new();
    for rest in include_str!("../src/http.rs").split(".route(\"").skip(1) {
        let (route, handlers) = rest.lines().next().unwrap().split_once('"').unwrap();
        *routes.entry(route).or_default() += handlers;
    }
    assert!(routes.len() > 10);
    for (route, handlers) in &routes {
        for method in ["get", "post", "put", "delete", "head"] {
            let is_handled = handlers.contains(&format!("{method}("));
            let is_described = described["paths"][*route].get(method).is_some_and(Value::is_object);
            assert_eq!(is_handled, is_described, "{method} {route}");
        }
    }
    assert_eq!(described["paths"].as_object().unwrap().len(), routes.len());
}

/// The beginning of an answer.
async fn status(stream: &mut TcpStream) -> String {
    let mut status = [0; "HTTP/1.1 200".len()];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut status)).await.expect("it comes").unwrap();
    String::from_utf8_lossy(&status).into_owned()
}

#[tokio::test]
async fn who_sends_all_of_a_body_before_they_read_anything_is_told_what_was_wrong() {
    let server = Server::start_with(with_token).await;
    let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    let head = "POST /v1/batches HTTP/1.1\r\nhost: localhost\r\ncontent-length: 20000000\r\n\r\n";

    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; 20_000_000]).await.unwrap();

    assert_eq!(status(&mut stream).await, "HTTP/1.1 401");
}

#[tokio::test]
async fn who_asks_first_whether_to_send_is_not_asked_for_what_is_refused() {
    let server = Server::start_with(with_token).await;
    let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    let head = "POST /v1/batches HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 9000\r\n\r\n";

    stream.write_all(head.as_bytes()).await.unwrap();

    assert_eq!(status(&mut stream).await, "HTTP/1.1 401");
}

#[tokio::test]
async fn what_is_compressed_is_refused() {
    let server = Server::start().await;
    let json = ("content-type", "application/json");
    let refused = server.send("POST", "/v1/batches", &[json, ("content-encoding", "gzip")], "{}").await;
    assert!(refused.problem(415)["detail"].as_str().unwrap().contains("compressed"));
    assert_eq!(refused.headers["accept-encoding"], "identity");
    server.send("POST", "/v1/batches", &[json, ("content-encoding", "identity")], "{}").await.problem(501);
}

#[tokio::test(start_paused = true)]
async fn who_never_says_what_they_want_is_not_listened_to_for_ever() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n").await.unwrap();

    let started = Instant::now();
    let mut answer = Vec::new();
    // Whether it is closed or cut off is the same to us.
    drop(stream.read_to_end(&mut answer).await);

    assert_eq!(String::from_utf8_lossy(&answer), "");
    assert_eq!(started.elapsed().as_secs(), Duration::from_secs(60).as_secs());
}
