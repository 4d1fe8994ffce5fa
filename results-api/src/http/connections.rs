//! Connections: takes them, as many as can be served, and closes those on which nobody says what they want.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the head of a request may take, and how long a connection may be idle between two requests. `axum::serve`
/// has no such end: whoever sends a byte now and then would keep a socket for ever.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// Connections that are held at a time; more wait with the system until one has ended.
const AT_ONCE: usize = 4096;
/// Descriptors for each of them: an answer may take a file, or a connection to a store, beside its socket.
const DESCRIPTORS_EACH: u64 = 2;
/// So many descriptors are asked of the system, which commonly gives 1024 to whoever does not ask.
const DESCRIPTORS: u64 = 65_536;

/// Serves each connection until `stop` is cancelled and the answers under way have ended.
pub(super) async fn serve(listener: impl Listener, router: Router, stop: CancellationToken) {
    let at_once = raise_descriptors().and_then(|descriptors| usize::try_from(descriptors / DESCRIPTORS_EACH).ok());
    serve_so_many(listener, router, at_once.unwrap_or(AT_ONCE).clamp(1, AT_ONCE), stop).await;
}

/// Asks the system for more descriptors; how many there are then, where there is a limit.
fn raise_descriptors() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let current = current?;
    let wanted = maximum.unwrap_or(DESCRIPTORS).min(DESCRIPTORS);
    let has_more = wanted > current
        && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
            .inspect_err(|error| tracing::debug!(%error, "the system gives no more descriptors"))
            .is_ok();
    Some(if has_more { wanted } else { current })
}

async fn serve_so_many(mut listener: impl Listener, router: Router, at_once: usize, stop: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    let service = TowerToHyperService::new(router);
    let open = TaskTracker::new();
    let places = Arc::new(Semaphore::new(at_once));
    let mut was_full = false;
    loop {
        let is_full = places.available_permits() == 0;
        if is_full && !was_full {
            tracing::warn!(at_once, "no more connections are taken until one has ended");
        }
        was_full = is_full;
        let taking = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let Some((Ok(place), (socket, _))) = stop.run_until_cancelled(taking).await else { break };
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
            drop(place);
        });
    }
    drop(listener);
    open.close();
    open.wait().await;
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn beyond_so_many_connections_the_next_waits_until_one_has_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, mut asked) = mpsc::channel(9);
        let tells = move || {
            let tell = tell.clone();
            async move { tell.send(()).await.unwrap() }
        };
        let router = Router::new().route("/", get(tells));
        tokio::spawn(serve_so_many(listener, router, 2, CancellationToken::new()));
        let ask = async || {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            stream
        };
        let held = [ask().await, ask().await];
        for _ in 0..2 {
            asked.recv().await.unwrap();
        }

        let third = ask().await;
        assert!(tokio::time::timeout(Duration::from_secs(1), asked.recv()).await.is_err(), "it waits");
        drop(held);

        asked.recv().await.unwrap();
        drop(third);
    }

    #[test]
    fn as_many_descriptors_are_asked_for_as_the_system_gives() {
        let given = raise_descriptors();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(given, current);
        assert!(current.is_none_or(|current| current >= maximum.unwrap_or(DESCRIPTORS).min(DESCRIPTORS)));
    }
}
