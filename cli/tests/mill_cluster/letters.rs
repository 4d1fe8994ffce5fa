//! Messages that are none: of every sort, by a seeded fuzzer, straight to the queues of jobs and of outcomes; and some that
//! ask for what nobody may have.

use std::ops::Range;

use futures::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, PublisherConfirm};

use super::cluster::PATIENCE;
use super::cluster::proxy::{MARRED, Proxy};

/// How many sorts of letters there are.
const SORTS: usize = 18;

const GOOD: &str = r#"{"v":1,"batch":{"id":"fuzz","task":"compute.map","options":{"expr":"x"},"retry":{"attempts":1,"base":1,"max":1},"timeout":1000},"attempt":1,"items":[[0,1]]}"#;

/// Where they go: a third of each sort to the collector.
const QUEUES: [&str; 6] = [
    "tidemill.results",
    "tidemill.jobs.cpu",
    "tidemill.jobs.wait",
    "tidemill.results",
    "tidemill.jobs.cpu.urgent",
    "tidemill.jobs.cpu",
];

/// What the reasons of the sorts say, each in some of a thousand.
pub(crate) const REASONS: [&str; 15] = [
    " bytes are more than the ",
    "expected value",
    "EOF while parsing",
    "version 7 is not spoken here",
    "no task is called \"no.such.task\"",
    "options of compute.map: ",
    "this is nothing for the queue of outcomes",
    "no batch id",
    "no plain relative path",
    "ascending order of index",
    "its type is \"\"",
    "its type is \"no.such.type\"",
    "its type is \"(its properties are not UTF-8)\"",
    "integer `-1`",
    "above the largest",
];

/// The batch of [`hostile`], and how many items it has.
pub(crate) const HOSTILE: (&str, u64) = ("hostile", 4);

/// A channel with confirms, and what keeps it.
async fn channel(port: u16) -> (Connection, Channel) {
    let url = format!("amqp://127.0.0.1:{port}");
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    (connection, channel)
}

async fn publish(channel: &Channel, queue: &str, properties: BasicProperties, body: &[u8]) -> PublisherConfirm {
    let (exchange, options) = ("tidemill".into(), BasicPublishOptions::default());
    channel.basic_publish(exchange, queue.into(), options, body, properties).await.unwrap()
}

/// Publishes those of these numbers; each is refused for a reason of its own sort.
pub(crate) async fn send(port: u16, numbers: Range<usize>) {
    let proxy = Proxy::marring(port);
    let (_connection, channel) = channel(proxy.port()).await;
    let mut confirms = Vec::new();
    for n in numbers {
        let (kind, body) = letter(n);
        let properties = marred(n, BasicProperties::default().with_delivery_mode(2).with_type(kind.into()));
        confirms.push(publish(&channel, QUEUES[n / SORTS % QUEUES.len()], properties, &body).await);
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

/// Publishes a good message.
async fn say(channel: &Channel, queue: &str, kind: &str, body: &str) {
    let properties = BasicProperties::default().with_delivery_mode(2).with_type(kind.into());
    assert!(publish(channel, queue, properties, body.as_bytes()).await.await.unwrap().is_ack());
}

/// Begins and ends the batch to which the letters belong that can be read so far: of an unknown one the outcomes of refused
/// items would be dead letters too, in the end.
pub(crate) async fn introduce(port: u16) {
    let (_connection, channel) = channel(port).await;
    let open = GOOD.replace(r#","attempt":1,"items":[[0,1]]"#, "");
    say(&channel, "tidemill.results", "tidemill.open", &open).await;
    say(&channel, "tidemill.results", "tidemill.seal", r#"{"v":1,"batch":"fuzz","total":1}"#).await;
}

/// A batch that is good in all but what it asks for: pages of the machine itself and of its cloud, by address, in another
/// spelling of it, and as the place where a file's bytes lie.
pub(crate) async fn hostile(port: u16) {
    let (_connection, channel) = channel(port).await;
    let (id, total) = HOSTILE;
    let batch = format!(
        r#"{{"id":"{id}","task":"text.count","options":{{"word":"root"}},"retry":{{"attempts":1,"base":1,"max":1}},"timeout":60000}}"#
    );
    let items = format!(
        r#"[0,{{"path":"http://169.254.169.254/latest/meta-data/"}}],[1,{{"path":"http://[::ffff:169.254.169.254]/"}}],[2,{{"path":"http://127.0.0.1:{port}/"}}],[3,{{"path":"a.txt"}},"a.txt","http://0x7f.1:{port}/"]"#
    );
    say(&channel, "tidemill.results", "tidemill.open", &format!(r#"{{"v":1,"batch":{batch}}}"#)).await;
    let chunk = format!(r#"{{"v":1,"batch":{batch},"attempt":1,"items":[{items}]}}"#);
    say(&channel, "tidemill.jobs.cpu", "tidemill.chunk", &chunk).await;
    let seal = format!(r#"{{"v":1,"batch":"{id}","total":{total}}}"#);
    say(&channel, "tidemill.results", "tidemill.seal", &seal).await;
}

/// Why the first so many dead letters lie where they do, and there they stay. (A consumer of a quorum queue holds 2,000 at
/// most.)
pub(crate) async fn reasons(port: u16, count: usize) -> Vec<String> {
    let (connection, channel) = channel(port).await;
    let (queue, options) = ("tidemill.dead".into(), BasicConsumeOptions::default());
    let mut letters = channel.basic_consume(queue, "".into(), options, FieldTable::default()).await.unwrap();
    let mut reasons = Vec::new();
    while reasons.len() < count {
        let letter = tokio::time::timeout(PATIENCE, letters.next()).await.expect("they are there").unwrap().unwrap();
        let headers = letter.properties.headers().as_ref().expect("it has a header");
        let Some(AMQPValue::LongString(reason)) = headers.inner().get("reason") else { panic!("none: {headers:?}") };
        reasons.push(String::from_utf8(reason.as_bytes().to_vec()).unwrap());
    }
    connection.close(200, "seen".into()).await.unwrap();
    reasons
}

/// Those letters that are good in all else have a property or a header that is not UTF-8.
fn marred(n: usize, properties: BasicProperties) -> BasicProperties {
    match n % SORTS {
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
    match n % SORTS {
        // Twenty mebibytes once to the collector and once to a worker, then what is cheaper.
        0 if n <= SORTS => (chunk, vec![b' '; 20 << 20]),
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
