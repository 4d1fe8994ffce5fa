//! HTML: the links of a page, by the parser of a browser.

mod charset;
mod sink;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use html5ever::ParseOpts;
use html5ever::tendril::{StrTendril, TendrilSink as _};
use html5ever::tree_builder::TreeBuilderOpts;
use tidemill_core::failure::Failure;
use url::Url;

pub(super) use self::charset::of_content_type;
use self::sink::{Found, Sink};

/// The parser looks up between pieces of this size, whether somebody still waits for it. A hostile one takes its time.
const PIECE_BYTES: usize = 4 << 10;
/// How long a page may take. Honest ones of the largest size take tenths of a second; of a tag with a hundred thousand
/// attributes the parser compares each with all before it.
const PARSED_WITHIN: Duration = Duration::from_secs(10);
/// Elements within elements. A browser stops at 512; here it is what keeps the parser from looking through its stack for
/// minutes.
const MAX_DEPTH: u32 = 5000;
/// A page has fewer elements and attributes than bytes, but what it leaves open is made anew in every block that follows:
/// so many more are made for it.
const MAX_MADE_ANEW: usize = 1 << 22;
/// A longer address is none that a server takes, and a page of relative links below a base of megabytes has no end.
const MAX_LINK_BYTES: usize = 8 << 10;
/// The links of a page take no more than this together, so that its outcome fits into a message.
pub(super) const MAX_LINKS_BYTES: usize = 2 << 20;

/// What a page leads to.
#[derive(Debug)]
pub(super) struct Links {
    /// Absolute, each once, in the order in which they stand in the page.
    pub(super) urls: Vec<Url>,
    /// Whether there were more than may be told.
    pub(super) is_cut: bool,
}

/// Finds the links of a page: of `a` and `area`, to http and https.
///
/// # Errors
/// A page that nests too deep, or has too much made anew; or nobody waits any more.
pub(super) fn links(page: &[u8], charset: Option<&str>, at: &Url, stop: &dyn Fn() -> bool) -> Result<Links, Failure> {
    let text = charset::decode(page, charset);
    let found = parse(&text, stop)?;
    let base = found.base.filter(|base| base.len() <= MAX_LINK_BYTES).and_then(|base| at.join(&base).ok());
    // As the standard has it: what has no paths of its own is no base.
    let base =
        base.filter(|base| !base.cannot_be_a_base() && base.scheme() != "javascript").unwrap_or_else(|| at.clone());
    let (mut urls, mut seen, mut bytes) = (Vec::new(), HashSet::new(), 0);
    for link in found.links {
        let Ok(url) = base.join(&link) else { continue };
        let is_good = matches!(url.scheme(), "http" | "https") && url.as_str().len() <= MAX_LINK_BYTES;
        if !is_good || !seen.insert(url.clone()) {
            continue;
        }
        bytes += url.as_str().len();
        if bytes > MAX_LINKS_BYTES {
            return Ok(Links { urls, is_cut: true });
        }
        urls.push(url);
    }
    Ok(Links { urls, is_cut: false })
}

fn parse(text: &str, stop: &dyn Fn() -> bool) -> Result<Found, Failure> {
    parse_within(PARSED_WITHIN, text, stop)
}

fn parse_within(most: Duration, text: &str, stop: &dyn Fn() -> bool) -> Result<Found, Failure> {
    let began = Instant::now();
    let options = ParseOpts {
        // Nothing is run here, so what stands in <noscript> is there.
        tree_builder: TreeBuilderOpts { scripting_enabled: false, ..TreeBuilderOpts::default() },
        ..ParseOpts::default()
    };
    let mut parser = html5ever::parse_document(Sink::default(), options);
    let mut rest = text;
    while !rest.is_empty() {
        if stop() {
            return Err(Failure::stopped());
        }
        let end = (0..=rest.len().min(PIECE_BYTES)).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        parser.process(StrTendril::from_slice(piece));
        if began.elapsed() > most {
            let reason = format!("cannot read the page: the parser takes more than {most:?} for it");
            return Err(Failure::permanent("html", reason));
        }
        let sink = &parser.tokenizer.sink.sink;
        if sink.depth() > MAX_DEPTH {
            let reason = format!("cannot read the page: its elements nest deeper than {MAX_DEPTH}");
            return Err(Failure::permanent("html", reason));
        }
        if sink.made() > text.len() + MAX_MADE_ANEW {
            let reason = "cannot read the page: the elements that it leaves open would have to be made anew too often";
            return Err(Failure::permanent("html", reason));
        }
        rest = after;
    }
    Ok(parser.finish())
}
