//! Bodies that are refused in the middle.

use axum::body::{Body, BodyDataStream, Bytes};
use futures::StreamExt as _;

use super::problem::Problem;

/// What is read of a refused body, so that its sender, who reads nothing before he has sent, gets the answer at all: a
/// connection that is closed on unread bytes is reset.
const DRAINED_BYTES: usize = 64 << 20;

/// A body in one piece; `too_large` where it has more bytes.
pub(super) async fn whole(body: Body, max_bytes: usize, too_large: &'static str) -> Result<Bytes, Problem> {
    let mut pieces = body.into_data_stream();
    let mut whole = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| cut_short(&error))?;
        if whole.len() + piece.len() > max_bytes {
            drop(whole);
            drain(pieces).await;
            return Err(Problem::too_large(format!("the body has more than {max_bytes} bytes; {too_large}")));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.into())
}

/// Reads on, within reason, and keeps nothing.
pub(super) async fn drain(mut pieces: BodyDataStream) {
    let mut drained = 0;
    while drained < DRAINED_BYTES
        && let Some(Ok(piece)) = pieces.next().await
    {
        drained += piece.len();
    }
}

/// Its sender has gone, or was silent for too long.
pub(super) fn cut_short(error: &axum::Error) -> Problem {
    tracing::debug!(%error, "a body broke off");
    Problem::bad_request("the body broke off before its end")
}
