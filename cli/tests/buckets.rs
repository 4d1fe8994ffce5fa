//! Inputs that are buckets, from stand-ins for S3, Google Cloud Storage and Azure on loopback.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use support::{Ended, tidemill};
use tokio::runtime::Runtime;

/// Names that a page tells: few, so that a small bucket has several pages.
const PAGE: usize = 7;

#[derive(Clone)]
struct Bucket {
    objects: Arc<BTreeMap<String, Vec<u8>>>,
    /// The tokens of the pages that were asked for.
    pages: Arc<Mutex<Vec<String>>>,
    /// From this page on nothing is told.
    breaks_at: Option<usize>,
}

struct Server {
    endpoint: String,
    bucket: Bucket,
    _runtime: Runtime,
}

impl Server {
    fn start(objects: impl IntoIterator<Item = (String, Vec<u8>)>, breaks_at: Option<usize>) -> Self {
        let runtime = Runtime::new().unwrap();
        let bucket = Bucket { objects: Arc::new(objects.into_iter().collect()), pages: Arc::default(), breaks_at };
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        // HEAD is answered by GET's handler.
        let router = Router::new()
            .route("/mill", get(list))
            .route("/mill/{*key}", get(object))
            .route("/storage/v1/b/mill/o", get(list_of_google))
            .route("/storage/v1/b/mill/o/{*key}", get(object_of_google))
            .route("/miller/mill", get(list_of_azure))
            .route("/miller/mill/{*key}", get(object))
            .with_state(bucket.clone());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { endpoint, bucket, _runtime: runtime }
    }

    fn run(&self, args: &[&str]) -> Ended {
        self.command(args).output().unwrap().into()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = tidemill(&[&["run"], args].concat());
        command.env("AWS_ENDPOINT_URL", &self.endpoint).env("AWS_REGION", "here");
        command.env("AWS_ACCESS_KEY_ID", "miller").env("AWS_SECRET_ACCESS_KEY", "flour");
        command.env("STORAGE_EMULATOR_HOST", self.endpoint.trim_start_matches("http://"));
        command.env("AZBLOB_ENDPOINT", format!("{}/miller", self.endpoint));
        // "flour" in Base64.
        command.env("AZURE_STORAGE_ACCOUNT_NAME", "miller").env("AZURE_STORAGE_ACCOUNT_KEY", "ZmxvdXI=");
        command
    }
}

impl Bucket {
    /// A page of names, and the last of them where there are more: it stands for the next page. `None` where it breaks off.
    fn page(&self, prefix: &str, token: &str) -> Option<(Vec<&String>, Option<&String>)> {
        let page = {
            let mut pages = self.pages.lock().unwrap();
            pages.push(token.to_owned());
            pages.len() - 1
        };
        if self.breaks_at.is_some_and(|last| page >= last) {
            return None;
        }
        let wanted = |key: &&String| key.starts_with(prefix) && key.as_str() > token;
        let mut keys: Vec<&String> = self.objects.keys().filter(wanted).take(PAGE + 1).collect();
        let is_truncated = keys.len() > PAGE;
        keys.truncate(PAGE);
        let next = keys.last().copied().filter(|_| is_truncated);
        Some((keys, next))
    }

    fn size(&self, key: &str) -> usize {
        self.objects[key].len()
    }
}

/// ListObjectsV2: <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>
async fn list(
    State(bucket): State<Bucket>,
    Query(query): Query<BTreeMap<String, String>>,
    head: HeaderMap,
) -> Response {
    if query.get("list-type").map(String::as_str) != Some("2") || !head.contains_key("authorization") {
        return StatusCode::FORBIDDEN.into_response();
    }
    let (prefix, token) = (given(&query, "prefix"), given(&query, "continuation-token"));
    let Some((keys, next)) = bucket.page(prefix, token) else { return StatusCode::FORBIDDEN.into_response() };
    let mut xml = format!("<ListBucketResult><Name>mill</Name><IsTruncated>{}</IsTruncated>", next.is_some());
    for key in keys {
        let size = bucket.size(key);
        xml += &format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
             <ETag>\"0\"</ETag><Size>{size}</Size></Contents>"
        );
    }
    if let Some(next) = next {
        xml += &format!("<NextContinuationToken>{next}</NextContinuationToken>");
    }
    ([("content-type", "application/xml")], xml + "</ListBucketResult>").into_response()
}

/// Objects: list: <https://docs.cloud.google.com/storage/docs/json_api/v1/objects/list>
async fn list_of_google(State(bucket): State<Bucket>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    let (prefix, token) = (given(&query, "prefix"), given(&query, "pageToken"));
    let Some((keys, next)) = bucket.page(prefix, token) else { return StatusCode::FORBIDDEN.into_response() };
    let items: Vec<Value> = keys.into_iter().map(|key| bucket.google(key)).collect();
    let mut page = json!({"kind": "storage#objects", "items": items});
    if let Some(next) = next {
        page["nextPageToken"] = next.as_str().into();
    }
    Json(page).into_response()
}

/// Objects: get: <https://docs.cloud.google.com/storage/docs/json_api/v1/objects/get>
async fn object_of_google(
    bucket: State<Bucket>,
    key: Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    if given(&query, "alt") == "media" || !bucket.objects.contains_key(&*key) {
        return object(bucket, key).await;
    }
    Json(bucket.google(&key)).into_response()
}

impl Bucket {
    /// An object's resource. Numbers of 64 bits are text in it.
    fn google(&self, key: &str) -> Value {
        let size = self.size(key).to_string();
        json!({"name": key, "bucket": "mill", "size": size, "etag": "0", "updated": "2026-01-01T00:00:00.000Z"})
    }
}

/// List Blobs: <https://learn.microsoft.com/en-us/rest/api/storageservices/list-blobs>
async fn list_of_azure(
    State(bucket): State<Bucket>,
    Query(query): Query<BTreeMap<String, String>>,
    head: HeaderMap,
) -> Response {
    let is_signed = head.get("authorization").is_some_and(|by| by.to_str().unwrap().starts_with("SharedKey miller:"));
    if given(&query, "comp") != "list" || !is_signed {
        return StatusCode::FORBIDDEN.into_response();
    }
    let (prefix, token) = (given(&query, "prefix"), given(&query, "marker"));
    let Some((keys, next)) = bucket.page(prefix, token) else { return StatusCode::FORBIDDEN.into_response() };
    let mut xml = "<EnumerationResults ContainerName=\"mill\"><Blobs>".to_owned();
    for key in keys {
        let size = bucket.size(key);
        xml += &format!(
            "<Blob><Name>{key}</Name><Properties><Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT</Last-Modified>\
             <Etag>0</Etag><Content-Length>{size}</Content-Length><Content-Type>text/plain</Content-Type>\
             </Properties></Blob>"
        );
    }
    let next = next.map(String::as_str).unwrap_or_default();
    xml += &format!("</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>");
    ([("content-type", "application/xml")], xml).into_response()
}

fn given<'a>(query: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    query.get(name).map(String::as_str).unwrap_or_default()
}

async fn object(State(bucket): State<Bucket>, Path(key): Path<String>) -> Response {
    match bucket.objects.get(&key) {
        Some(bytes) => ([("etag", "\"0\"")], bytes.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn texts(names: &[&str]) -> Vec<(String, Vec<u8>)> {
    names.iter().map(|name| ((*name).to_owned(), format!("lorem {name} lorem\n").into_bytes())).collect()
}

#[test]
fn a_bucket_is_walked_page_by_page_and_its_objects_are_fetched() {
    let many: Vec<String> = (0..40).map(|n| format!("texts/{n:02}.txt")).collect();
    let mut names: Vec<&str> = many.iter().map(String::as_str).collect();
    names.extend(["texts/", "texts/.hidden", "texts/.git/config", "texts/ü 1/ä.txt", "other/x.txt", "texts-too.txt"]);
    for scheme in ["s3", "gs", "az"] {
        let server = Server::start(texts(&names), None);
        let ended = server.run(&["text.count", &format!("{scheme}://mill/texts/")]);

        assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
        let inputs: Vec<String> =
            ended.field("input").iter().map(|input| input["path"].as_str().unwrap().to_owned()).collect();
        let mut expected: Vec<String> = many.iter().map(|name| format!("{scheme}://mill/{name}")).collect();
        expected.push(format!("{scheme}://mill/texts/ü 1/ä.txt"));
        assert_eq!(inputs, expected);
        assert!(ended.field("output").iter().all(|output| output["count"] == 2), "{}", ended.stdout);
        assert!(server.bucket.pages.lock().unwrap().len() >= 40 / PAGE);
    }
}

#[test]
fn a_folder_that_would_be_read_as_another_is_refused_and_one_without_objects_is_told_of() {
    let server = Server::start(texts(&["texts/a.txt", "texts//b.txt"]), None);
    for folder in ["s3://mill//", "s3://mill/texts//", "gs://mill//texts/"] {
        let ended = server.run(&["text.count", folder]);
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains("an empty part between slashes"), "{}", ended.stderr);
    }

    let ended = server.run(&["text.count", "s3://mill/texts/"]);
    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
    let kinds: Vec<Value> = ended.field("error").iter().map(|error| error["kind"].clone()).collect();
    assert_eq!(kinds, [json!("invalid_input"), Value::Null], "{}", ended.stdout);

    let ended = server.run(&["text.count", "s3://mill/nothing/"]);
    assert_eq!((ended.code, &*ended.stdout), (Some(0), ""));
    assert!(ended.stderr.contains("s3://mill/nothing/: there are no objects in it"), "{}", ended.stderr);
}

#[test]
fn an_azure_container_of_nobody_knows_whom_is_said_so() {
    let mut command = tidemill(&["run", "text.count", "az://mill/texts/"]);
    for name in ["AZBLOB_ENDPOINT", "AZBLOB_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_NAME"] {
        command.env_remove(name);
    }
    let ended: Ended = command.output().unwrap().into();
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    assert!(ended.stderr.contains("AZURE_STORAGE_ACCOUNT_NAME"), "{}", ended.stderr);
}

#[test]
fn names_are_kept_from_the_folder_on() {
    let photo = std::fs::read(support::root().join("examples/photos/coffee.png")).unwrap();
    let names = ["in/a.png", "in/deep/er/b.png", "more/a.png"];
    let server = Server::start(names.map(|name| (name.to_owned(), photo.clone())), None);
    let out = tempfile::tempdir().unwrap();
    let transform = |inputs: &[&str], out: &str| {
        let steps = ["-o", r#"steps=[{"thumbnail":[40,40]}]"#, "--out", out];
        let ended = server.run(&[&["image.transform"], inputs, &steps[..]].concat());
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    };
    let path = |name: &str| out.path().join(name).to_str().unwrap().to_owned();

    transform(&["s3://mill/in/"], &path("one"));
    transform(&["s3://mill/in/", "s3://mill/more/"], &path("two"));

    for made in ["one/a.png", "one/deep/er/b.png", "two/in/a.png", "two/in/deep/er/b.png", "two/more/a.png"] {
        assert!(out.path().join(made).is_file(), "{made}");
    }
}

#[test]
fn a_bucket_that_cannot_be_listed_is_said_so_and_a_broken_list_can_be_gone_on_with() {
    let names: Vec<String> = (0..20).map(|n| format!("{n:02}.txt")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("all.ndjson").to_str().unwrap().to_owned();
    for breaks_at in [0, 2] {
        let broken = Server::start(texts(&names), Some(breaks_at));
        let ended = broken.run(&["text.count", "s3://mill/", "--out", &file, "--resume"]);
        assert_eq!(ended.code, Some(4), "{}", ended.stderr);
        assert!(ended.stderr.starts_with("error: cannot list s3://mill/: "), "{}", ended.stderr);
    }
    let ended = Server::start(texts(&names), None).run(&["text.count", "s3://mill/", "--out", &file, "--resume"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 20);
}

#[test]
fn an_object_that_does_not_come_is_given_up_after_a_while() {
    let server = Server::start([], None);
    // It takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());

    let mut command = server.command(&["text.count", "s3://mill/a.txt", "-o", "word=the", "--retries", "0"]);
    command.env("AWS_ENDPOINT_URL", endpoint).env("TIDEMILL__FETCH__TIMEOUT", "500ms");
    let ended: Ended = command.output().unwrap().into();

    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
    let error = &ended.lines()[0]["error"];
    assert_eq!((&error["kind"], &error["retryable"]), (&json!("unreachable"), &json!(true)), "{error}");
}
