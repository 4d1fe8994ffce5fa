use tidemill_core::blobs::{Blobs, FetchLimits};
use tidemill_core::compute;

use super::*;

async fn run(fields: serde_json::Value) -> Output {
    let limits = FetchLimits { max_bytes: 1, timeout: Duration::from_secs(1) };
    let tools = Tools::new(compute::Pool::new(1).unwrap(), Blobs::without_store(limits));
    let fields = serde_json::from_value(fields).unwrap();
    let batch = Fields { tick_ms: Some(0), samples: Some(60), racks: Some(5), ..Fields::default() };
    Arc::new(Thermometers).run(Arc::new(batch), fields, tools).await.unwrap()
}

#[tokio::test]
async fn readings_flow_tick_by_tick_and_the_same_seed_gives_the_same_in_the_same_order() {
    let (one, two) = (run(serde_json::json!({ "seed": 4 })).await, run(serde_json::json!({ "seed": 4 })).await);

    let places: Vec<(usize, usize)> = one.readings.iter().map(|reading| (reading.sample, reading.rack)).collect();
    let expected: Vec<(usize, usize)> = (0..60).flat_map(|sample| (1..=5).map(move |rack| (sample, rack))).collect();
    assert_eq!(places, expected);
    assert_eq!((&one.readings, &one.alerts, &one.commands), (&two.readings, &two.alerts, &two.commands));
    assert_ne!(one.readings, run(serde_json::json!({ "seed": 5 })).await.readings);
}

#[tokio::test]
async fn every_alert_is_above_the_threshold_and_answered_and_the_answer_is_felt() {
    let output = run(serde_json::json!({ "seed": 4, "cooling": 8 })).await;

    assert!(output.alerts.len() > 3, "{:?}", output.alerts);
    assert!(output.alerts.iter().all(|alert| alert.celsius > 55.0));
    let answered: Vec<_> = output.commands.iter().filter(|command| command.action == Action::Cool).collect();
    assert_eq!(answered.len(), output.alerts.len());
    for (command, alert) in answered.iter().zip(&output.alerts) {
        assert_eq!((command.sample, command.rack, command.celsius[0]), (alert.sample, alert.rack, alert.celsius));
        if let [first, next, ..] = command.celsius[..] {
            assert!(next < first, "{command:?}");
        }
    }
    for rest in output.commands.iter().filter(|command| command.action == Action::Rest) {
        assert!(rest.celsius[0] < 50.0, "{rest:?}");
    }
}

#[tokio::test]
async fn each_command_has_what_its_rack_showed_until_its_next_one() {
    let fields = serde_json::json!({ "racks": 20, "samples": 200, "threshold_c": 48, "cooling": 9 });

    let output = run(fields).await;

    let racks = |rack: usize| output.readings.iter().filter(move |reading| reading.rack == rack);
    assert!(output.commands.len() > 200, "{}", output.commands.len());
    for (number, command) in output.commands.iter().enumerate() {
        let next = output.commands[number + 1..].iter().find(|next| next.rack == command.rack);
        let until = next.map_or(199, |next| next.sample);
        let shown = racks(command.rack).filter(|reading| (command.sample..=until).contains(&reading.sample));
        assert_eq!(command.celsius, shown.map(|reading| reading.celsius).collect::<Vec<_>>(), "{command:?}");
    }
}

#[tokio::test]
async fn without_an_answer_the_same_hall_stays_hot_from_the_first_alert_on() {
    let cooled = run(serde_json::json!({ "seed": 4 })).await;
    let left = run(serde_json::json!({ "seed": 4, "cooling": 0 })).await;

    assert!(left.commands.is_empty() && !left.alerts.is_empty());
    let first = cooled.alerts[0];
    assert_eq!(left.alerts[0], first);
    let at = |output: &Output| output.readings.iter().position(|reading| *reading == first).unwrap();
    assert_eq!(cooled.readings[..=at(&cooled)], left.readings[..=at(&left)], "until then nothing was different");
    let rack = |output: &Output| -> Vec<f64> {
        let after = output.readings.iter().filter(|r| r.rack == first.rack && r.sample > first.sample);
        after.map(|reading| reading.celsius).collect()
    };
    let mean = |readings: &[f64]| readings.iter().sum::<f64>() / readings.len() as f64;
    assert!(rack(&cooled)[0] < rack(&left)[0]);
    assert!(mean(&rack(&cooled)) + 2.0 < mean(&rack(&left)), "{:?} {:?}", rack(&cooled), rack(&left));
}

#[tokio::test(start_paused = true)]
async fn a_tick_goes_by_between_samples_and_not_between_racks() {
    let began = tokio::time::Instant::now();
    run(serde_json::json!({ "tick_ms": 1000, "samples": 11, "racks": 100 })).await;
    assert_eq!(began.elapsed(), Duration::from_secs(10));
}

#[test]
fn what_is_out_of_range_is_refused() {
    for (field, json) in [
        ("racks", "{\"racks\":0}"),
        ("racks", "{\"racks\":1001}"),
        ("samples", "{\"samples\":0}"),
        ("threshold_c", "{\"threshold_c\":1e9}"),
        ("cooling", "{\"cooling\":-1}"),
        ("tick_ms", "{\"tick_ms\":60001}"),
        ("racks × samples", "{\"racks\":1000,\"samples\":10000}"),
    ] {
        let error = Thermometers.plan(serde_json::from_str(json).unwrap()).unwrap_err();
        assert!(error.0.starts_with(field), "{json}: {error}");
    }
    for json in ["{\"racks\":-1}", "{\"racks\":1.5}", "{\"racks\":\"3\"}", "{\"seed\":-1}", "{\"fans\":1}"] {
        assert!(serde_json::from_str::<Fields>(json).is_err(), "{json}");
    }
}
