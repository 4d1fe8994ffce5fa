//! Bodies: lent to whoever answers and taken back from who refuses, and read whole where there is room for that.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Sleep;

use super::problem::Problem;

/// How long a body may pause; it may then go on for days.
const PAUSES_AT_MOST: Duration = Duration::from_secs(60);
/// What is read of a refused body, and for how long, so that its sender, who reads nothing before he has sent, gets the
/// answer at all: a connection that is closed on unread bytes is reset. It is more than the largest body that is taken.
const DRAINED_BYTES: usize = 96 << 20;
const DRAINED_WITHIN: Duration = Duration::from_secs(60);
/// A sender of whom nothing comes for so long is not kept from reading.
const DRAIN_PAUSES_AT_MOST: Duration = Duration::from_secs(2);
/// What all bodies that are read whole may take at the same time.
const WHOLE_BYTES: usize = 128 << 20;

/// Lends the body to whoever answers. What they do not read to its end is passed over, within reason, before an error is
/// answered; and one that was given up for its pauses is answered so, whatever whoever read it made of its end.
pub(super) async fn lend(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let asks_first = request.headers().contains_key(header::EXPECT);
    let (back, given_back) = oneshot::channel();
    let mut answering = pin!(next.run(request.map(|body| Body::new(Lent::new(body, back)))));
    // At once, while it is still answered: that a caller hangs up is seen behind the end of the body.
    let mut passing_over = pin!(async {
        let Ok(Rest { body, was_asked_for, has_paused }) = given_back.await else { return false };
        // Who asks first whether to send at all has sent nothing yet, and need not.
        if !has_paused && (was_asked_for || !asks_first) {
            drain(body).await;
        }
        has_paused
    });
    let (answer, has_paused) = tokio::select! {
        biased;
        answer = &mut answering => (answer, None),
        has_paused = &mut passing_over => (answering.await, Some(has_paused)),
    };
    if !answer.status().is_client_error() && !answer.status().is_server_error() {
        return answer;
    }
    let has_paused = match has_paused {
        Some(has_paused) => has_paused,
        // What is left then is lost to a sender who reads nothing before.
        None => tokio::time::timeout(DRAINED_WITHIN, passing_over).await.unwrap_or(false),
    };
    if has_paused { Problem::paused(PAUSES_AT_MOST).into_response() } else { answer }
}

/// Reads on, within reason, and keeps nothing. Of what is longer than that nothing is read: its sender would be reset anyhow.
async fn drain(body: Body) {
    if body.size_hint().lower() > DRAINED_BYTES as u64 {
        return;
    }
    let mut pieces = body.into_data_stream();
    let mut drained = 0;
    while drained < DRAINED_BYTES
        && let Ok(Some(Ok(piece))) = tokio::time::timeout(DRAIN_PAUSES_AT_MOST, pieces.next()).await
    {
        drained += piece.len();
    }
}

/// A body that goes back to [`lend`] when whoever reads it drops it before its end, and that ends with an error when it
/// pauses for too long. Only a pause of the sender counts: while nobody asks for more (because the broker takes nothing,
/// say), the sender waits for us.
struct Lent {
    body: Body,
    back: Option<oneshot::Sender<Rest>>,
    /// While more has been asked for and has not come.
    pause: Option<Pin<Box<Sleep>>>,
    was_asked_for: bool,
    has_paused: bool,
    is_over: bool,
}

/// What is left of a body that was lent.
struct Rest {
    body: Body,
    was_asked_for: bool,
    has_paused: bool,
}

/// Why a body is given up.
#[derive(Debug, thiserror::Error)]
#[error("nothing more came of it for too long")]
struct Paused;

impl Lent {
    fn new(body: Body, back: oneshot::Sender<Rest>) -> Self {
        Self { body, back: Some(back), pause: None, was_asked_for: false, has_paused: false, is_over: false }
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        this.was_asked_for = true;
        // First of all: what has come while nobody asked is there, however long that was.
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.pause = None;
            this.is_over = !matches!(frame, Some(Ok(_)));
            return Poll::Ready(frame);
        }
        let pause = this.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(PAUSES_AT_MOST)));
        ready!(pause.as_mut().poll(cx));
        (this.is_over, this.has_paused) = (true, true);
        Poll::Ready(Some(Err(axum::Error::new(Paused))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(back) = self.back.take().filter(|_| self.has_paused || !self.is_end_stream()) else { return };
        let (was_asked_for, has_paused) = (self.was_asked_for, self.has_paused);
        // Nobody takes it where the request itself is given up.
        drop(back.send(Rest { body: std::mem::take(&mut self.body), was_asked_for, has_paused }));
    }
}

/// Refuses what is compressed: nobody here would unpack it.
pub(super) async fn only_plain(request: Request, next: Next) -> Response {
    let mut encodings = request.headers().get_all(header::CONTENT_ENCODING).iter();
    if encodings.all(|encoding| encoding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity")) {
        return next.run(request).await;
    }
    let problem = Problem::media_type("the body is compressed, says its Content-Encoding; send it as it is");
    ([(header::ACCEPT_ENCODING, "identity")], problem).into_response()
}

/// Room for bodies that are read whole, of all requests together.
#[derive(Debug)]
pub(super) struct Room(Arc<Semaphore>);

/// What one request has of it, until the last of its clones is dropped.
#[derive(Clone, Debug)]
pub(super) struct Held(Arc<Share>);

#[derive(Debug)]
struct Share {
    room: Arc<Semaphore>,
    bytes: AtomicUsize,
    was_refused: AtomicBool,
}

/// There is none just now.
#[derive(Debug, thiserror::Error)]
#[error("the bodies of other requests leave no room for this one now")]
pub(super) struct NoRoom;

impl From<NoRoom> for Problem {
    fn from(no_room: NoRoom) -> Self {
        Self::busy(format!("{no_room}; try again in a moment"))
    }
}

impl Default for Room {
    fn default() -> Self {
        Self::of(WHOLE_BYTES)
    }
}

impl Room {
    pub(super) fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// Nothing yet.
    pub(super) fn held(&self) -> Held {
        Held(Arc::new(Share {
            room: Arc::clone(&self.0),
            bytes: AtomicUsize::new(0),
            was_refused: AtomicBool::new(false),
        }))
    }
}

impl Held {
    /// Takes room for so many bytes more, if there is some.
    pub(super) fn take(&self, bytes: usize) -> Result<(), NoRoom> {
        let Share { room, bytes: held, was_refused } = &*self.0;
        let Some(taken) = u32::try_from(bytes).ok().and_then(|bytes| room.try_acquire_many(bytes).ok()) else {
            was_refused.store(true, Ordering::Relaxed);
            return Err(NoRoom);
        };
        taken.forget();
        held.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Whether there was no room for some of it.
    pub(super) fn was_refused(&self) -> bool {
        self.0.was_refused.load(Ordering::Relaxed)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.add_permits(*self.bytes.get_mut());
    }
}

/// A body in one piece, and the room that it takes; `too_large` where it has more bytes.
pub(super) async fn whole(
    body: Body,
    max_bytes: usize,
    too_large: &'static str,
    room: &Room,
) -> Result<(Bytes, Held), Problem> {
    let too_large = || Problem::too_large(format!("the body has more than {max_bytes} bytes; {too_large}"));
    if body.size_hint().lower() > max_bytes as u64 {
        return Err(too_large());
    }
    let held = room.held();
    let mut pieces = body.into_data_stream();
    let mut whole = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| cut_short(&error))?;
        if whole.len() + piece.len() > max_bytes {
            return Err(too_large());
        }
        held.take(piece.len())?;
        whole.extend_from_slice(&piece);
    }
    Ok((whole.into(), held))
}

/// The same body, which finds room for each piece before that is handed on.
pub(super) fn counted(body: Body, held: Held) -> Body {
    Body::from_stream(body.into_data_stream().map(move |piece| {
        let piece = piece?;
        held.take(piece.len()).map_err(axum::Error::new)?;
        Ok::<_, axum::Error>(piece)
    }))
}

/// Its sender has gone, or was silent for too long.
pub(super) fn cut_short(error: &axum::Error) -> Problem {
    tracing::debug!(%error, "a body broke off");
    Problem::bad_request("the body broke off before its end")
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    fn body(bytes: usize) -> Body {
        Body::from(vec![7; bytes])
    }

    /// One of whose length nothing is known before.
    fn stream(bytes: usize) -> Body {
        Body::from_stream(futures::stream::iter((0..bytes).map(|_| Ok::<_, axum::Error>(Bytes::from_static(b"7")))))
    }

    #[tokio::test]
    async fn bodies_are_read_whole_while_there_is_room_for_all_of_them() {
        let room = Room::of(10);
        let (bytes, held) = whole(body(8), 20, "", &room).await.unwrap();
        assert_eq!(bytes.len(), 8);

        for another in [body(3), stream(3)] {
            let problem = whole(another, 20, "", &room).await.unwrap_err();
            assert_eq!(problem.status, StatusCode::SERVICE_UNAVAILABLE);
        }
        let form = counted(stream(3), room.held());
        assert!(axum::body::to_bytes(form, 20).await.is_err());
        let (_, beside) = whole(stream(2), 20, "", &room).await.unwrap();

        drop((held, beside));
        assert!(whole(stream(10), 20, "", &room).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_too_large_is_said_before_any_of_it_is_read_where_that_is_known() {
        let room = Room::of(0);
        for (large, status) in [(body(9), StatusCode::PAYLOAD_TOO_LARGE), (body(8), StatusCode::SERVICE_UNAVAILABLE)] {
            assert_eq!(whole(large, 8, "", &room).await.unwrap_err().status, status);
        }
        let room = Room::of(100);
        assert_eq!(whole(stream(9), 8, "", &room).await.unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
    }
}
