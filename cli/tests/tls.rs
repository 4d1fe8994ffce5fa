//! A cluster whose servers are spoken to with TLS, under an authority that nobody knows but by `SSL_CERT_FILE`.
#![allow(clippy::unwrap_used, reason = "a test may end so")]

mod mill_cluster;

use tidemill_testing::{Certificates, Rabbit, Redis, or_skip};

use self::mill_cluster::{Cluster, count};

/// Where to find certificates that are trusted.
const TRUSTED: &str = "SSL_CERT_FILE";

/// A cluster with TLS, which trusts nobody yet; and what it is to trust.
fn cluster() -> Option<(Cluster, Certificates)> {
    let certificates = or_skip(Certificates::make())?;
    let (rabbit, broker) = or_skip(Rabbit::own_with_tls(&certificates))?;
    let (redis, store) = or_skip(Redis::own_with_tls(&certificates))?;
    let cluster = Cluster::of(rabbit, redis)
        .with("TIDEMILL__BROKER__URL", &format!("amqps://127.0.0.1:{broker}"))
        .with("TIDEMILL__STORE__URL", &format!("rediss://127.0.0.1:{store}"));
    Some((cluster, certificates))
}

#[test]
fn a_batch_goes_its_way_through_servers_with_tls() {
    let Some((cluster, certificates)) = cluster() else { return };
    let cluster = cluster.with(TRUSTED, certificates.authority().to_str().unwrap());
    let _api = cluster.api();
    let _worker = cluster.worker();

    let batch = cluster.until_ok(&["submit", "compute.map", "--range", "0..1000", "-o", "expr=x*x", "-q"]);

    let outcomes = cluster.must_be_sound(batch.trim(), 1000);
    assert_eq!(count(&outcomes, "ok"), 1000);
    let told = String::from_utf8(cluster.run(&["doctor"]).stdout).unwrap();
    for well in ["✔ RabbitMQ lets us in", "✔ Redis lets us in"] {
        assert!(told.contains(well), "{told}");
    }
}

#[test]
fn servers_whose_certificate_nobody_vouches_for_are_not_spoken_to() {
    let Some((cluster, _certificates)) = cluster() else { return };
    // Another authority's, so that the machine's own does not matter.
    let Some(others) = or_skip(Certificates::make()) else { return };
    let cluster = cluster.with(TRUSTED, others.authority().to_str().unwrap());

    let told = String::from_utf8(cluster.run(&["doctor"]).stdout).unwrap();

    for ill in ["RabbitMQ lets us in", "Redis lets us in"] {
        assert!(!told.contains(ill), "{told}");
    }
    assert!(told.contains("✔ RabbitMQ listens at ") && told.contains("✔ Redis listens at "), "{told}");
    let reasons = told.lines().filter(|line| line.contains("certificate")).count();
    assert!(reasons >= 2, "it says why of both: {told}");
}
