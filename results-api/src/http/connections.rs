//! Connections: takes them, and closes those on which nobody says what they want.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the head of a request may take, and how long a connection may be idle between two requests. `axum::serve`
/// has no such end: whoever sends a byte now and then would keep a socket for ever.
const HEAD_WITHIN: Duration = Duration::from_secs(60);

/// Serves each connection until `stop` is cancelled and the answers under way have ended.
pub(super) async fn serve(mut listener: impl Listener, router: Router, stop: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    let service = TowerToHyperService::new(router);
    let open = TaskTracker::new();
    while let Some((socket, _)) = stop.run_until_cancelled(listener.accept()).await {
        let connection = http.serve_connection(TokioIo::new(socket), service.clone());
        let stop = stop.clone();
        open.spawn(async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended badly");
            }
        });
    }
    drop(listener);
    open.close();
    open.wait().await;
}
