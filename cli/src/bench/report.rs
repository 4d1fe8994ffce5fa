//! What was measured, and how much of what is possible it is.

use serde::Serialize;
use tidemill_tasks::vision::card::Card;

use super::measure::{Picture, Whole};
use crate::Measured;

/// What was measured. Rates are in pictures a second.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    model: String,
    device: String,
    precision: String,
    /// Computing threads: decoding uses them all.
    cores: usize,
    instances: usize,
    threads: usize,
    batch: usize,
    images: usize,
    /// Files of the folder that are no pictures.
    unreadable: usize,
    /// The mean picture's size.
    megapixels: f64,
    forward: f64,
    decode: f64,
    end_to_end: f64,
    /// What the slower of the two allows.
    slower: f64,
    /// What is possible: on the CPU both share the cores.
    limit: f64,
    /// End to end, as a part of each.
    share_of_slower: f64,
    share_of_limit: f64,
    /// One picture that finds nobody before it, in milliseconds.
    one_forward_ms: f64,
    one_end_to_end_ms: f64,
}

impl Report {
    /// Puts together what was measured.
    pub(super) fn new(
        card: &Card,
        pictures: &[Picture],
        unreadable: usize,
        cores: usize,
        forward: Measured,
        decode: f64,
        whole: Whole,
    ) -> Self {
        let slower = forward.rate.min(decode);
        let limit = if forward.is_cpu {
            slower.min(shared(cores, decode, forward.instances * forward.threads, forward.rate))
        } else {
            slower
        };
        let pixels: u64 = pictures.iter().map(|picture| picture.pixels).sum();
        Self {
            model: card.name.clone(),
            device: forward.device,
            precision: forward.precision,
            cores,
            instances: forward.instances,
            threads: forward.threads,
            batch: forward.batch,
            images: pictures.len(),
            unreadable,
            megapixels: rounded(pixels as f64 / pictures.len().max(1) as f64 / 1e6, 1000.0),
            forward: rounded(forward.rate, 10.0),
            decode: rounded(decode, 10.0),
            end_to_end: rounded(whole.rate, 10.0),
            slower: rounded(slower, 10.0),
            limit: rounded(limit, 10.0),
            share_of_slower: rounded(whole.rate / slower, 1000.0),
            share_of_limit: rounded(whole.rate / limit, 1000.0),
            one_forward_ms: rounded(forward.one.as_secs_f64() * 1e3, 100.0),
            one_end_to_end_ms: rounded(whole.one.as_secs_f64() * 1e3, 100.0),
        }
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let of = |rate: f64, share: f64, what: &str| format!("  {rate:9.1}  {:5.1} % of {what}\n", share * 100.0);
        let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let mut text = format!(
            "{} in {} on {}: {} of {}, {} at a time; {} for reading\n",
            self.model,
            self.precision,
            self.device,
            plural(self.instances, "instance"),
            plural(self.threads, "thread"),
            self.batch,
            plural(self.cores, "core"),
        );
        text += &format!("{} of {:.2} megapixels in the mean", plural(self.images, "picture"), self.megapixels);
        if self.unreadable > 0 {
            text += &format!("; {} left out, which cannot be read", plural(self.unreadable, "file"));
        }
        text += &format!(
            "\n\npictures a second\n  {:9.1}  the network alone\n  {:9.1}  reading alone\n",
            self.forward, self.decode
        );
        text += &format!("  {:9.1}  end to end\n\nof what is possible\n", self.end_to_end);
        text += &of(self.slower, self.share_of_slower, "the slower of the two");
        if self.limit < self.slower {
            text += &of(self.limit, self.share_of_limit, "both on the same cores");
        }
        text += &format!(
            "\none picture, nobody before it\n  {:6.2} ms  the network alone\n  {:6.2} ms  end to end\n",
            self.one_forward_ms, self.one_end_to_end_ms
        );
        text
    }
}

/// The rate that is possible where both share the cores: each picture takes its part of the cores for the one and for the
/// other. `decode` used all of them, `forward` as many as the network had threads.
fn shared(cores: usize, decode: f64, threads: usize, forward: f64) -> f64 {
    let cores = cores as f64;
    cores / (cores / decode + threads as f64 / forward)
}

fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shares_the_cores_shares_the_time() {
        assert!((shared(2, 900.0, 2, 100.0) - 90.0).abs() < 1e-9, "all cores for both");
        assert!(shared(2, 900.0, 1, 100.0) > 100.0, "a network on one of two cores leaves the other for reading");
    }
}
