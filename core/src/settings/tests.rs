//! What settings promise.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{File, FileFormat, Source, ValueKind};

use super::{DEFAULTS, Loaded, SettingsError, format_size, parse_duration, parse_size};
use super::{Device, ErrorKind, LogFormat, Origin, Precision, Settings, Sources};

/// A world with a settings file, an environment and a command line.
#[derive(Default)]
struct World {
    folder: Option<tempfile::TempDir>,
    sources: Sources,
}

impl World {
    fn new() -> Self {
        Self::default()
    }

    fn folder(&mut self) -> &Path {
        self.folder.get_or_insert_with(|| tempfile::tempdir().unwrap()).path()
    }

    fn file(mut self, text: &str) -> Self {
        let path = self.folder().join("mine.toml");
        fs::write(&path, text).unwrap();
        self.sources.config_file = Some(path);
        self
    }

    fn secret(mut self, name: &str, text: &str) -> Self {
        fs::write(self.folder().join(name), text).unwrap();
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.env.push((name.into(), value.into()));
        self
    }

    fn flag(mut self, key: &str, value: &str) -> Self {
        self.sources.overrides.push((key.into(), value.into()));
        self
    }

    fn load(&self) -> Result<Loaded, SettingsError> {
        Settings::load(self.sources.clone())
    }

    fn settings(&self) -> Settings {
        self.load().unwrap().settings
    }

    /// The error's text, with the world's own folder written as `DIR`.
    fn error(&self) -> String {
        let text = self.load().expect_err("these settings should be refused").to_string();
        match &self.folder {
            Some(folder) => text.replace(&*folder.path().to_string_lossy(), "DIR"),
            None => text,
        }
    }

    fn shown(&self, key: &str) -> String {
        let loaded = self.load().unwrap();
        let entry = loaded.entries().find(|entry| entry.key == key).unwrap();
        format!("{} # {}", entry.value, entry.origin)
    }
}

#[test]
fn the_built_in_settings_are_good() {
    let settings = Settings::default();

    assert!(settings.broker.url.is_memory());
    assert_eq!(settings.broker.queue_bytes, 256 << 20);
    assert_eq!(settings.worker.name, None);
    assert_eq!(settings.task.timeout, Duration::from_secs(600));
    assert_eq!(settings.vision.models, [PathBuf::from("models")]);
    assert_eq!(settings.vision.device, Device::Auto);
    assert_eq!(settings.vision.precision, Precision::Auto);
    assert_eq!(settings.log.format, LogFormat::Text);
}

#[test]
fn every_key_of_default_toml_is_read_and_every_field_has_its_key() {
    // `deny_unknown_fields` and missing fields make serde itself compare both lists; files of secrets are the one
    // kind of key that is used up while loading.
    let table = File::from_str(DEFAULTS, FileFormat::Toml).collect().unwrap();
    let mut keys = BTreeSet::new();
    for (section, value) in table {
        let ValueKind::Table(inner) = value.kind else { panic!("{section} is no section") };
        keys.extend(inner.into_keys().map(|key| format!("{section}.{key}")));
    }

    let loaded = Settings::load(Sources::default()).unwrap();

    let told: BTreeSet<_> = loaded.entries().map(|entry| entry.key.to_owned()).collect();
    assert_eq!(told, keys);
    let used_up: Vec<_> = keys.iter().filter(|key| super::layers::names_secret_file(key)).collect();
    assert_eq!(used_up, ["api.token_file", "broker.password_file", "store.password_file"]);
}

#[test]
fn every_key_of_default_toml_is_described() {
    let lines: Vec<_> = DEFAULTS.lines().collect();
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| line.contains(" = ") && !line.starts_with('#')) {
        let companion = line.contains("_file");
        assert!(companion || lines[number - 1].starts_with('#'), "{line} has no comment above it");
    }
}

#[test]
fn the_later_layer_wins_key_by_key() {
    let world = World::new().file("[retry]\nattempts = 5\nbase = \"1s\"\nmax = \"2m\"");
    assert_eq!(world.settings().retry.attempts, 5);

    let world = world.env("TIDEMILL__RETRY__ATTEMPTS", "6").env("TIDEMILL__RETRY__BASE", "2s");
    assert_eq!(world.settings().retry.attempts, 6);

    let world = world.flag("retry.attempts", "7");
    let loaded = world.load().unwrap();

    assert_eq!(loaded.settings.retry.attempts, 7);
    assert_eq!(loaded.settings.retry.base, Duration::from_secs(2));
    assert_eq!(loaded.settings.retry.max, Duration::from_secs(120));
    assert_eq!(loaded.settings.chunk.max_items, 4096);
    assert_eq!(loaded.origin("retry.attempts"), Some(&Origin::CommandLine));
    assert_eq!(loaded.origin("retry.base"), Some(&Origin::Environment("TIDEMILL__RETRY__BASE".into())));
    assert_eq!(loaded.origin("retry.max"), world.sources.config_file.clone().map(Origin::File).as_ref());
    assert_eq!(loaded.origin("chunk.max_items"), Some(&Origin::Default));
    assert_eq!(loaded.origin("no.such"), None);
}

#[test]
fn the_environment_can_name_the_file_and_the_flag_goes_before_it() {
    let mut world = World::new().file("[worker]\nname = \"from-flag\"");
    let other = world.folder().join("other.toml");
    fs::write(&other, "[worker]\nname = \"from-env\"").unwrap();

    let mut world = world.env("TIDEMILL_CONFIG", other.to_str().unwrap());
    assert_eq!(world.settings().worker.name.as_deref(), Some("from-flag"));

    world.sources.config_file = None;
    assert_eq!(world.settings().worker.name.as_deref(), Some("from-env"));
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let world = World::new().env("TIDEMILL__BROKER__URL", "").env("TIDEMILL_CONFIG", "");

    assert!(world.settings().broker.url.is_memory());
}

#[test]
fn values_from_the_environment_take_the_kind_of_their_key() {
    let settings = World::new()
        .env("TIDEMILL__IMAGE__MAX_PIXELS", "250_000_000")
        .env("TIDEMILL__VISION__MODELS", "models, /opt/models")
        .env("TIDEMILL__VISION__DEVICE", "cuda:1")
        .env("TIDEMILL__WORKER__NAME", "42")
        .settings();

    assert_eq!(settings.image.max_pixels, 250_000_000);
    assert_eq!(settings.vision.models, [PathBuf::from("models"), PathBuf::from("/opt/models")]);
    assert_eq!(settings.vision.device, Device::Cuda(vec![1]));
    assert_eq!(settings.worker.name.as_deref(), Some("42"));
}

#[test]
fn devices_are_one_or_several_or_all_of_a_kind() {
    for (text, device, shown) in [
        ("auto", Device::Auto, "auto"),
        ("cpu", Device::Cpu, "cpu"),
        ("cuda", Device::Cuda(vec![]), "cuda"),
        ("cuda:3", Device::Cuda(vec![3]), "cuda:3"),
        ("cuda:1, cuda:0,cuda:1", Device::Cuda(vec![0, 1]), "cuda:0,cuda:1"),
    ] {
        assert_eq!(text.parse(), Ok(device.clone()));
        assert_eq!(device.to_string(), shown);
    }
    for text in ["gpu", "cuda:", "cuda:x", "CPU", "", "cpu,cuda:0", "cuda:0,"] {
        assert!(text.parse::<Device>().is_err(), "{text}");
    }
}

#[test]
fn paths_in_a_file_begin_at_that_files_folder_and_others_where_the_command_runs() {
    let mut world = World::new().file("[vision]\nmodels = [\"mine\", \"/abs\"]\nlibtorch = \"torch\"");
    let folder = world.folder().to_owned();
    let settings = world.settings();
    assert_eq!(settings.vision.models, [folder.join("mine"), PathBuf::from("/abs")]);
    assert_eq!(settings.vision.libtorch, Some(folder.join("torch")));

    let settings = world.env("TIDEMILL__VISION__MODELS", "here").settings();
    assert_eq!(settings.vision.models, [PathBuf::from("here")]);
}

#[test]
fn rust_log_is_the_log_level_unless_the_setting_is_set_too() {
    let world = World::new().env("RUST_LOG", "debug");
    assert_eq!(world.shown("log.level"), "\"debug\" # environment variable RUST_LOG");

    let world = world.env("TIDEMILL__LOG__LEVEL", "error");
    assert_eq!(world.shown("log.level"), "\"error\" # environment variable TIDEMILL__LOG__LEVEL");

    let world = world.flag("log.level", "trace");
    assert_eq!(world.shown("log.level"), "\"trace\" # command line");
}

#[test]
fn a_rust_log_that_is_meant_for_others_stops_nothing() {
    let world = World::new().env("RUST_LOG", "nonsense");

    assert_eq!(world.shown("log.level"), "\"warn\" # built-in default");
    let warnings = world.load().unwrap().warnings;
    assert_eq!(warnings, ["the environment variable RUST_LOG=nonsense is not a log filter, and ignored"]);
}

#[test]
fn a_variable_with_one_underscore_too_few_is_pointed_out() {
    let world = World::new().env("TIDEMILL_BROKER_URL", "amqp://rabbit").env("TIDEMILL_PORT", "tcp://10.0.0.1:80");

    let loaded = world.load().unwrap();

    assert!(loaded.settings.broker.url.is_memory());
    let hint = "the environment variable TIDEMILL_BROKER_URL is ignored; did you mean TIDEMILL__BROKER__URL?";
    assert_eq!(loaded.warnings, [hint]);
}

#[test]
fn secrets_may_come_from_files() {
    let world = World::new()
        .secret("broker-password", "s3cret\n")
        .file("[broker]\nurl = \"amqp://me@rabbit\"\npassword_file = \"broker-password\"");

    let loaded = world.load().unwrap();

    assert_eq!(loaded.settings.broker.password.as_ref().unwrap().expose(), "s3cret");
    assert!(
        matches!(loaded.origin("broker.password"), Some(Origin::SecretFile(path)) if path.ends_with("broker-password"))
    );
    assert!(!loaded.to_string().contains("s3cret"));
    assert!(!format!("{loaded:?}").contains("s3cret"));
}

#[test]
fn a_secret_in_a_later_layer_hides_the_one_below_whichever_way_each_is_given() {
    let world = World::new().secret("old", "old\n").file("[store]\npassword = \"\"\npassword_file = \"old\"");
    assert_eq!(world.settings().store.password.unwrap().expose(), "old");

    let world = world.env("TIDEMILL__STORE__PASSWORD", "new");
    assert_eq!(world.settings().store.password.unwrap().expose(), "new");
    assert_eq!(world.shown("store.password_file"), "\"\" # built-in default");
}

#[test]
fn a_copy_of_default_toml_with_one_secret_filled_in_works() {
    let text = DEFAULTS.replacen("password = \"\"", "password = \"p\"", 1);

    let settings = World::new().file(&text).settings();

    assert_eq!(settings.broker.password.unwrap().expose(), "p");
}

#[test]
fn nothing_that_is_shown_holds_a_secret() {
    let world = World::new()
        .env("TIDEMILL__BROKER__URL", "amqps://me:hunter2@rabbit:5671/mill")
        .env("TIDEMILL__STORE__URL", "redis://:hun/ter2@redis")
        .env("TIDEMILL__STORE__PASSWORD", "hunter2")
        .env("TIDEMILL__BLOBS__URL", "s3://bucket/path?region=eu&secret_access_key=hunter2");
    let loaded = world.load().unwrap();

    let text = format!("{loaded}\n{:?}", loaded.settings);

    assert!(!text.contains("ter2"), "{text}");
    assert_eq!(loaded.settings.broker.url.to_string(), "amqps://me:********@rabbit:5671/mill");
    assert_eq!(loaded.settings.broker.url.expose(), "amqps://me:hunter2@rabbit:5671/mill");
    assert_eq!(world.shown("store.url"), "\"redis://:********@redis\" # environment variable TIDEMILL__STORE__URL");
    assert_eq!(world.shown("store.password"), "\"********\" # environment variable TIDEMILL__STORE__PASSWORD");
    let blobs = loaded.settings.blobs.url.unwrap().to_string();
    assert_eq!(blobs, "s3://bucket/path?region=eu&secret_access_key=********");
}

#[test]
fn every_password_in_a_list_of_urls_is_starred() {
    let shown = |url: &str| World::new().env("TIDEMILL__BROKER__URL", url).settings().broker.url.to_string();

    for (url, starred) in [
        ("amqp://me:one@h1,amqp://me:two@h2", "amqp://me:********@h1,amqp://me:********@h2"),
        (
            "amqp://me:one@h1, amqps://me:t,wo@h2/v?heartbeat=3",
            "amqp://me:********@h1, amqps://me:********@h2/v?heartbeat=3",
        ),
        ("amqp://h1:5672,amqp://me:two@h2,amqp://me:three@h3", "amqp://h1:********@h2,amqp://me:********@h3"),
        ("amqp://me:one@h1/v,me:two@h2", "amqp://me:********@h2"),
        ("amqp://me:o,amqp://ne@h1", "amqp://me:********@h1"),
        ("amqp://h1,amqp://h2:5672/v", "amqp://h1,amqp://h2:5672/v"),
    ] {
        assert_eq!(shown(url), starred);
    }
}

#[test]
fn what_a_url_calls_a_credential_is_starred() {
    let world = World::new().env("TIDEMILL__BLOBS__URL", "gs://bucket/path?credential=aHVudGVyMg==&region=eu");

    let blobs = world.settings().blobs.url.unwrap().to_string();

    assert_eq!(blobs, "gs://bucket/path?credential=********&region=eu");
}

#[test]
fn an_error_about_a_url_stars_its_password_too() {
    let error = World::new().flag("broker.url", "ampq://me:hunter2@rabbit").error();

    insta::assert_snapshot!(error, @r#"
    invalid setting broker.url = "ampq://me:********@rabbit" from command line: unknown scheme
    it begins with one of memory://, amqp://, amqps://
    "#);
}

#[test]
fn what_is_shown_is_toml_that_gives_the_same_settings_again() {
    let shown = World::new().flag("worker.name", "a-1").load().unwrap().to_string();

    let again = World::new().file(&shown).load().unwrap();

    let values =
        |text: &str| text.lines().map(|line| line.split("  #").next().unwrap().trim().to_owned()).collect::<Vec<_>>();
    let models = |line: &String| !line.starts_with("models"); // the folder of the file has been put before it
    let (first, second) = (values(&shown), values(&again.to_string()));
    assert!(first.iter().filter(|line| models(line)).eq(second.iter().filter(|line| models(line))));
}

#[test]
fn the_settings_are_shown_with_their_origins() {
    let world = World::new().env("TIDEMILL__TASK__TIMEOUT", "30s");

    insta::assert_snapshot!(world.load().unwrap().to_string());
}

#[test]
fn unknown_keys_come_with_the_nearest_name() {
    let errors = [
        World::new().file("[brocker]\nurl = \"memory://\"").error(),
        World::new().file("[worker]\ntimeout = \"30s\"").error(),
        World::new().file("[log]\ncolours = true").error(),
        World::new().file("[kitchen]\nstoves = 3").error(),
        World::new().file("broker = \"amqp://rabbit\"").error(),
        World::new().env("TIDEMILL__RETRY__ATEMPTS", "3").error(),
        World::new().env("TIDEMILL__BROKER_URL", "amqp://rabbit").error(),
        World::new().flag("chunk.max-items", "3").error(),
    ];

    insta::assert_snapshot!(errors.join("\n\n"));
}

#[test]
fn bad_values_are_told_with_key_origin_and_remedy() {
    let errors = [
        World::new().env("TIDEMILL__TASK__TIMEOUT", "30").error(),
        World::new().file("[task]\ntimeout = 30").error(),
        World::new().flag("task.timeout", "soon").error(),
        World::new().flag("task.timeout", "0s").error(),
        World::new().flag("retry.max", "100ms").error(),
        World::new().flag("run.window", "64M").error(),
        World::new().flag("run.window", "1KiB").error(),
        World::new().flag("run.window", "lots").error(),
        World::new().flag("worker.threads", "-1").error(),
        World::new().file("[worker]\nthreads = true").error(),
        World::new().flag("worker.waiting", "0").error(),
        World::new().flag("retry.attempts", "5000000000").error(),
        World::new().flag("vision.device", "gpu").error(),
        World::new().flag("vision.device", "cdua").error(),
        World::new().flag("vision.precision", "fp8").error(),
        World::new().flag("vision.default_model", "../secrets").error(),
        World::new().file("[vision]\nmodels = 3").error(),
        World::new().flag("log.level", "inf").error(),
        World::new().flag("log.level", "tidemill=loud").error(),
        World::new().flag("log.format", "xml").error(),
        World::new().flag("store.url", "localhost:6379").error(),
        World::new().flag("blobs.url", "file://").error(),
        World::new().file("[worker]\nname = [\"a\"]").error(),
    ];

    insta::assert_snapshot!(errors.join("\n\n"));
}

#[test]
fn a_lane_is_served_once() {
    let error = World::new().file("[worker]\nlanes = [\"cpu\", \"wait\", \"cpu\"]").error();

    assert!(error.contains("worker.lanes") && error.contains("cpu stands there twice"), "{error}");
}

#[test]
fn hosts_are_names_without_scheme_and_port() {
    let settings = World::new().env("TIDEMILL__API__HOSTS", "mill.example, mill-2").settings();
    assert_eq!(settings.api.hosts, ["mill.example", "mill-2"]);

    for bad in ["http://mill.example", "mill.example:8460", "*.example"] {
        let error = World::new().flag("api.hosts", bad).error();
        assert!(error.contains("api.hosts") && error.contains("without scheme and port"), "{error}");
    }
}

#[test]
fn a_chunk_is_no_larger_than_a_message_has_room_for() {
    assert_eq!(World::new().flag("chunk.max_bytes", "6MiB").settings().chunk.max_bytes, 6 << 20);

    let error = World::new().flag("chunk.max_bytes", "7MiB").error();

    assert!(error.contains("chunk.max_bytes") && error.contains("it is at most 6MiB"), "{error}");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let mut missing = World::new();
    missing.sources.config_file = Some("no/such/file.toml".into());
    let errors = [
        missing.error(),
        World::new().file("[worker\nthreads = 3").error(),
        World::new().file("[worker]\nthreads = 3\nthreads = 4").error(),
        World::new().file("[store]\npassword = hunter2").error(),
        World::new().file("[api]\ntoken = hunter2").error(),
        World::new().file("[api]\ntoken = \"hunter2\n").error(),
        World::new().file("[broker]\npassword_file = \"gone\"").error(),
        World::new().secret("empty", "\n").file("[broker]\npassword_file = \"empty\"").error(),
        World::new().secret("p", "x").file("[broker]\npassword = \"x\"\npassword_file = \"p\"").error(),
    ];

    insta::assert_snapshot!(errors.join("\n\n"));
}

#[test]
fn an_error_can_be_matched_on() {
    let error = World::new().flag("task.timeout", "30").load().unwrap_err();

    assert_eq!(error.kind, ErrorKind::InvalidValue);
    assert_eq!(error.key.as_deref(), Some("task.timeout"));
    assert_eq!(error.origin, Origin::CommandLine);
}

#[test]
fn sizes_are_read_as_people_write_them() {
    let good =
        [("0", 0), ("512", 512), ("1_000B", 1000), ("64MiB", 64 << 20), ("64 mib", 64 << 20), ("64MB", 64_000_000)];
    for (text, bytes) in good {
        assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
    }
    assert_eq!(parse_size("1.5GiB").unwrap(), 3 << 29);
    for bad in ["", "MiB", "-1MiB", "64M", "1.2.3MB", "64 miles", "99999999TiB", "1e400"] {
        assert!(parse_size(bad).is_err(), "{bad}");
    }
}

#[test]
fn sizes_are_written_so_that_they_can_be_read_again() {
    for bytes in [0, 1, 999, 1 << 10, 64 << 20, 3 << 40] {
        assert_eq!(parse_size(&format_size(bytes)).unwrap(), bytes);
    }
    assert_eq!(format_size(1_572_864), "1.5MiB");
}

#[test]
fn times_need_their_unit() {
    assert_eq!(parse_duration("1h 30m").unwrap(), Duration::from_secs(5400));
    assert_eq!(parse_duration(" 250ms ").unwrap(), Duration::from_millis(250));
    for bad in ["", "30", "1.5", "-3s", "soon", "5 parsecs"] {
        assert!(parse_duration(bad).is_err(), "{bad}");
    }
}
