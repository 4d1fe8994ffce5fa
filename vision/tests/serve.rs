//! `tidemill serve` as a user calls it: one process that answers over HTTP.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn photo(name: &str) -> Vec<u8> {
    std::fs::read(root().join("examples/photos").join(name)).unwrap()
}

/// The small command, which a build of the workspace leaves beside `tidemill-vision`.
fn small() -> PathBuf {
    let small = Path::new(env!("CARGO_BIN_EXE_tidemill-vision")).with_file_name("tidemill");
    assert!(small.is_file(), "build the whole workspace first: {} is not there", small.display());
    small
}

/// `tidemill serve`, until it is dropped.
struct Served {
    process: Child,
    url: String,
    client: Client,
}

impl Served {
    fn start(program: &Path, flags: &[&str]) -> Self {
        tidemill_core::blobs::choose_cryptography();
        let mut process = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(flags)
            .current_dir(root())
            .env("OMP_NUM_THREADS", "1")
            .env("TIDEMILL__WORKER__HEARTBEAT", "500ms")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let said: String = lines.find_map(|line| line.ok().filter(|line| line.contains("serves at"))).unwrap();
        let url = said.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
        // Whatever more it says must find a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, url, client: Client::new() }
    }

    async fn post(&self, address: &str, media_type: &str, body: impl Into<reqwest::Body>) -> Response {
        let request = self.client.post(format!("{}{address}", self.url));
        request.header("content-type", media_type).body(body).send().await.unwrap()
    }

    async fn get(&self, address: &str) -> Response {
        self.client.get(format!("{}{address}", self.url)).send().await.unwrap()
    }

    /// Until a worker has said that it runs networks.
    async fn until_ready(&self) {
        loop {
            let workers: Value = json_of(self.get("/v1/workers").await).await;
            if !workers["workers"].as_array().unwrap().is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    fn stop(mut self) -> ExitStatus {
        let kill = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(kill.success());
        self.process.wait().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

async fn json_of(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

/// A form with one file, as a browser sends it.
fn form(field: &str, name: &str, bytes: &[u8]) -> Vec<u8> {
    let head = format!(
        "--edge\r\ncontent-disposition: form-data; name=\"{field}\"; filename=\"{name}\"\r\ncontent-type: image/png\r\n\r\n"
    );
    [head.as_bytes(), bytes, b"\r\n--edge--\r\n"].concat()
}

const FORM: &str = "multipart/form-data; boundary=edge";

#[tokio::test]
async fn a_picture_is_answered_in_the_same_call() {
    let served = Served::start(&small(), &["--precision", "fp32"]);
    served.until_ready().await;

    let answer =
        served.post("/v1/predict/classify?top=3", FORM, form("image", "coffee.png", &photo("coffee.png"))).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let batch = answer.headers()["tidemill-batch"].to_str().unwrap().to_owned();
    let said = json_of(answer).await;
    assert_eq!((said["labels"].as_array().unwrap().len(), &said["labels"][0]["label"]), (3, &json!("espresso")));
    assert_eq!(served.get(&format!("/v1/batches/{batch}")).await.status(), StatusCode::NOT_FOUND, "it was let go");

    let bare = served.post("/v1/predict/classify?top=3", "image/png", photo("coffee.png")).await;
    assert_eq!(json_of(bare).await, said);

    let parts = json_of(served.post("/v1/predict/segment", "image/png", photo("astronaut.png")).await).await;
    let labels: Vec<&Value> = parts["classes"].as_array().unwrap().iter().map(|class| &class["label"]).collect();
    assert_eq!(labels, ["background", "person"]);
    assert!(parts["classes"][1]["share"].as_f64().unwrap() > 0.2, "{parts}");
    for answer in ["mask", "overlay", "side-by-side"] {
        let address = format!("/v1/predict/segment?answer={answer}");
        let drawn = served.post(&address, "image/png", photo("astronaut.png")).await;
        assert_eq!(drawn.status(), StatusCode::OK);
        assert_eq!(drawn.headers()["content-type"], "image/png");
        let bytes = drawn.bytes().await.unwrap();
        assert_eq!(image::guess_format(&bytes).unwrap(), image::ImageFormat::Png);
        if answer != "side-by-side" {
            let drawn = image::load_from_memory(&bytes).unwrap();
            assert_eq!(
                (&json!(drawn.width()), &json!(drawn.height())),
                (&parts["width"], &parts["height"]),
                "{answer}"
            );
        }
    }
    assert!(served.stop().success());
}

#[tokio::test]
async fn what_cannot_be_answered_is_said_and_harms_nothing() {
    let served = Served::start(&small(), &[]);
    served.until_ready().await;
    let coffee = photo("coffee.png");

    for (address, media_type, body, status, detail) in [
        ("/v1/predict/classify", "image/jpeg", b"no picture".to_vec(), 422, "picture"),
        ("/v1/predict/classify?model=efficientnet-lite9", "image/png", coffee.clone(), 400, "efficientnet-lite0"),
        ("/v1/predict/classify?top=0", "image/png", coffee.clone(), 400, "top"),
        ("/v1/predict/classify?tpo=1", "image/png", coffee.clone(), 400, "tpo"),
        ("/v1/predict/classify?deadline=0", "image/png", coffee.clone(), 400, "deadline"),
        ("/v1/predict/segment?answer=maks", "image/png", coffee.clone(), 400, "maks"),
        ("/v1/predict/classify", "image/png", Vec::new(), 400, "empty"),
        ("/v1/predict/classify", "text/plain", coffee.clone(), 415, "image/"),
        ("/v1/predict/classify", FORM, form("picture", "c.png", &coffee), 400, "image"),
        ("/v1/predict/classify", FORM, b"--edge\r\n".to_vec(), 400, "form"),
        ("/v1/predict/classify", "image/png", vec![0; (64 << 20) + 1], 413, "67108864"),
    ] {
        let answer = served.post(address, media_type, body).await;
        assert_eq!(answer.status().as_u16(), status, "{address}");
        let problem = json_of(answer).await;
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{address}: {problem}");
    }

    let late = served.post("/v1/predict/classify?deadline=1", "image/png", coffee.clone()).await;
    assert_eq!(late.status(), StatusCode::GATEWAY_TIMEOUT);
    // A picture that does not fit its message travels as a blob: PNG ends with its last chunk, what follows is not read.
    let mut large = coffee;
    large.resize(9 << 20, 0);
    assert_eq!(served.post("/v1/predict/classify", "image/png", large).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn sixteen_callers_at_once_all_have_their_answers() {
    let served = Served::start(&small(), &[]);
    served.until_ready().await;

    let photos = ["coffee.png", "animals/chelsea.png"];
    let calls = (0..16).map(|n| served.post("/v1/predict/classify?top=1", "image/png", photo(photos[n % 2])));
    let answers = futures::future::join_all(calls).await;

    for (n, answer) in answers.into_iter().enumerate() {
        let label = json_of(answer).await["labels"][0]["label"].as_str().unwrap().to_owned();
        match n % 2 {
            0 => assert_eq!(label, "espresso"),
            _ => assert!(label.to_lowercase().contains("cat"), "{label}"),
        }
    }
}

#[tokio::test]
async fn batches_go_through_it_as_through_a_cluster_even_without_networks() {
    // In a folder by itself the small command finds no tidemill-vision.
    let folder = tempfile::tempdir_in(small().parent().unwrap()).unwrap();
    let alone = folder.path().join("tidemill");
    std::fs::hard_link(small(), &alone).unwrap();
    let served = Served::start(&alone, &[]);
    served.until_ready().await;

    let new = json!({"task": "compute.map", "options": {"expr": "x*x"}, "items": [1, 2, "three"]});
    let answer = served.post("/v1/batches?wait=true", "application/json", new.to_string()).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    let lines = answer.text().await.unwrap();
    let outputs: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        [&outputs[0]["output"], &outputs[1]["output"], &outputs[2]["status"]],
        [&json!(1), &json!(4), &json!("failed")]
    );

    // The commands of a cluster speak to it.
    let asked = Command::new(&alone)
        .args(["verify", location.rsplit_once('/').unwrap().1])
        .env("TIDEMILL__API__URL", &served.url)
        .output()
        .unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));

    // Before its worker has said what it does nobody knows.
    while json_of(served.get("/v1/workers").await).await["workers"].as_array().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let picture = served.post("/v1/predict/classify", "image/png", photo("coffee.png")).await;
    assert_eq!(picture.status(), StatusCode::NOT_IMPLEMENTED);
    assert!(json_of(picture).await["detail"].as_str().unwrap().contains("install tidemill-vision"));
    assert!(served.stop().success());
}

#[test]
fn an_address_that_is_taken_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut process = Command::new(small())
        .args(["serve", "--listen", &address])
        .current_dir(root())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(3));
    let mut said = String::new();
    process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains(&address) && said.contains("api.listen"), "{said}");
}

#[tokio::test]
async fn what_the_network_did_is_counted_stage_by_stage() {
    let served = Served::start(&small(), &[]);
    for _ in 0..3 {
        let answer = served.post("/v1/predict/classify?top=1", "image/png", photo("coffee.png")).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }

    let metrics = served.get("/metrics").await.text().await.unwrap();
    let (model, device) = (r#"model="efficientnet-lite0""#, r#"device="cpu""#);
    for counted in [
        format!(r#"tidemill_network_items_total{{{model},{device},result="ok"}} 3"#),
        format!(r#"tidemill_network_items_total{{{model},{device},result="failed"}} 0"#),
        format!("tidemill_network_executions_total{{{model},{device}}} 3"),
        format!("tidemill_network_queue_seconds_count{{{model},{device}}} 3"),
        format!("tidemill_network_input_seconds_count{{{model}}} 3"),
        format!("tidemill_network_compute_seconds_count{{{model},{device}}} 3"),
        format!("tidemill_network_output_seconds_count{{{model},{device}}} 3"),
        format!("tidemill_model_loads_total{{{model}}} 1"),
    ] {
        assert!(metrics.lines().any(|line| line == counted), "{counted}\n{metrics}");
    }
    let work = loop {
        let workers = json_of(served.get("/v1/workers").await).await;
        let work = workers["workers"][0]["networks"][0].clone();
        if work["items"] == 3 {
            break work;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(
        (&work["model"], &work["executions"], &work["failures"]),
        (&"efficientnet-lite0".into(), &3.into(), &0.into())
    );
    assert!(work["compute_ms"].as_u64().unwrap() > 0 && work["input_ms"].as_u64().unwrap() > 0, "{work}");
}
