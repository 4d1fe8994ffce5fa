//! `net.download`: stores what is at a URL.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use tidemill_core::blobs::BlobRef;
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Cost, Hands, Invalid, Task, Tools, Wait, raw};
use tidemill_core::web::{Most, check_url};

use super::{Limits, name};
use crate::NoOptions;

/// Fetches files, many at once.
#[derive(Clone, Copy, Debug)]
pub struct Download {
    /// How large a file may be.
    pub limits: Limits,
}

/// What was stored.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Output {
    /// The file, with its size, its media type as the server told it, and its name.
    pub file: BlobRef,
    /// Where it came from, after all redirects.
    pub url: String,
    /// From asking to the last byte.
    pub ms: f64,
}

impl Task for Download {
    type Input = String;
    type Options = NoOptions;
    type Output = Output;
    type Plan = ();

    fn about(&self) -> About {
        About {
            name: "net.download",
            summary: "Fetch files from the web, many at once",
            details: "An input is an http:// or https:// URL. What is there is stored as it comes, never held in memory; it \
                      keeps the name that the server gives it, else the last part of its URL. Items are fetched at the same \
                      time, but only so many from one host (net.at_once_per_host). Only public addresses are asked, unless \
                      net.allow_private names others; a name that leads to another, or a redirect, is refused too. An \
                      answer may be as large as net.max_bytes. A server that is silent, too slow or busy is asked again \
                      later; when, it may say itself (Retry-After).",
            examples: &[
                "tidemill run net.download https://www.rust-lang.org/logos/rust-logo-512x512.png --out files",
                "tidemill run net.download --items urls.ndjson --order completion --out files",
            ],
            arguments: Arguments::Values,
            makes_files: true,
        }
    }

    fn plan(&self, _options: NoOptions) -> Result<(), Invalid> {
        Ok(())
    }

    fn check(&self, (): &(), url: &String) -> Result<(), Invalid> {
        check_url(url).map(drop).map_err(Invalid)
    }

    fn cost(&self, (): &()) -> Cost {
        Cost::millis(100)
    }

    fn input_from_word(&self, word: &str) -> Box<RawValue> {
        raw(word)
    }
}

impl Wait for Download {
    fn hands(&self, (): &()) -> Hands {
        Hands::AtMost(self.limits.at_once)
    }

    async fn run(self: Arc<Self>, _plan: Arc<()>, url: String, tools: Tools) -> Result<Output, Failure> {
        let most = Most { bytes: self.limits.max_bytes, setting: "net.max_bytes" };
        let mut answer = tools.blobs.get(&url, "*/*", most).await?;
        let media_type = name::media_type(answer.header("content-type"));
        let disposition = answer.headers().get("content-disposition").map(|value| value.as_bytes());
        let name = name::of(disposition, &answer.url, &media_type);
        let mut spool = tools.blobs.spool().await?;
        while let Some(piece) = answer.piece().await? {
            spool.write(piece).await?;
        }
        let (url, ms) = (answer.shown_url(), answer.elapsed().as_secs_f64() * 1000.0);
        // Another may have its place while this one is stored.
        drop(answer);
        let file = spool.finish(&media_type, name::extension(&name, &media_type)).await?;
        Ok(Output { file: BlobRef { name: Some(name), ..file }, url, ms })
    }
}
