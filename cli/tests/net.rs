//! Tasks `net.*`, as a user runs them, against a server of our own on loopback.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures::{StreamExt as _, stream};
use serde_json::Value;
use support::{Ended, tidemill};
use tidemill_testing::{Rabbit, Redis, free_port, or_skip, unique};
use tokio::runtime::Runtime;

/// What the server saw.
#[derive(Debug, Default)]
struct Seen {
    now: AtomicUsize,
    most: AtomicUsize,
    came: Mutex<Vec<(String, Instant)>>,
}

/// Counts a request while it lasts.
struct Under(Arc<Seen>);

impl Under {
    fn way(seen: &Arc<Seen>, path: &str) -> Self {
        let now = seen.now.fetch_add(1, Ordering::SeqCst) + 1;
        seen.most.fetch_max(now, Ordering::SeqCst);
        seen.came.lock().unwrap().push((path.to_owned(), Instant::now()));
        Self(Arc::clone(seen))
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One of our processes; it ends with its value.
struct Role(std::process::Child);

impl Drop for Role {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

struct Server {
    address: SocketAddr,
    seen: Arc<Seen>,
    _runtime: Runtime,
}

impl Server {
    /// On an address of loopback that nothing else has: what is allowed to be asked is this one.
    fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let seen = Arc::new(Seen::default());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.3:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/slow/{name}", get(slow))
            .route("/busy-once", get(busy_once))
            .route("/huge", get(|| async { with_length(10_000_000_000, endless(Duration::ZERO, 1 << 16)) }))
            .route("/endless", get(|| async { endless(Duration::ZERO, 1 << 16) }))
            .route("/large", get(|| async { Body::from_stream(pieces(Duration::ZERO, 1 << 16).take(4096)) }))
            .route("/drip", get(|| async { endless(Duration::from_millis(20), 1) }))
            .route("/loop", get(|| async { to("/loop") }))
            .route("/to-private", get(|| async { to("http://192.168.0.1/secret") }))
            .route("/to-name", get(move || async move { to(&format!("http://localhost:{}/", address.port())) }))
            .route("/names/{n}", get(named))
            .route("/site/{page}", get(site))
            .with_state(Arc::clone(&seen));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { address, seen, _runtime: runtime }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Runs the command, allowed to ask this server, with some settings.
    fn run(&self, settings: &[(&str, &str)], args: &[&str]) -> Ended {
        let allow = ("TIDEMILL__NET__ALLOW_PRIVATE", "127.0.0.3");
        tidemill(args).envs([allow]).envs(settings.iter().copied()).output().unwrap().into()
    }
}

fn pieces(every: Duration, size: usize) -> impl futures::Stream<Item = std::io::Result<Bytes>> {
    let piece = Bytes::from(vec![b'x'; size]);
    stream::repeat(piece).then(move |piece| async move {
        if !every.is_zero() {
            tokio::time::sleep(every).await;
        }
        Ok(piece)
    })
}

fn endless(every: Duration, size: usize) -> Body {
    Body::from_stream(pieces(every, size))
}

fn with_length(length: u64, body: Body) -> Response {
    Response::builder().header(header::CONTENT_LENGTH, length).body(body).unwrap()
}

fn to(location: &str) -> Response {
    (StatusCode::FOUND, [(header::LOCATION, location)]).into_response()
}

async fn slow(State(seen): State<Arc<Seen>>, Path(name): Path<String>) -> Vec<u8> {
    let _under = Under::way(&seen, &name);
    tokio::time::sleep(Duration::from_millis(100)).await;
    name.repeat(1000).into_bytes()
}

async fn busy_once(State(seen): State<Arc<Seen>>) -> Response {
    let _under = Under::way(&seen, "busy");
    if seen.came.lock().unwrap().len() == 1 {
        return (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")]).into_response();
    }
    "grist".into_response()
}

async fn named(Path(n): Path<usize>) -> Response {
    let names = ["a b.txt", "a b.txt", "../../../evil.txt", "..", ""];
    let disposition = format!("attachment; filename=\"{}\"", names[n]);
    ([(header::CONTENT_DISPOSITION, disposition), (header::CONTENT_TYPE, "text/plain".into())], format!("{n}"))
        .into_response()
}

async fn site(Path(page): Path<String>) -> Response {
    let html = match page.as_str() {
        "index.html" => {
            "<a href=b.html>b</a><a href=/site/c.html#top>c</a><a href=b.html>b</a><!-- <a href=no.html> -->
             <a href=http://10.0.0.1/elsewhere>else</a><a href=picture.png>p</a><a href=mailto:x@y>m</a>"
        }
        "b.html" => "<base href=/site/sub/><a href=../d.html>d</a><a href=/site/index.html>home</a>",
        "c.html" => "<a href=gone.html>gone</a>",
        "d.html" => "<a href=e.html>e</a>",
        "picture.png" => return ([(header::CONTENT_TYPE, "image/png")], "no html").into_response(),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response()
}

fn kinds(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["error"]["kind"].as_str().unwrap_or("ok")).collect()
}

#[test]
fn fifty_files_come_at_least_ten_times_faster_together_than_one_after_the_other() {
    let fetch = |settings: &[(&str, &str)]| {
        let server = Server::start();
        let out = tempfile::tempdir().unwrap();
        let urls: Vec<String> = (0..50).map(|n| server.url(&format!("slow/file-{n}.txt"))).collect();
        let urls = urls.iter().map(String::as_str);
        let args = ["run", "net.download", "--out", out.path().to_str().unwrap()];
        let ended = server.run(settings, &args.into_iter().chain(urls).collect::<Vec<_>>());

        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        for (n, line) in ended.lines().iter().enumerate() {
            let file = out.path().join(format!("file-{n}.txt"));
            assert_eq!(line["output"]["file"]["file"], file.to_str().unwrap());
            assert_eq!(std::fs::read_to_string(file).unwrap(), format!("file-{n}.txt").repeat(1000));
            assert!(line["output"]["ms"].as_f64().unwrap() >= 100.0);
        }
        let came = server.seen.came.lock().unwrap();
        assert_eq!(came.len(), 50);
        // From the first request to the last answer, as the server sees it.
        let took = came[49].1 - came[0].1 + Duration::from_millis(100);
        (took, server.seen.most.load(Ordering::SeqCst))
    };

    let (one_by_one, most) = fetch(&[("TIDEMILL__NET__AT_ONCE", "1")]);
    assert_eq!(most, 1);
    let (together, most) = fetch(&[]);
    assert!((10..=32).contains(&most), "{most} at once");
    assert!(together * 10 <= one_by_one, "{together:?} together, {one_by_one:?} one by one");
    let (_, most) = fetch(&[("TIDEMILL__NET__AT_ONCE_PER_HOST", "3")]);
    assert_eq!(most, 3);
}

#[test]
fn what_a_hostile_server_does_is_told_in_time_and_leaves_nothing() {
    let server = Server::start();
    let out = tempfile::tempdir().unwrap();
    let paths = ["huge", "endless", "loop", "to-private", "to-name", "drip", "missing"];
    let mut urls: Vec<String> = paths.iter().map(|path| server.url(path)).collect();
    urls.push(format!("http://localhost:{}/", server.address.port()));
    urls.push("http://169.254.169.254/latest/meta-data/".into());
    urls.push("file:///etc/passwd".into());
    let args = ["run", "net.download", "--retries", "0", "--out", out.path().to_str().unwrap()];
    let began = Instant::now();
    let settings = [("TIDEMILL__FETCH__TIMEOUT", "500ms"), ("TIDEMILL__NET__MAX_BYTES", "8MiB")];
    let ended = server.run(&settings, &args.into_iter().chain(urls.iter().map(String::as_str)).collect::<Vec<_>>());
    let took = began.elapsed();

    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
    let lines = ended.lines();
    let expected = [
        ("too_large", false, "more than the 8MiB that net.max_bytes allows"),
        ("too_large", false, "more than the 8MiB that net.max_bytes allows"),
        ("redirects", false, "it redirects in a circle"),
        ("forbidden", false, "192.168.0.1 is no public address; the setting net.allow_private"),
        ("forbidden", false, "localhost is no public address"),
        ("too_slow", true, "net.slowest"),
        ("not_found", false, "404 Not Found"),
        ("forbidden", false, "localhost is no public address"),
        ("forbidden", false, "169.254.169.254 is no public address"),
        ("invalid_input", false, "file: is neither http nor https"),
    ];
    assert_eq!(kinds(&lines), expected.map(|(kind, ..)| kind), "{lines:#?}");
    for (line, (_, retryable, says)) in lines.iter().zip(expected) {
        assert_eq!(line["error"]["retryable"], retryable, "{line}");
        assert!(line["error"]["message"].as_str().unwrap().contains(says), "{line}");
    }
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
}

#[test]
fn files_keep_the_names_that_servers_give_them_and_stay_in_their_folder() {
    let server = Server::start();
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("deep/er");
    let urls: Vec<String> = (0..5).map(|n| server.url(&format!("names/{n}"))).collect();
    let args = ["run", "net.download", "--out", folder.to_str().unwrap()];
    let ended = server.run(&[], &args.into_iter().chain(urls.iter().map(String::as_str)).collect::<Vec<_>>());

    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for (name, text) in [("a b.txt", "0"), ("a b-2.txt", "1"), ("evil.txt", "2"), ("3", "3"), ("4", "4")] {
        assert_eq!(std::fs::read_to_string(folder.join(name)).unwrap(), text, "{name}");
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 5);
    let rights =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(folder.join("evil.txt")).unwrap().permissions());
    assert_eq!(rights & 0o444, 0o444, "others may read what they may read of any new file: {rights:o}");
}

#[test]
fn a_file_that_has_the_name_which_a_server_chose_is_not_overwritten() {
    let server = Server::start();
    let out = tempfile::tempdir().unwrap();
    std::fs::write(out.path().join("evil.txt"), "mine").unwrap();
    let url = server.url("names/2");

    // The same again makes the same files.
    for _ in 0..2 {
        let ended = server.run(&[], &["run", "net.download", &url, "--out", out.path().to_str().unwrap()]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }

    for (name, text) in [("evil.txt", "mine"), ("evil-2.txt", "2")] {
        assert_eq!(std::fs::read_to_string(out.path().join(name)).unwrap(), text, "{name}");
    }
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 2);
}

#[test]
fn a_file_larger_than_the_memory_it_may_take_is_streamed() {
    let server = Server::start();
    let out = tempfile::tempdir().unwrap();
    let ended = server.run(&[], &["run", "net.download", &server.url("large"), "--out", out.path().to_str().unwrap()]);

    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(std::fs::metadata(out.path().join("large")).unwrap().len(), 4096 << 16);
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).unwrap();
    assert!(usage.max_rss() < 128 * 1024, "{} KiB for 256 MiB", usage.max_rss());
}

#[test]
fn a_busy_server_is_asked_again_when_it_wants_to_be() {
    let server = Server::start();
    let out = tempfile::tempdir().unwrap();
    let settings = [("TIDEMILL__RETRY__BASE", "1ms")];
    let args = ["run", "net.download", &server.url("busy-once"), "--out", out.path().to_str().unwrap()];
    let ended = server.run(&settings, &args);

    assert_eq!((ended.code, &ended.lines()[0]["attempts"]), (Some(0), &2.into()), "{}", ended.stderr);
    let came = server.seen.came.lock().unwrap();
    let apart = came[1].1 - came[0].1;
    assert!(apart >= Duration::from_secs(1), "{apart:?}");
}

#[test]
fn the_links_of_a_page_and_of_those_it_leads_to() {
    let server = Server::start();
    let (first, url) = (server.url("site/index.html"), |page: &str| server.url(&format!("site/{page}")));
    let one = server.run(&[], &["run", "net.links", &first]).lines().remove(0);

    let links = [url("b.html"), url("c.html#top"), "http://10.0.0.1/elsewhere".into(), url("picture.png")];
    assert_eq!(one["output"]["links"], serde_json::json!(links), "{one}");
    assert_eq!((&one["output"]["status"], &one["output"]["url"]), (&200.into(), &first.as_str().into()));
    assert!(one["output"]["fetch_ms"].as_f64().unwrap() > 0.0 && one["output"]["parse_ms"].as_f64().unwrap() > 0.0);
    assert!(one["output"].get("pages").is_none());

    let all = server.run(&[], &["run", "net.links", &first, "-o", "depth=5"]).lines().remove(0);
    let more = [url("d.html"), first.clone(), url("gone.html"), url("e.html")];
    let expected: Vec<String> = links.iter().chain(&more).cloned().collect();
    assert_eq!(all["output"]["links"], serde_json::json!(expected), "{all}");
    let pages = all["output"]["pages"].as_array().unwrap();
    let told: Vec<(u64, &str, u64, bool)> = pages
        .iter()
        .map(|page| {
            let name = page["url"].as_str().unwrap().rsplit('/').next().unwrap();
            (page["depth"].as_u64().unwrap(), name, page["links"].as_u64().unwrap(), page.get("error").is_some())
        })
        .collect();
    assert_eq!(
        told,
        [
            (0, "index.html", 4, false),
            (1, "b.html", 2, false),
            (1, "c.html", 1, false),
            (1, "picture.png", 0, true),
            (2, "d.html", 1, false),
            (2, "gone.html", 0, true),
            (3, "e.html", 0, true),
        ]
    );

    let few = server.run(&[], &["run", "net.links", &first, "-o", "depth=5", "-o", "pages=3"]).lines().remove(0);
    assert_eq!(few["output"]["pages"].as_array().unwrap().len(), 3);
    let none = server.run(&[], &["run", "net.links", &url("picture.png"), &url("none"), "--retries", "0"]);
    assert_eq!(kinds(&none.lines()), ["not_html", "not_found"]);
}

#[test]
fn the_same_goes_through_a_cluster() {
    let (Some(rabbit), Some(redis)) = (or_skip(Rabbit::shared()), or_skip(Redis::shared())) else { return };
    let (server, prefix, out) = (Server::start(), unique(), tempfile::tempdir().unwrap());
    let api = format!("127.0.0.1:{}", free_port());
    let env = [
        ("TIDEMILL__BROKER__URL", rabbit.url()),
        ("TIDEMILL__BROKER__PREFIX", prefix.clone()),
        ("TIDEMILL__STORE__URL", redis.url()),
        ("TIDEMILL__STORE__PREFIX", prefix.clone()),
        ("TIDEMILL__API__LISTEN", api.clone()),
        ("TIDEMILL__API__URL", format!("http://{api}")),
        ("TIDEMILL__BLOBS__URL", format!("{}/0/{prefix}", redis.url().trim_end_matches('/'))),
        ("TIDEMILL__NET__ALLOW_PRIVATE", "127.0.0.3".to_owned()),
    ];
    let _roles = ["results-api", "worker"].map(|role| Role(tidemill(&[role]).envs(env.clone()).spawn().unwrap()));
    let urls: Vec<String> = (0..20).map(|n| server.url(&format!("slow/file-{n}.txt"))).collect();
    let args = ["submit", "net.download", "--wait", "--out", out.path().to_str().unwrap()];
    let args: Vec<&str> = args.into_iter().chain(urls.iter().map(String::as_str)).chain(["http://10.0.0.1/"]).collect();
    let ended = Ended::from(tidemill(&args).envs(env.clone()).output().unwrap());

    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
    let lines = ended.lines();
    assert_eq!(lines.len(), 21);
    for n in 0..20 {
        let file = std::fs::read_to_string(out.path().join(format!("file-{n}.txt"))).unwrap();
        assert_eq!(file, format!("file-{n}.txt").repeat(1000));
    }
    assert_eq!(kinds(&lines[20..]), ["forbidden"]);
}

#[test]
fn hostile_options_are_refused_before_anything_starts() {
    let server = Server::start();
    let url = server.url("slow/x");
    for (option, says) in [
        ("depth=6", "depth: 6 is not within 0 and 5"),
        ("depth=-1", "depth: invalid value"),
        ("pages=0", "pages: 0 is not within 1 and 1000"),
        ("pages=1001", "pages: 1001 is not within 1 and 1000"),
        ("pages=many", "pages: invalid type"),
        ("deph=1", "unknown field `deph`"),
    ] {
        let ended = server.run(&[], &["run", "net.links", &url, "-o", option]);
        assert_eq!(ended.code, Some(2), "{option}");
        assert!(ended.stderr.contains(says), "{option}: {}", ended.stderr);
    }
    assert!(server.seen.came.lock().unwrap().is_empty());
}
