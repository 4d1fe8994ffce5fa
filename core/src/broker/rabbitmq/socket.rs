//! Socket: what comes from the broker, such that the client can read all of it.
//!
//! The client ends its connection over a message with a property, or the name of a header, that is not UTF-8. Nobody has
//! seen the message then, so the broker delivers it to the next, whose connection ends as well: one such message would
//! stop all workers for good. Here it loses its properties before the client reads it, and so becomes a dead letter like
//! any other that nobody can work on. Frames: AMQP 0-9-1, section 4.2; deliveries: its XML definition, `basic.deliver`.

use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio, TokioRuntime};
use bytes::{Buf as _, BytesMut};
use futures::{AsyncRead, AsyncWrite, Stream};
use lapin::protocol::basic::parse_properties;
use lapin::protocol::constants::{FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD};
use lapin::tcp::{AMQPUriTcpExt as _, TLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::lock::lock;

/// The type that a message has whose own properties could not be read.
const UNREADABLE: &str = "(its properties are not UTF-8)";

/// Type, channel and size, before a frame's payload; behind it is one byte more.
const BEFORE: usize = 1 + 2 + 4;
/// How much is asked of the network at a time.
const CHUNK: usize = 64 << 10;

/// Connects, with TLS where the address says so. Dropping the future gives it up.
pub(super) async fn connect(uri: AMQPUri, properties: ConnectionProperties) -> lapin::Result<Connection> {
    // Not by the client, which keeps a task for every connection that it could not open.
    let stream = match uri.authority.host.parse::<IpAddr>() {
        // A name is looked up on a thread of its own, which a process that begins to work gets only after milliseconds.
        Ok(address) if uri.scheme == AMQPScheme::AMQP => {
            let address = SocketAddr::new(address, uri.authority.port);
            AsyncTcpStream::Plain(Tokio::current().tcp_connect_addr(address).await?)
        }
        _ => uri.connect_with_config_async(TLSConfig::default(), &TokioRuntime::tokio_current()).await?,
    };
    // Its thread for the connection would wait for the broker's word for ever.
    let given_up = CancellationToken::new();
    let giving_up = given_up.clone().drop_guard();
    let stream = Mutex::new(Some(Readable::new(stream, given_up)));
    let open = async move |_, _| {
        let stream = lock(&stream).take();
        Ok(AsyncTcpStream::Plain(stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?))
    };
    let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), Network(Tokio::current())));
    let connected = Connection::connector(uri, runtime, open, properties).await;
    // From now on it is the client's to end it, politely.
    giving_up.disarm();
    connected
}

/// Why a connection that was given up fails.
fn nobody_waits() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the broker said nothing, and nobody waits for it any more")
}

/// Tokio's network, for the client: its connections are [`Readable`].
#[derive(Clone, Debug)]
struct Network(Tokio);

impl Reactor for Network {
    type TcpStream = Readable<AsyncTcpStream<<Tokio as Reactor>::TcpStream>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move { Ok(Readable::new(AsyncTcpStream::Plain(connecting.await?), CancellationToken::new())) }
    }
}

/// A connection whose reader gets only frames that it can read.
#[derive(Debug)]
struct Readable<S> {
    stream: S,
    chunk: Box<[u8]>,
    /// What has come and was not read yet.
    came: BytesMut,
    /// How much of it may be read.
    good: usize,
    /// How many bytes of a frame that needs no look are still to come, behind what has.
    passing: usize,
    /// Resolves when nobody waits for the connection any more.
    given_up: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S> Readable<S> {
    fn new(stream: S, given_up: CancellationToken) -> Self {
        let given_up = Box::pin(given_up.cancelled_owned());
        Self { stream, chunk: vec![0; CHUNK].into(), came: BytesMut::new(), good: 0, passing: 0, given_up }
    }
}

/// Reads what has come. Where nothing has, and nobody waits for the connection any more, it fails: that ends the client's
/// thread.
fn poll_stream(
    stream: &mut (impl AsyncRead + Unpin),
    given_up: Pin<&mut WaitForCancellationFutureOwned>,
    context: &mut Context<'_>,
    into: &mut [u8],
) -> Poll<io::Result<usize>> {
    match Pin::new(stream).poll_read(context, into) {
        Poll::Pending => given_up.poll(context).map(|()| Err(nobody_waits())),
        read => read,
    }
}

/// Looks at what has come: the bodies of messages pass as they come, other frames when they are whole.
fn look(came: &mut BytesMut, good: &mut usize, passing: &mut usize) {
    loop {
        let pass = (*passing).min(came.len() - *good);
        *good += pass;
        *passing -= pass;
        let rest = &mut came[*good..];
        let Some(&[kind, _, _, ref size @ ..]) = rest.first_chunk::<BEFORE>() else { return };
        let payload = u32::from_be_bytes(*size) as usize;
        let frame = BEFORE + payload + 1;
        match kind {
            FRAME_METHOD | FRAME_HEADER if rest.len() < frame => return,
            FRAME_METHOD => make_names_readable(&mut rest[BEFORE..frame - 1]),
            FRAME_HEADER => {
                if let Some(header) = without_properties(&rest[BEFORE..frame - 1]) {
                    let behind = came.split_off(*good + frame);
                    came.truncate(*good + 3);
                    came.extend_from_slice(&(header.len() as u32).to_be_bytes());
                    came.extend_from_slice(&header);
                    came.extend_from_slice(&[FRAME_END]);
                    *good = came.len();
                    came.unsplit(behind);
                    continue;
                }
            }
            FRAME_BODY | FRAME_HEARTBEAT => {}
            // Not AMQP, or another version: the client finds out.
            _ => {
                *passing = usize::MAX;
                continue;
            }
        }
        *passing = frame;
    }
}

/// The header of a message in place of one that the client cannot read.
fn without_properties(header: &[u8]) -> Option<Vec<u8>> {
    // Class, weight and the size of the body, before the properties.
    let (before, properties) = header.split_at_checked(2 + 2 + 8)?;
    if parse_properties(properties).is_ok_and(|(rest, _)| rest.is_empty()) {
        return None;
    }
    let has_type = 1u16 << 5;
    let length = [UNREADABLE.len() as u8];
    Some([before, &has_type.to_be_bytes(), &length, UNREADABLE.as_bytes()].concat())
}

/// In a delivery, the exchange and the key by which the message came may be anybody's.
fn make_names_readable(method: &mut [u8]) {
    let Some((&mut [0, 60, 0, 60, ref tag], rest)) = method.split_first_chunk_mut() else { return };
    // The consumer's tag, the delivery's, and whether it comes again.
    let Some(mut rest) = rest.get_mut(usize::from(*tag) + 8 + 1..) else { return };
    while let Some((length, names)) = rest.split_first_mut() {
        let Some((name, behind)) = names.split_at_mut_checked(usize::from(*length)) else { return };
        if str::from_utf8(name).is_err() {
            name.iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'?');
        }
        rest = behind;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Readable<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { stream, chunk, came, good, passing, given_up } = &mut *self;
        if came.is_empty() && *passing > 0 {
            let most = into.len().min(*passing);
            let count = ready!(poll_stream(stream, given_up.as_mut(), context, &mut into[..most]))?;
            *passing -= count;
            return Poll::Ready(Ok(count));
        }
        while *good == 0 {
            let count = ready!(poll_stream(stream, given_up.as_mut(), context, chunk))?;
            if count == 0 {
                return Poll::Ready(Ok(0));
            }
            came.extend_from_slice(&chunk[..count]);
            look(came, good, passing);
        }
        let count = into.len().min(*good);
        into[..count].copy_from_slice(&came[..count]);
        came.advance(count);
        *good -= count;
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Readable<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures::{AsyncReadExt as _, FutureExt as _};

    use super::*;

    /// A stream that gives one piece a time.
    struct Pieces(VecDeque<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
            let Some(mut piece) = self.0.pop_front() else { return Poll::Ready(Ok(0)) };
            let count = piece.len().min(into.len());
            into[..count].copy_from_slice(&piece[..count]);
            if count < piece.len() {
                self.0.push_front(piece.split_off(count));
            }
            Poll::Ready(Ok(count))
        }
    }

    /// What is read where the bytes come in pieces of so many.
    fn read(bytes: &[u8], piece: usize) -> Vec<u8> {
        let pieces = Pieces(bytes.chunks(piece).map(Vec::from).collect());
        let mut stream = Readable::new(pieces, CancellationToken::new());
        let mut all = Vec::new();
        stream.read_to_end(&mut all).now_or_never().unwrap().unwrap();
        all
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, 3], &size[..], payload, &[FRAME_END]].concat()
    }

    fn short(text: &[u8]) -> Vec<u8> {
        [&[u8::try_from(text.len()).unwrap()], text].concat()
    }

    fn header(flags: u16, properties: &[u8]) -> Vec<u8> {
        let before = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        frame(FRAME_HEADER, &[&before, &flags.to_be_bytes()[..], properties].concat())
    }

    /// A table of one header.
    fn table(name: &[u8]) -> Vec<u8> {
        let field = [&short(name), &b"S\0\0\0\x02\xff\xff"[..]].concat();
        [&u32::try_from(field.len()).unwrap().to_be_bytes()[..], &field].concat()
    }

    fn delivery(key: &[u8]) -> Vec<u8> {
        let names = [short(b"tag"), vec![0; 8], vec![1], short(b"exchange"), short(key)].concat();
        frame(FRAME_METHOD, &[&[0, 60, 0, 60], &names[..]].concat())
    }

    #[test]
    fn what_cannot_be_read_is_made_readable_and_nothing_else_is_touched() {
        let (content_type, headers) = (1 << 15, 1 << 13);
        let unreadable = header(1 << 5, &short(UNREADABLE.as_bytes()));
        let body = frame(FRAME_BODY, &[0xff; 3000]);
        let ours = [
            frame(FRAME_METHOD, &[0, 10, 0, 30, 0xff, 0xfe]),
            delivery("Schlüssel".as_bytes()),
            header(headers, &table("größe".as_bytes())),
            body.clone(),
            frame(FRAME_HEARTBEAT, &[]),
        ];
        let marred = [
            (delivery(b"k\xe9y"), delivery(b"k?y")),
            (header(headers, &table(b"gr\xf6\xdfe")), unreadable.clone()),
            (header(content_type, &short(b"\xff")), unreadable.clone()),
            (header(content_type, b"\x09short"), unreadable),
        ];
        let came =
            marred.iter().flat_map(|(came, _)| [came, &body]).chain(&ours).flatten().copied().collect::<Vec<_>>();
        let wanted = marred.iter().flat_map(|(_, read)| [read, &body]).chain(&ours).flatten().copied();
        let wanted = wanted.collect::<Vec<_>>();

        for piece in (1..40).chain([100, 1000, 1 << 20]) {
            assert!(read(&came, piece) == wanted, "in pieces of {piece}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_cannot_be_opened_leaves_nothing_behind() {
        // Nobody listens there.
        for uri in ["amqp://127.0.0.1:1", "amqp://localhost:1"] {
            assert!(connect(uri.parse().unwrap(), ConnectionProperties::default()).await.is_err());
        }

        assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
    }

    #[tokio::test]
    async fn a_broker_that_says_nothing_is_left_once_nobody_waits_for_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("amqp://{}", listener.local_addr().unwrap()).parse().unwrap();
        let connecting = tokio::spawn(connect(uri, ConnectionProperties::default()));
        let greeted = tokio::task::spawn_blocking(move || {
            let mut silent = listener.accept().unwrap().0;
            silent.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            silent.read_exact(&mut [0; 8]).unwrap();
            silent
        });
        let mut silent = greeted.await.unwrap();

        connecting.abort();

        let rest = tokio::task::spawn_blocking(move || silent.read(&mut [0; 1]).unwrap());
        assert_eq!(rest.await.unwrap(), 0, "the socket is closed, and who had it has ended");
    }

    #[test]
    fn what_is_not_amqp_goes_to_the_client_as_it_is() {
        let text = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        assert_eq!(read(text, 5), text);
    }
}
