//! `doctor`: what is installed, what can be reached, what is missing or slow, and how to mend it.

mod reach;

use std::io::Write as _;
use std::time::{Duration, Instant};

use console::style;
use tidemill_core::blobs::file_behind;
use tidemill_core::compute::available_cores;
use tidemill_core::settings::{Loaded, Settings};
use tidemill_tasks::vision::card::Card;

use crate::error::{CliError, Exit};
use crate::tasks::print;
use crate::{Vision, handover};

/// What takes as long as this is slow: a machine of the same network, and a disk of one's own, take some milliseconds.
const SLOW_FROM: Duration = Duration::from_millis(250);

/// One thing that was looked at.
pub(crate) struct Finding {
    is_well: bool,
    /// How the command ends where this is ill.
    exit: Exit,
    what: String,
    remedy: Option<String>,
}

impl Finding {
    pub(crate) fn well(what: impl Into<String>) -> Self {
        Self { is_well: true, exit: Exit::Ok, what: what.into(), remedy: None }
    }

    /// It is well, and took so long to show it; with what to do where that is slow.
    fn after(took: Duration, what: impl Into<String>, remedy: &str) -> Self {
        let millis = took.as_secs_f64() * 1e3;
        let shown = if millis < 10.0 { format!("{millis:.1} ms") } else { format!("{millis:.0} ms") };
        let remedy = (took >= SLOW_FROM).then(|| remedy.to_owned());
        Self { remedy, ..Self::well(format!("{} ({shown})", what.into())) }
    }

    pub(crate) fn ill(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { is_well: false, exit: Exit::Configuration, what: what.into(), remedy: Some(remedy.into()) }
    }

    /// A part of the cluster that does not answer.
    pub(crate) fn away(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { exit: Exit::Unreachable, ..Self::ill(what, remedy) }
    }
}

/// Prints the settings in force, and where each comes from.
pub(crate) fn settings(loaded: &Loaded) -> Result<Exit, CliError> {
    print(&loaded.to_string())
}

/// Looks at everything and says what it found.
pub(crate) fn doctor(settings: &Settings, vision: Option<Vision>) -> Result<Exit, CliError> {
    let mut findings = vec![
        Finding::well(format!("tidemill {}, {} cores", env!("CARGO_PKG_VERSION"), available_cores())),
        temporary_folder(),
    ];
    findings.extend(networks(settings, vision));
    findings.extend(models(settings));
    findings.extend(blobs_folder(settings));
    findings.extend(reach::cluster(settings));
    let mut text = String::new();
    for finding in &findings {
        let mark = if finding.is_well { style("✔").green() } else { style("✖").red() };
        text += &format!("{mark} {}\n", finding.what);
        if let Some(remedy) = &finding.remedy {
            text += &format!("    {remedy}\n");
        }
    }
    print(&text)?;
    let exits = findings.iter().filter(|finding| !finding.is_well).map(|finding| finding.exit);
    // What is wrong on this machine is to be mended first.
    Ok(exits.min_by_key(|exit| *exit as u8).unwrap_or(Exit::Ok))
}

fn temporary_folder() -> Finding {
    let folder = std::env::temp_dir();
    match tempfile::tempfile_in(&folder).and_then(|mut file| file.write_all(b"grist")) {
        Ok(()) => Finding::well(format!("temporary files can be written to {}", folder.display())),
        Err(error) => Finding::ill(
            format!("temporary files cannot be written to {}: {error}", folder.display()),
            "make room there, or name another folder in TMPDIR",
        ),
    }
}

/// Whether blobs can be written, where they lie in a folder that this machine has, and how long it takes until they are
/// safe there.
fn blobs_folder(settings: &Settings) -> Option<Finding> {
    let url = settings.blobs.url.as_ref()?;
    let folder = file_behind(url.expose()).ok().flatten().filter(|folder| folder.is_dir())?;
    let asked = Instant::now();
    let written = tempfile::tempfile_in(folder).and_then(|mut file| {
        file.write_all(b"grist")?;
        file.sync_all()
    });
    Some(match written {
        Ok(()) => Finding::after(
            asked.elapsed(),
            format!("blobs can be written to {}", folder.display()),
            "a slow or busy disk: workers and the results API wait for it; name a quicker place in blobs.url",
        ),
        Err(error) => Finding::ill(
            format!("blobs cannot be written to {}: {error}", folder.display()),
            "make room there, let whoever runs workers and results API write there, or name another place in blobs.url",
        ),
    })
}

/// What networks can run on. The small command asks the other one, which also shows whether that one starts.
fn networks(settings: &Settings, vision: Option<Vision>) -> Vec<Finding> {
    if let Some(vision) = vision {
        return (vision.describe)().into_iter().map(Finding::well).collect();
    }
    let output = match handover::command(settings) {
        Ok(mut command) => command.arg("devices").output(),
        Err(error) => return vec![Finding::ill(error.message, error.hint.unwrap_or_default())],
    };
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).lines().map(Finding::well).collect()
        }
        Ok(output) => vec![Finding::ill(
            format!("{} does not start: {}", handover::VISION, String::from_utf8_lossy(&output.stderr).trim()),
            "libtorch 2.11 must be where it was built with, or in vision.libtorch; `make build` in a checkout mends it",
        )],
        Err(error) => vec![Finding::ill(
            format!("{} cannot be started: {error}", handover::VISION),
            "is it a program for this machine, and may you execute it?",
        )],
    }
}

fn models(settings: &Settings) -> Vec<Finding> {
    let models = crate::models_of(settings);
    let cards = Card::list(&models.folders);
    if cards.is_empty() {
        return vec![Finding::ill(
            "no models are installed",
            "in a checkout, `make models`; or name their folder in vision.models",
        )];
    }
    let finding = |(name, card): (&String, &Result<Card, _>)| match card {
        Ok(card) => match card.verify() {
            Ok(()) => Finding::well(format!("model {name} is complete")),
            Err(error) => Finding::ill(
                format!("model {name}: {error}"),
                "`make models` fetches the weights of the built-in cards",
            ),
        },
        Err(error) => Finding::ill(format!("model {name}: {error}"), "mend its card, or remove the folder"),
    };
    let default = models.check_default().err();
    let default = default.map(|invalid| Finding::ill(invalid.0, "set it to one of these, or install that one"));
    cards.iter().map(finding).chain(default).collect()
}

/// Prints what networks can run on, for the small command's doctor.
pub(crate) fn devices(vision: Option<Vision>) -> Result<Exit, CliError> {
    let lines = vision.map(|vision| (vision.describe)()).unwrap_or_default();
    print(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_slow_is_well_and_what_to_do_is_said() {
        let found = |micros| {
            let Finding { is_well, exit, what, remedy } =
                Finding::after(Duration::from_micros(micros), "Redis lets us in", "far or overloaded");
            assert!(is_well && exit == Exit::Ok);
            (what, remedy)
        };
        assert_eq!(found(420), ("Redis lets us in (0.4 ms)".into(), None));
        assert_eq!(found(249_000), ("Redis lets us in (249 ms)".into(), None));
        assert_eq!(found(250_000), ("Redis lets us in (250 ms)".into(), Some("far or overloaded".into())));
    }

    #[test]
    fn blobs_are_looked_for_where_their_folder_is_on_this_machine() {
        let folder = tempfile::tempdir().unwrap();
        let found = |url: &str| {
            let mut settings = Settings::default();
            settings.blobs.url = Some(url.parse().unwrap());
            blobs_folder(&settings)
        };

        let written = found(&format!("file://{}", folder.path().display())).unwrap();

        assert!(written.is_well && written.what.starts_with("blobs can be written to /"), "{}", written.what);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        for elsewhere in ["file:///nowhere/here", "s3://bucket/blobs", "memory://"] {
            assert!(found(elsewhere).is_none(), "{elsewhere}");
        }
    }
}
