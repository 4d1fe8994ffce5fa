//! Messages that are none: of every sort, by a seeded fuzzer, straight to the queue of jobs.

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};

use super::cluster::proxy::{MARRED, Proxy};

const GOOD: &str = r#"{"v":1,"batch":{"id":"fuzz","task":"compute.map","options":{"expr":"x"},"retry":{"attempts":1,"base":1,"max":1},"timeout":1000},"attempt":1,"items":[[0,1]]}"#;

/// Publishes so many; each is refused for a reason of its own sort.
pub(crate) async fn send(port: u16, count: usize) {
    let proxy = Proxy::marring(port);
    let url = format!("amqp://127.0.0.1:{}", proxy.port());
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let mut confirms = Vec::new();
    for n in 0..count {
        let (kind, body) = letter(n);
        let properties = marred(n, BasicProperties::default().with_delivery_mode(2).with_type(kind.into()));
        let queue = ["tidemill.jobs.cpu", "tidemill.jobs.wait", "tidemill.jobs.cpu.urgent"][n % 3];
        let publishing =
            channel.basic_publish("tidemill".into(), queue.into(), BasicPublishOptions::default(), &body, properties);
        confirms.push(publishing.await.unwrap());
        if confirms.len() == 200 {
            for confirm in confirms.drain(..) {
                assert!(confirm.await.unwrap().is_ack());
            }
        }
    }
    for confirm in confirms {
        assert!(confirm.await.unwrap().is_ack());
    }
}

/// Those letters that are good in all else have a property or a header that is not UTF-8.
fn marred(n: usize, properties: BasicProperties) -> BasicProperties {
    match n % 18 {
        15 => properties.with_message_id(MARRED.into()),
        16 => {
            let mut headers = FieldTable::default();
            headers.insert(MARRED.into(), AMQPValue::LongLongInt(1));
            properties.with_headers(headers)
        }
        _ => properties,
    }
}

fn letter(n: usize) -> (&'static str, Vec<u8>) {
    let chunk = "tidemill.chunk";
    let changed = |from: &str, to: &str| GOOD.replace(from, to).into_bytes();
    match n % 18 {
        // Twenty mebibytes once, then what is cheaper.
        0 if n == 0 => (chunk, vec![b' '; 20 << 20]),
        0 => (chunk, vec![0xff; n % 300]),
        1 => (chunk, GOOD.as_bytes()[..n % GOOD.len()].to_vec()),
        2 => (chunk, b"[".repeat(100_000.min(n + 200))),
        3 => (chunk, changed("\"v\":1", "\"v\":7")),
        4 => (chunk, changed("compute.map", "no.such.task")),
        5 => (chunk, changed("\"id\":\"fuzz\"", "\"id\":\"../../etc\"")),
        6 => (chunk, changed("[[0,1]]", "[[0,1,\"../../etc/passwd\"]]")),
        7 => (chunk, changed("[[0,1]]", "[[9,1],[3,1]]")),
        8 => (chunk, changed("[[0,1]]", "[]")),
        9 => ("tidemill.outcomes", GOOD.as_bytes().to_vec()),
        10 => ("", GOOD.as_bytes().to_vec()),
        11 => ("no.such.type", GOOD.as_bytes().to_vec()),
        12 => (chunk, changed("\"attempt\":1", "\"attempt\":-1")),
        13 => (chunk, changed("[[0,1]]", "[[18446744073709551615,1]]")),
        14 => (chunk, changed("\"expr\":\"x\"", "\"expr\":\"system(1)\"")),
        15 | 16 => (chunk, GOOD.as_bytes().to_vec()),
        _ => {
            // One byte of a good one, changed at random; what is still good is made bad.
            let mut body = GOOD.as_bytes().to_vec();
            let place = n.wrapping_mul(7919) % body.len();
            body[place] = u8::try_from(n.wrapping_mul(31) % 256).unwrap();
            body.push(b'}');
            (chunk, body)
        }
    }
}
