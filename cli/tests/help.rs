//! Help, lists and completions, as they are printed.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod support;

use insta::assert_snapshot;
use serde_json::Value;
use support::run;

#[test]
fn help() {
    assert_snapshot!(run(&["--help"]).stdout);
}

#[test]
fn help_of_run() {
    assert_snapshot!(run(&["run", "--help"]).stdout);
}

#[test]
fn help_of_models_import() {
    assert_snapshot!(run(&["models", "import", "--help"]).stdout);
}

#[test]
fn help_of_models_verify() {
    assert_snapshot!(run(&["models", "verify", "--help"]).stdout);
}

#[test]
fn the_list_of_tasks() {
    assert_snapshot!(run(&["tasks"]).stdout);
}

#[test]
fn one_task() {
    assert_snapshot!(run(&["tasks", "image.transform"]).stdout);
}

#[test]
fn the_list_of_tasks_fits_a_terminal() {
    let listed = run(&["tasks"]).stdout;
    for line in listed.lines() {
        assert!(line.chars().count() <= 80, "longer than 80 columns; shorten the summary: {line}");
    }
}

#[test]
fn the_catalogue_is_current() {
    let page = run(&["tasks", "--markdown"]).stdout;
    let kept = std::fs::read_to_string(support::root().join("docs/catalogue.md")).unwrap_or_default();
    let (new, old): (Vec<&str>, Vec<&str>) = (page.lines().collect(), kept.lines().collect());
    let first = (0..).find(|n| new.get(*n) != old.get(*n) || *n > new.len()).unwrap_or_default();
    assert!(
        page == kept,
        "docs/catalogue.md is not what the register of tasks says; `make catalogue` writes it anew.\n\
         line {}: {:?}\nshould be: {:?}",
        first + 1,
        old.get(first),
        new.get(first)
    );
}

#[test]
fn the_list_of_models_names_the_default() {
    let listed = run(&["models"]).stdout;
    assert!(listed.contains("efficientnet-lite0") && listed.contains("(default)"), "{listed}");
    let card: Value = serde_json::from_str(&run(&["models", "efficientnet-lite0", "--json"]).stdout).unwrap();
    assert_eq!(card["card"]["input"]["width"], 224);
}

#[test]
fn every_task_has_its_schemas_and_examples() {
    let all: Value = serde_json::from_str(&run(&["tasks", "--json"]).stdout).unwrap();
    let tasks = all.as_array().unwrap();
    assert!(!tasks.is_empty(), "the list above has them all");
    for task in tasks {
        let name = task["about"]["name"].as_str().unwrap();
        assert!(!task["about"]["examples"].as_array().unwrap().is_empty(), "{name}");
        for schema in ["input", "options", "output"] {
            assert!(task["schemas"][schema].is_object(), "{name} {schema}");
        }
    }
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).stdout;
        assert!(script.contains("doctor") && script.contains("range"), "{shell}");
    }
}

#[test]
fn the_settings_in_force_are_shown_with_their_origin() {
    let shown = support::tidemill(&["doctor", "--config"]).env("TIDEMILL__WORKER__THREADS", "3").output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let line = shown.lines().find(|line| line.trim_start().starts_with("threads = 3")).unwrap();
    assert!(line.contains("TIDEMILL__WORKER__THREADS"), "{line}");
}

#[test]
fn help_of_the_commands_that_ask_a_cluster() {
    for command in ["status", "results", "cancel", "verify", "dead", "workers"] {
        assert_snapshot!(format!("help_of_{command}"), run(&[command, "--help"]).stdout);
    }
    for command in ["list", "show", "replay", "drop"] {
        assert_snapshot!(format!("help_of_dead_{command}"), run(&["dead", command, "--help"]).stdout);
    }
}
