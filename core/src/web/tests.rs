use std::net::SocketAddr;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::{Response, header};
use axum::routing::get;
use axum::{Router, response::IntoResponse};
use futures::{StreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const MOST: Most = Most { bytes: 1 << 20, setting: "net.max_bytes" };
const PATIENCE: Duration = Duration::from_secs(2);
const SLOW: Duration = Duration::from_millis(500);

/// A server on an address of loopback that few things use; others, such as what `localhost` leads to, stay forbidden.
async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let to = |url: String| move || async move { (axum::http::StatusCode::FOUND, [(header::LOCATION, url)]) };
    let pieces = |size: usize, every: Duration| {
        Body::from_stream(stream::repeat(vec![b'x'; size]).then(move |piece| async move {
            tokio::time::sleep(every).await;
            Ok::<_, std::io::Error>(Bytes::from(piece))
        }))
    };
    let router = Router::new()
        .route("/flour", get(|| async { "flour" }))
        .route("/here", get(to("flour".into())))
        .route("/loop", get(to("/loop".into())))
        .route("/to/{n}", get(move |Path(n): Path<u32>| to(format!("/to/{}", n + 1))()))
        .route("/to-private", get(to("http://10.0.0.1/".into())))
        .route("/to-metadata", get(to("http://[::ffff:169.254.169.254]/latest/meta-data".into())))
        .route("/to-name", get(to(format!("http://localhost:{}/flour", address.port()))))
        .route("/to-file", get(to("file:///etc/passwd".into())))
        .route("/missing", get(|| async { axum::http::StatusCode::NOT_FOUND }))
        .route("/busy", get(|| async { (axum::http::StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "7")]) }))
        .route("/down", get(|| async { axum::http::StatusCode::BAD_GATEWAY }))
        .route("/mute", get(std::future::pending::<()>))
        .route("/slow", get(|| tokio::time::sleep(SLOW)))
        .route("/silent", get(move || async move { pieces(1, Duration::from_secs(3600)) }))
        .route("/drip", get(move || async move { pieces(1, Duration::from_millis(10)) }))
        .route("/endless", get(move || async move { pieces(1 << 16, Duration::ZERO) }))
        .route(
            "/huge",
            get(move || async move {
                let huge = Response::builder().header(header::CONTENT_LENGTH, 10_000_000_000_u64);
                huge.body(pieces(1 << 16, Duration::ZERO)).unwrap().into_response()
            }),
        );
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn rules() -> NetSettings {
    NetSettings {
        allow_private: vec!["127.0.0.2/32".parse().unwrap()],
        deadline: Duration::from_secs(20),
        ..Settings::default().net
    }
}

async fn fetch(rules: NetSettings, url: &str) -> Result<Vec<u8>, BlobError> {
    Web::new(rules).get(url, "*/*", MOST, PATIENCE).await?.read().await
}

#[tokio::test]
async fn what_is_allowed_comes_also_by_way_of_a_redirect() {
    let server = serve().await;
    assert_eq!(fetch(rules(), &format!("http://{server}/flour")).await.unwrap(), b"flour");
    let web = Web::new(rules());
    let mut answer = web.get(&format!("http://{server}/here"), "*/*", MOST, PATIENCE).await.unwrap();
    assert_eq!((answer.url.path(), answer.status), ("/flour", 200));
    assert_eq!(answer.read().await.unwrap(), b"flour");
}

#[tokio::test]
async fn who_waits_in_line_again_behind_a_redirect_is_not_slow() {
    let server = serve().await;
    let web = Web::new(NetSettings { at_once_per_host: 1, ..rules() });
    let url = |path: &str| format!("http://{server}/{path}");
    // The second is in the line when the first leaves its slot.
    let (url_here, url_slow) = (url("here"), url("slow"));
    let (here, slow) = tokio::join!(web.get(&url_here, "*/*", MOST, PATIENCE), async {
        web.get(&url_slow, "*/*", MOST, PATIENCE).await.map(|answer| answer.elapsed())
    });

    assert!(slow.unwrap() >= SLOW);
    let here = here.unwrap();
    assert_eq!(here.url.path(), "/flour");
    assert!(here.elapsed() < SLOW, "{:?}", here.elapsed());
}

#[tokio::test]
async fn each_trouble_is_told_in_time_with_its_reason() {
    let server = serve().await;
    for (path, kind, transient, says) in [
        ("loop", "redirects", false, "redirects in a circle"),
        ("to/0", "redirects", false, "more than the 10 times of net.max_redirects"),
        ("to-file", "redirects", false, "file:, which is neither http nor https"),
        ("to-private", "forbidden", false, "10.0.0.1 is no public address; the setting net.allow_private"),
        ("to-metadata", "forbidden", false, "is no public address"),
        ("to-name", "forbidden", false, "localhost is no public address"),
        ("missing", "not_found", false, "404 Not Found"),
        ("busy", "http_status", true, "429 Too Many Requests"),
        ("down", "http_status", true, "502 Bad Gateway"),
        ("mute", "timeout", true, "no answer within 2s"),
        ("silent", "timeout", true, "the server sent nothing for 2s"),
        ("drip", "too_slow", true, "net.slowest says how many it should"),
        ("huge", "too_large", false, "more than the 1MiB that net.max_bytes allows"),
        ("endless", "too_large", false, "more than the 1MiB that net.max_bytes allows"),
    ] {
        let began = Instant::now();
        let error = fetch(rules(), &format!("http://{server}/{path}")).await.unwrap_err();
        assert_eq!((error.kind, error.transient), (kind, transient), "{path}: {error}");
        assert!(error.message.contains(says), "{path}: {error}");
        assert!(began.elapsed() < Duration::from_secs(5), "{path} took {:?}", began.elapsed());
        assert_eq!(error.retry_after, (path == "busy").then_some(Duration::from_secs(7)), "{path}");
    }
}

#[tokio::test]
async fn a_patient_reader_of_slow_servers_has_a_deadline() {
    let server = serve().await;
    let rules = NetSettings { slowest: 0, deadline: Duration::from_millis(700), ..rules() };
    let error = fetch(rules, &format!("http://{server}/drip")).await.unwrap_err();
    assert_eq!((error.kind, error.transient), ("timeout", true));
    assert!(error.message.contains("longer than the 700ms of net.deadline"), "{error}");
}

#[tokio::test]
async fn nobody_connects_to_an_address_that_is_forbidden_however_it_is_written() {
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = trap.local_addr().unwrap().port();
    for host in
        ["127.0.0.1", "localhost", "LOCALHOST", "2130706433", "0x7f.1", "0177.0.0.1", "[::ffff:127.0.0.1]", "[::1]"]
    {
        let error = fetch(rules(), &format!("http://{host}:{port}/")).await.unwrap_err();
        assert_eq!((error.kind, error.transient), ("forbidden", false), "{host}: {error}");
    }
    assert!(futures::FutureExt::now_or_never(trap.accept()).is_none(), "somebody knocked");
}

#[tokio::test]
async fn what_is_no_url_of_the_web_is_refused_and_passwords_are_not_repeated() {
    for (url, says) in [
        ("example.com", "a URL begins with http:// or https://"),
        ("ftp://example.com/a", "ftp: is neither http nor https"),
        ("http://", "empty host"),
        ("http://exa mple.com", "invalid international domain name"),
    ] {
        let error = fetch(rules(), url).await.unwrap_err();
        assert_eq!(error.kind, "invalid_input");
        assert!(error.message.contains(says), "{url}: {error}");
    }
    let error = fetch(rules(), "http://user:secret@10.0.0.1/").await.unwrap_err();
    assert!(!error.message.contains("secret"), "{error}");
}

#[tokio::test]
async fn a_connection_that_breaks_off_may_be_made_again() {
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            drop(stream.read(&mut [0; 1024]).await);
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort").await);
        }
    });
    let error = fetch(rules(), &url).await.unwrap_err();
    assert_eq!((error.kind, error.transient), ("unreachable", true), "{error}");
}

#[test]
fn a_server_asks_for_patience_in_seconds_or_until_a_date() {
    assert_eq!(retry_after("120"), Some(Duration::from_secs(120)));
    let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(60));
    let wait = retry_after(&date).unwrap();
    assert!(wait > Duration::from_secs(50) && wait <= Duration::from_secs(60), "{wait:?}");
    for none in ["", "soon", "-1", "Wed, 21 Oct 2015 07:28:00 GMT"] {
        assert_eq!(retry_after(none), None, "{none}");
    }
}
