//! Answer: a body that comes in pieces, of a bounded size and at a bearable pace.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AsHeaderName, HeaderMap};
use tokio::time::Instant;
use url::Url;

use super::hosts::Slot;
use super::{broken, failed, over_deadline, shown, transient};
use crate::blobs::BlobError;
use crate::settings::{NetSettings, format_size};

/// How large an answer may be, and which setting says so.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// Its bytes.
    pub bytes: u64,
    /// Such as `fetch.max_bytes`.
    pub setting: &'static str,
}

/// What a server answered, once it said that it has it.
#[derive(Debug)]
pub struct Answer {
    /// Where it came from, after all redirects.
    pub url: Url,
    /// Such as 200.
    pub status: u16,
    response: reqwest::Response,
    bytes: u64,
    most: Most,
    pace: Pace,
    asked: Instant,
    deadline: Instant,
    time_in_all: Duration,
    _slot: Slot,
}

/// How much came while it was waited for; time in which the reader was busy with something else does not count.
#[derive(Debug)]
struct Pace {
    window: Duration,
    least_bytes: u64,
    waited: Duration,
    bytes: u64,
}

impl Answer {
    pub(super) fn new(
        url: Url,
        response: reqwest::Response,
        slot: Slot,
        (most, window): (Most, Duration),
        rules: &NetSettings,
        asked: Instant,
    ) -> Result<Self, BlobError> {
        let least = rules.slowest as f64 * window.as_secs_f64();
        // A cast saturates, which is right.
        let pace = Pace { window, least_bytes: least as u64, waited: Duration::ZERO, bytes: 0 };
        let answer = Self {
            status: response.status().as_u16(),
            bytes: 0,
            most,
            pace,
            asked,
            deadline: asked + rules.deadline,
            time_in_all: rules.deadline,
            _slot: slot,
            url,
            response,
        };
        // Refused by what it announces, where it does; else by what comes.
        answer.check_size(answer.response.content_length().unwrap_or(0)).map(|()| answer)
    }

    /// A header, where it is there and readable.
    pub fn header(&self, name: impl AsHeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// All headers.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The URL for people, without a password.
    pub fn shown_url(&self) -> String {
        shown(&self.url)
    }

    /// How long ago it was asked for.
    pub fn elapsed(&self) -> Duration {
        self.asked.elapsed()
    }

    /// The next piece of the body; none after the last. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`BlobError`] of kind `too_large`; `too_slow`, `timeout`, `unreachable`: to be tried again.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, BlobError> {
        loop {
            let began = Instant::now();
            let until = self.deadline.min(began + self.pace.window.saturating_sub(self.pace.waited));
            let waited = tokio::time::timeout_at(until, self.response.chunk()).await;
            self.pace.waited += began.elapsed();
            let piece = match waited {
                Ok(piece) => piece.map_err(|error| broken(&self.url, error))?,
                Err(_) if until == self.deadline => return Err(over_deadline(&self.url, self.time_in_all)),
                Err(_) => {
                    self.check_pace()?;
                    continue;
                }
            };
            let Some(piece) = piece else { return Ok(None) };
            self.bytes += piece.len() as u64;
            self.pace.bytes += piece.len() as u64;
            self.check_size(self.bytes)?;
            if self.pace.waited >= self.pace.window {
                self.check_pace()?;
            }
            return Ok(Some(piece));
        }
    }

    /// The whole body, in memory: for those that are small.
    ///
    /// # Errors
    /// As [`Answer::piece`].
    pub async fn read(&mut self) -> Result<Vec<u8>, BlobError> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    fn check_size(&self, bytes: u64) -> Result<(), BlobError> {
        let Most { bytes: most, setting } = self.most;
        if bytes <= most {
            return Ok(());
        }
        let reason = format!("it has more than the {} that {setting} allows", format_size(most));
        Err(failed("too_large", &self.url, &reason))
    }

    /// Looks at one window, and begins the next.
    fn check_pace(&mut self) -> Result<(), BlobError> {
        let Pace { window, least_bytes, waited, bytes } = self.pace;
        if bytes == 0 {
            return Err(transient("timeout", &self.url, &format!("the server sent nothing for {window:?}")));
        }
        // What took longer than a window, in one piece, is judged by the time that it took.
        let least = least_bytes as f64 * (waited.as_secs_f64() / window.as_secs_f64());
        if (bytes as f64) < least {
            let reason = format!("the server sent {bytes} bytes in {waited:.1?}; net.slowest says how many it should");
            return Err(transient("too_slow", &self.url, &reason));
        }
        self.pace = Pace { waited: Duration::ZERO, bytes: 0, ..self.pace };
        Ok(())
    }
}
