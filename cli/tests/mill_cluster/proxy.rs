//! A proxy whose connections can be cut, and whose clients can be made to send what no client sends.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Passes bytes on to a port of this machine.
pub(crate) struct Proxy {
    port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

/// What a marring proxy mars, and what becomes of it: nothing that is UTF-8.
pub(crate) const MARRED: &str = "MARRED";
const MARRING: &[u8; MARRED.len()] = b"M\xc4RR\xcbD";

impl Proxy {
    pub(crate) fn to(target: u16) -> Self {
        Self::new(target, pump)
    }

    /// One that changes [`MARRED`] wherever a client says it.
    pub(crate) fn marring(target: u16) -> Self {
        Self::new(target, pump_marred)
    }

    fn new(target: u16, pump_there: fn(TcpStream, TcpStream)) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let open = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::clone(&open);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                // A server that is away: so is the proxy, to whoever asks.
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else { continue };
                drop(client.set_nodelay(true));
                drop(server.set_nodelay(true));
                let mut connections = connections.lock().unwrap();
                connections.push(client.try_clone().unwrap());
                connections.push(server.try_clone().unwrap());
                drop(connections);
                pump_there(client.try_clone().unwrap(), server.try_clone().unwrap());
                pump(server, client);
            }
        });
        Self { port, open }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every connection there is; new ones are let through.
    pub(crate) fn cut(&self) {
        for connection in self.open.lock().unwrap().drain(..) {
            // It may have ended by itself.
            drop(connection.shutdown(Shutdown::Both));
        }
    }
}

fn pump(from: TcpStream, to: TcpStream) {
    pump_changed(from, to, |_| 0);
}

fn pump_marred(from: TcpStream, to: TcpStream) {
    pump_changed(from, to, |bytes| {
        let word = MARRED.as_bytes();
        while let Some(place) = bytes.windows(word.len()).position(|there| there == word) {
            bytes[place..place + word.len()].copy_from_slice(MARRING);
        }
        // The rest of a word that has begun is still to come.
        (1..word.len()).rev().find(|begun| bytes.ends_with(&word[..*begun])).unwrap_or(0)
    });
}

/// Passes bytes on when they have been changed; the change says how many of the last ones it wants to see again.
fn pump_changed(mut from: TcpStream, mut to: TcpStream, change: impl Fn(&mut [u8]) -> usize + Send + 'static) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        let mut kept = 0;
        while let Ok(read @ 1..) = from.read(&mut buffer[kept..]) {
            let came = &mut buffer[..kept + read];
            kept = change(came);
            let (ready, _) = came.split_at(came.len() - kept);
            if to.write_all(ready).is_err() {
                break;
            }
            let ready = ready.len();
            buffer.copy_within(ready..ready + kept, 0);
        }
        drop(from.shutdown(Shutdown::Both));
        drop(to.shutdown(Shutdown::Both));
    });
}
