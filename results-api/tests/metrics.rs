//! Numbers, as Prometheus reads them. A process counts once, so these tests share what they have counted.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use std::sync::{Arc, OnceLock};

use support::{Asking, Away};
use tidemill_results_api::http::{Api, PrometheusHandle, install_metrics};
use tidemill_results_api::testing::Server;

fn counted() -> PrometheusHandle {
    static COUNTED: OnceLock<PrometheusHandle> = OnceLock::new();
    COUNTED.get_or_init(|| install_metrics().unwrap()).clone()
}

#[track_caller]
fn has(told: &str, lines: &[&str]) {
    for line in lines {
        assert!(told.lines().any(|told| told == *line), "{line}\n{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn numbers_say_how_much_waits_and_who_is_away() {
    let server = Server::start_with(|api| Api { metrics: Some(counted()), ..api }).await;
    let apart = Server::start_with(|api| Api { metrics: Some(counted()), broker: Arc::new(Away), ..api }).await;
    apart.store.set_away(true);
    server.get("/v1/batches").await.json(200);

    let well = server.get("/metrics").await;
    let ill = apart.get("/metrics").await;

    assert!(well.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    has(
        &well.text(),
        &[
            r#"tidemill_http_requests_total{route="/v1/batches",method="GET",status="200"} 1"#,
            r#"tidemill_queue_depth{queue="jobs.cpu"} 0"#,
            "tidemill_broker_up 1",
            "tidemill_store_up 1",
        ],
    );
    assert_eq!(ill.status, 200, "{}", ill.text());
    let depth = r#"tidemill_queue_depth{queue="jobs.cpu"} NaN"#;
    has(&ill.text(), &[depth, "tidemill_broker_up 0", "tidemill_store_up 0"]);
}

#[tokio::test]
async fn methods_of_anybodys_own_make_no_series() {
    let counted = counted();
    let server = Server::start().await;

    for method in ["PATCH", "BREW", "GRIND"] {
        server.send(method, "/healthz", &[], "").await.problem(405);
    }

    let others = r#"tidemill_http_requests_total{route="/healthz",method="other",status="405"} 2"#;
    has(&counted.render(), &[others, &others.replace("other", "PATCH").replace("} 2", "} 1")]);
}
