//! Inputs that are URLs, from a server of our own on loopback.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};

use support::{root, run, tidemill};

/// Serves until the process ends: `/photo.png`, `/missing.png`, `/large.png` (which never ends), `/loop.png` (which
/// leads to itself), `/broken.png` (which breaks off), `/moved.png` (which leads to the photo).
fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || answer(stream.unwrap()));
        }
    });
    address
}

fn answer(mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut request = String::new();
    reader.read_line(&mut request).unwrap();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap() <= 2 {
            break;
        }
    }
    let photo = std::fs::read(root().join("examples/photos/coffee.png")).unwrap();
    let path = request.split_whitespace().nth(1).unwrap().split('?').next().unwrap();
    let answered: std::io::Result<()> = match path {
        "/photo.png" => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", photo.len())
                .and_then(|()| stream.write_all(&photo))
        }
        "/moved.png" => write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: /photo.png\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        ),
        "/loop.png" => write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: /loop.png\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        ),
        "/broken.png" => write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nConnection: close\r\n\r\nshort"),
        "/large.png" => write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").and_then(|()| {
            loop {
                stream.write_all(&[0; 1 << 16])?;
            }
        }),
        _ => write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    };
    // Whoever hangs up in the middle does so on purpose.
    drop(answered);
}

#[test]
fn a_picture_behind_a_url_is_fetched_and_each_trouble_has_its_name() {
    let server = serve();
    let out = tempfile::tempdir().unwrap();
    let url = |path: &str| format!("{server}/{path}");
    let (photo, moved, missing) = (url("photo.png?size=large"), url("moved.png"), url("missing.png"));
    let (endless, loops, broken) = (url("large.png"), url("loop.png"), url("broken.png"));
    let output = tidemill(&[
        "run",
        "image.transform",
        &photo,
        &moved,
        &missing,
        &endless,
        &loops,
        &broken,
        "-o",
        r#"steps=[{"thumbnail":[32,32]}]"#,
        "--out",
        out.path().to_str().unwrap(),
        "--retries",
        "0",
    ])
    .env("TIDEMILL__FETCH__MAX_BYTES", "4MiB")
    .env("TIDEMILL__NET__ALLOW_PRIVATE", "127.0.0.0/8")
    .output()
    .unwrap();
    let ended = support::Ended::from(output);

    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
    let lines = ended.lines();
    assert_eq!((&lines[0]["status"], &lines[1]["status"]), (&"ok".into(), &"ok".into()), "{lines:#?}");
    let kinds: Vec<&str> = lines[2..].iter().map(|line| line["error"]["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["not_found", "too_large", "redirects", "unreachable"], "{lines:#?}");
    assert!(lines[2]["error"]["message"].as_str().unwrap().contains(&missing));
    assert!(out.path().join("photo.png").is_file() && out.path().join("moved.png").is_file());
}

#[test]
fn a_server_that_is_not_there_is_a_failure_that_may_pass() {
    // Nobody listens there, nor will while this runs.
    let url = "http://127.0.0.1:1/a.png";
    let out = tempfile::tempdir().unwrap();
    let args = ["run", "image.transform", url, "--out", out.path().to_str().unwrap(), "--retries", "1"];
    let refused = run(&args);
    assert_eq!(refused.lines()[0]["error"]["kind"], "forbidden", "it is this machine");

    let ended = tidemill(&args).env("TIDEMILL__NET__ALLOW_PRIVATE", "127.0.0.0/8").output().unwrap();
    let line = &support::Ended::from(ended).lines()[0];
    assert_eq!((&line["error"]["kind"], &line["error"]["retryable"]), (&"unreachable".into(), &true.into()), "{line}");
    assert_eq!(line["attempts"], 2);
}

#[test]
fn an_address_of_an_unknown_kind_is_refused() {
    let out = tempfile::tempdir().unwrap();
    let ended =
        run(&["run", "image.transform", "ftp://host/a.png", "s3://bucket", "--out", out.path().to_str().unwrap()]);
    let messages: Vec<String> =
        ended.lines().iter().map(|line| line["error"]["message"].as_str().unwrap().to_owned()).collect();
    assert_eq!(messages[0], "ftp://host/a.png: ftp: is not among file, http, https, s3, gs and az");
    assert_eq!(messages[1], "s3://bucket names no object; it should be s3://bucket/key");
}

#[test]
fn whether_a_role_is_well_is_asked_of_itself_whatever_proxy_there_is() {
    let address = serve();
    let ask = |path: &str| {
        let mut command = tidemill(&["health", &format!("{address}{path}")]);
        for proxy in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
            // Nobody listens there.
            command.env(proxy, "http://127.0.0.1:1");
        }
        command.env_remove("NO_PROXY").env_remove("no_proxy").output().unwrap().status.code()
    };

    assert_eq!(ask("/photo.png"), Some(0));
    assert_eq!(ask("/missing.png"), Some(4));
}
