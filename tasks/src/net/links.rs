//! `net.links`: the links of pages.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Cost, Hands, Invalid, Task, Tools, Wait, raw};
use tidemill_core::web::{Most, Url, check_url};

use super::{Limits, html, name};

/// Pages of one level that are fetched at the same time, for one item.
const PAGES_AT_ONCE: usize = 8;
/// What is asked for; servers that have other things may say so.
const ACCEPT: &str = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.1";

/// Reads pages, and those that they lead to.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    /// How large a page may be.
    pub limits: Limits,
}

/// Options of a batch.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// How far links are followed, within the host of the page: 0 reads only the page, 1 also those it leads to, and so on.
    #[schemars(range(max = 5))]
    pub depth: u32,
    /// How many pages are read in all, for one input. It matters where `depth` is not 0.
    #[schemars(range(min = 1, max = 1000))]
    pub pages: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { depth: 0, pages: 50 }
    }
}

/// What a page leads to.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Output {
    /// Where the page was found, after all redirects.
    pub url: String,
    /// The status of the answer, such as 200.
    pub status: u16,
    /// From asking for the page to its last byte.
    pub fetch_ms: f64,
    /// The addresses that `a` and `area` lead to: absolute, http and https only, each once, in the order in which they
    /// stand in the page; then the new ones of each page that was followed.
    pub links: Vec<String>,
    /// How long reading the page took.
    pub parse_ms: f64,
    /// Whether there were more links than fit into an outcome (2 MiB).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_cut: bool,
    /// With `depth`: every page that was read, level by level, in the order of the links.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pages: Vec<Page>,
}

/// One page that was read, or could not be.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Page {
    /// Its address, after all redirects.
    pub url: String,
    /// How many links lie between it and the first page.
    pub depth: u32,
    /// How many links it has.
    pub links: usize,
    /// From asking for it to its last byte.
    pub fetch_ms: f64,
    /// How long reading it took.
    pub parse_ms: f64,
    /// Why it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A page with its links.
#[derive(Debug)]
struct Read {
    url: Url,
    status: u16,
    links: html::Links,
    fetch_ms: f64,
    parse_ms: f64,
}

impl Task for Links {
    type Input = String;
    type Options = Options;
    type Output = Output;
    type Plan = Options;

    fn about(&self) -> About {
        About {
            name: "net.links",
            summary: "List the links of web pages",
            details: "An input is an http:// or https:// URL of a page, the output its links. Pages are read as browsers do, \
                      in their charset, with <base>; links in comments, scripts and templates are none. With depth=1 and \
                      more the pages that it leads to on the same host are read too, 8 at a time and `pages` in all; one \
                      that cannot be read does not harm the others, and `pages` of the output tells of each. Nobody asks \
                      robots.txt: follow links where you may. Which addresses may be asked is told at net.download.",
            examples: &[
                "tidemill run net.links https://www.rust-lang.org/",
                "tidemill run net.links https://docs.rs/about -o depth=1 -o pages=20 --format json",
            ],
            arguments: Arguments::Values,
            makes_files: false,
        }
    }

    fn plan(&self, options: Options) -> Result<Options, Invalid> {
        if options.depth > 5 {
            return Err(Invalid(format!("depth: {} is not within 0 and 5", options.depth)));
        }
        if !(1..=1000).contains(&options.pages) {
            return Err(Invalid(format!("pages: {} is not within 1 and 1000", options.pages)));
        }
        Ok(options)
    }

    fn check(&self, _options: &Options, url: &String) -> Result<(), Invalid> {
        check_url(url).map(drop).map_err(Invalid)
    }

    fn cost(&self, options: &Options) -> Cost {
        Cost::millis(if options.depth == 0 { 100 } else { 1000 })
    }

    fn input_from_word(&self, word: &str) -> Box<RawValue> {
        raw(word)
    }
}

impl Wait for Links {
    fn hands(&self, _options: &Options) -> Hands {
        Hands::AtMost(self.limits.at_once)
    }

    async fn run(self: Arc<Self>, options: Arc<Options>, url: String, tools: Tools) -> Result<Output, Failure> {
        let first = self.read(&url, &tools).await?;
        let mut crawl = Crawl::default();
        let mut output = Output {
            url: first.url.to_string(),
            status: first.status,
            fetch_ms: first.fetch_ms,
            links: Vec::new(),
            parse_ms: first.parse_ms,
            is_cut: false,
            pages: Vec::new(),
        };
        let host = first.url.clone();
        crawl.seen.insert(page_of(&first.url));
        crawl.take(0, &host, page_of(&first.url), Ok(first), &mut output);
        for depth in 1..=options.depth {
            let room = options.pages.saturating_sub(output.pages.len());
            let level: Vec<Url> = std::mem::take(&mut crawl.next).into_iter().take(room).collect();
            let reading = level.into_iter().map(|url| async {
                let read = self.read(url.as_str(), &tools).await;
                (url, read)
            });
            let mut reading = futures::stream::iter(reading).buffered(PAGES_AT_ONCE);
            while let Some((url, read)) = reading.next().await {
                crawl.take(depth, &host, url, read, &mut output);
            }
        }
        if options.depth == 0 {
            output.pages.clear();
        }
        Ok(output)
    }
}

impl Links {
    async fn read(&self, url: &str, tools: &Tools) -> Result<Read, Failure> {
        let most = Most { bytes: self.limits.max_page_bytes, setting: "net.max_page_bytes" };
        let mut answer = tools.blobs.get(url, ACCEPT, most).await?;
        let no_page = |reason: String| Failure::permanent("not_html", format!("cannot read {url} as a page: {reason}"));
        let header = answer.header("content-type").map(str::to_owned);
        match name::media_type(header.as_deref()).as_str() {
            "text/html" | "application/xhtml+xml" => {}
            _ if header.is_none() => {}
            other => return Err(no_page(format!("it is {other}"))),
        }
        if let Some(encoding) = answer.header("content-encoding").filter(|encoding| *encoding != "identity") {
            return Err(no_page(format!("the server sends it as {encoding}, which it was not asked to")));
        }
        let page = answer.read().await?;
        let fetch_ms = answer.elapsed().as_secs_f64() * 1000.0;
        let (url, status) = (answer.url.clone(), answer.status);
        let at = url.clone();
        let reading = tools.compute.run(move |stop| {
            let began = Instant::now();
            let charset = header.as_deref().and_then(html::of_content_type);
            let links = html::links(&page, charset, &at, &|| stop.is_cancelled())?;
            Ok::<_, Failure>((links, began.elapsed().as_secs_f64() * 1000.0))
        });
        let (links, parse_ms) = reading.await??;
        // It keeps its place until it is read: so many pages are in memory, and no more.
        drop(answer);
        Ok(Read { url, status, links, fetch_ms, parse_ms })
    }
}

/// What is known of a host while it is followed.
#[derive(Debug, Default)]
struct Crawl {
    /// Pages that were asked for, or will be.
    seen: HashSet<Url>,
    /// Links that are told.
    told: HashSet<Url>,
    told_bytes: usize,
    /// The pages of the next level.
    next: Vec<Url>,
}

impl Crawl {
    fn take(&mut self, depth: u32, host: &Url, asked: Url, read: Result<Read, Failure>, output: &mut Output) {
        let read = match read {
            Ok(read) => read,
            Err(failure) => {
                let error = Some(failure.message);
                let url = asked.to_string();
                return output.pages.push(Page { url, depth, links: 0, fetch_ms: 0.0, parse_ms: 0.0, error });
            }
        };
        let at = page_of(&read.url);
        // Redirected to a page that is read already, or will be.
        if at != asked && !self.seen.insert(at.clone()) {
            return;
        }
        let is_elsewhere = at.host() != host.host();
        output.pages.push(Page {
            url: read.url.to_string(),
            depth,
            links: read.links.urls.len(),
            fetch_ms: read.fetch_ms,
            parse_ms: read.parse_ms,
            error: is_elsewhere.then(|| "it redirects to another host, whose links are not followed".to_owned()),
        });
        if is_elsewhere {
            return;
        }
        output.is_cut |= read.links.is_cut;
        for link in read.links.urls {
            let page = page_of(&link);
            // Whatever its port: a site that has moved to https has links to http still.
            let is_here = page.host() == host.host();
            if self.told.insert(link.clone()) {
                self.told_bytes += link.as_str().len();
                if self.told_bytes > html::MAX_LINKS_BYTES {
                    output.is_cut = true;
                    return;
                }
                output.links.push(link.into());
            }
            if is_here && self.seen.insert(page.clone()) {
                self.next.push(page);
            }
        }
    }
}

/// The page that an address lies in: a fragment is a place within it.
fn page_of(url: &Url) -> Url {
    let mut page = url.clone();
    page.set_fragment(None);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn read(at: &str, links: &[&str]) -> Read {
        let links = html::Links { urls: links.iter().copied().map(url).collect(), is_cut: false };
        Read { url: url(at), status: 200, links, fetch_ms: 0.0, parse_ms: 0.0 }
    }

    fn nothing_yet() -> Output {
        let (links, pages) = (Vec::new(), Vec::new());
        Output { url: String::new(), status: 200, fetch_ms: 0.0, links, parse_ms: 0.0, is_cut: false, pages }
    }

    #[test]
    fn links_are_followed_within_the_host_whatever_their_scheme_and_port() {
        let (mut crawl, mut output, first) = (Crawl::default(), nothing_yet(), url("https://host/"));
        let links =
            ["http://host/plain", "https://host:8443/port", "https://other/", "https://www.host/", "https://host/a#b"];

        crawl.take(0, &first, first.clone(), Ok(read("https://host/", &links)), &mut output);

        assert_eq!(crawl.next, ["http://host/plain", "https://host:8443/port", "https://host/a"].map(url));
        assert_eq!(output.links, links, "all are told");
    }

    #[test]
    fn a_page_is_followed_where_it_redirects_to_its_host_and_not_where_to_another() {
        let (mut crawl, mut output, first) = (Crawl::default(), nothing_yet(), url("https://host/"));
        let asked = || url("http://host/moved");

        crawl.take(1, &first, asked(), Ok(read("https://host/moved", &["https://host/here"])), &mut output);
        crawl.take(1, &first, asked(), Ok(read("https://other/", &["https://host/there"])), &mut output);

        assert_eq!(crawl.next, [url("https://host/here")]);
        assert_eq!(output.pages.iter().map(|page| page.error.is_some()).collect::<Vec<_>>(), [false, true]);
    }
}
