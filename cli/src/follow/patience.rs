//! Patience: what is waited for, how long, and what is said meanwhile. Each thing once.

use std::time::{Duration, Instant};

use super::Following;
use crate::client::{ApiError, Trouble};
use crate::error::CliError;
use crate::printer;

/// The first wait; it doubles up to the last.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);
/// A new batch takes a moment to be known: this long, as a rule; only after the longer time is it worth a word.
const UNTIL_KNOWN: Duration = Duration::from_millis(5);
const BEFORE_A_WORD: Duration = Duration::from_secs(2);
/// How long somebody who does not follow waits for an API that went away in the middle.
const WITHOUT_FOLLOWING: Duration = Duration::from_secs(30);

/// How long an API that is away is waited for.
#[derive(Debug)]
pub(crate) struct Patience {
    waits: bool,
    is_patient: bool,
    is_quiet: bool,
    was_reached: bool,
    away_since: Option<Instant>,
    is_told: bool,
    pause: Duration,
}

impl Patience {
    pub(super) fn of(following: &Following) -> Self {
        Self::new(following.waits, following.is_patient, following.is_quiet)
    }

    /// That of somebody who only watches: an API that was reached once is waited for.
    pub(crate) fn of_watcher(is_quiet: bool) -> Self {
        Self::new(true, false, is_quiet)
    }

    fn new(waits: bool, is_patient: bool, is_quiet: bool) -> Self {
        let pause = if is_patient { UNTIL_KNOWN } else { FIRST };
        Self { waits, is_patient, is_quiet, was_reached: false, away_since: None, is_told: false, pause }
    }

    /// Waits a while, longer each time; or gives the error back where waiting will not help or is not wanted.
    pub(crate) async fn wait_out(&mut self, error: ApiError) -> Result<(), CliError> {
        let since = *self.away_since.get_or_insert_with(Instant::now);
        let is_new = error.trouble == Trouble::Unknown && self.is_patient && !self.was_reached;
        let is_over = !self.waits && since.elapsed() > WITHOUT_FOLLOWING;
        let may_wait = self.was_reached || self.is_patient;
        if !(error.is_transient() || is_new) || is_over || !may_wait {
            return Err(error.into());
        }
        if !self.is_told && !self.is_quiet && (!is_new || since.elapsed() > BEFORE_A_WORD) {
            printer::say(&format!("{error}; waiting for it"));
            self.is_told = true;
        }
        // Many readers lose an API at the same moment, and must not come back at the same moment.
        tokio::time::sleep(self.pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
        self.pause = (2 * self.pause).min(LONGEST);
        Ok(())
    }

    /// It answers.
    pub(crate) fn is_back(&mut self) {
        self.was_reached = true;
        self.away_since = None;
        if std::mem::take(&mut self.is_told) {
            printer::say("the results API is back");
        }
    }

    /// It answers and sends something: the next wait is a short one again.
    pub(crate) fn has_got_on(&mut self) {
        self.pause = FIRST;
    }
}
