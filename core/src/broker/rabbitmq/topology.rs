//! What the queues and exchanges are called, and how they are declared. `docs/wire.md` tells it to other languages.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{try_join, try_join_all};
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ErrorKind, ExchangeKind};

use super::Used;
use super::link::{Live, why};
use crate::batch::Priority;
use crate::broker::{BrokerError, BrokerErrorKind, Message, Queue};
use crate::task::Lane;

/// Which messages go where. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    prefix: Arc<str>,
    /// What is declared at every connect, where that is not everything.
    used: Option<Arc<Used>>,
}

/// Where a message is published.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) exchange: String,
    pub(super) key: String,
    /// Milliseconds that it waits there.
    pub(super) delay: Option<u64>,
}

/// How often the broker hands a message out before it gives it up: never, by any measure. Who is guilty of a crash is
/// found out by us (see the worker's suspects), and an innocent that was merely near must not be dropped.
const DELIVERY_LIMIT: i64 = 1_000_000_000;

/// What workers say of themselves is forgotten after this long, and beyond so many.
const WORKERS_TTL: Duration = Duration::from_secs(30);
const WORKERS_MAX: i64 = 10_000;

/// What is not urgent, and the least urgent of what is.
const PLAIN: Priority = Priority(0);
const URGENT: Priority = Priority(1);

/// The shortest and the longest of the queues in which messages wait; each holds delays up to twice those of the one
/// before it.
const FIRST_STEP_MS: u64 = 250;
const LAST_STEP_MS: u64 = 250 << 20;

impl Topology {
    /// Declares everything, or what is used.
    pub(super) fn new(prefix: &str, used: Option<Used>) -> Self {
        Self { prefix: prefix.into(), used: used.map(Arc::new) }
    }

    /// The queues that are one to our callers, the most urgent first: what is to be done has one of its own for messages of
    /// a priority above 0, for brokers before 4.0 know no priorities in quorum queues.
    pub(super) fn names(&self, queue: Queue) -> Vec<String> {
        match queue {
            Queue::Jobs(_) => vec![self.key(queue, URGENT), self.key(queue, PLAIN)],
            _ => vec![self.key(queue, PLAIN)],
        }
    }

    pub(super) fn dead(&self) -> Route {
        Route { exchange: self.prefix.to_string(), key: self.key(Queue::Dead, PLAIN), delay: None }
    }

    pub(super) fn control(&self) -> Route {
        Route { exchange: format!("{}.control", self.prefix), key: String::new(), delay: None }
    }

    pub(super) fn route(&self, queue: Queue, message: &Message) -> Route {
        let key = self.key(queue, message.priority);
        if message.delay.is_zero() {
            return Route { exchange: self.prefix.to_string(), key, delay: None };
        }
        let delay = u64::try_from(message.delay.as_millis()).unwrap_or(u64::MAX).clamp(1, LAST_STEP_MS);
        Route { exchange: self.step(step(delay)), key, delay: Some(delay) }
    }

    /// A queue's names that are used.
    fn used_names(&self, queue: Queue) -> Vec<String> {
        self.used.as_ref().map_or_else(|| self.names(queue), |used| vec![self.key(queue, used.priority)])
    }

    /// The one of a queue's names to which messages of a priority go.
    fn key(&self, queue: Queue, priority: Priority) -> String {
        let [what, lane] = queue.parts();
        let urgent = if matches!(queue, Queue::Jobs(_)) && priority >= URGENT { ".urgent" } else { "" };
        [&*self.prefix, what, lane, urgent].concat()
    }

    fn step(&self, step_ms: u64) -> String {
        format!("{}.retry.{step_ms}", self.prefix)
    }

    /// Declares exchanges and queues, but for the retry steps; what is there already is left as it is. A mismatch closes the
    /// channel.
    pub(super) async fn declare(&self, channel: &Channel) -> Result<(), (BrokerErrorKind, String)> {
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let control = self.used.is_none().then(|| (self.control().exchange, ExchangeKind::Fanout));
        let exchanges = [(self.prefix.to_string(), ExchangeKind::Direct)].into_iter().chain(control);
        let exchanges = exchanges.map(|(name, kind)| async move {
            let declared = channel.exchange_declare(name.as_str().into(), kind, durable, FieldTable::default());
            declared.await.map_err(|error| mismatch("exchange", &name, &error))
        });
        let of_lanes = || Lane::ALL.into_iter().flat_map(|lane| [Queue::Jobs(lane), Queue::Suspects(lane)]);
        let all = || [Queue::Results, Queue::Dead, Queue::Workers].into_iter().chain(of_lanes()).collect();
        let queues = self.used.as_ref().map_or_else(all, |used| used.queues.clone());
        let queues =
            queues.into_iter().flat_map(|queue| self.used_names(queue).into_iter().map(move |name| (queue, name)));
        let queues = queues.map(|(queue, name)| async move {
            self.declare_queue(channel, &name, self.arguments(queue), &self.prefix).await
        });
        // The broker takes them one after the other, in this order; to wait for each answer was most of the time of a
        // short command.
        try_join(try_join_all(exchanges), try_join_all(queues)).await.map(drop)
    }

    /// Declares the queue for what is in a hurry, which goes with its last consumer.
    pub(super) async fn declare_express(&self, channel: &Channel, name: &str) -> Result<(), lapin::Error> {
        // Durable, for brokers from 4.3 on have no others that several may consume; its messages are not.
        let options = QueueDeclareOptions { durable: true, auto_delete: true, ..Default::default() };
        channel.queue_declare(name.into(), options, FieldTable::default()).await?;
        let (exchange, key) = (self.prefix.as_ref().into(), name.into());
        channel.queue_bind(name.into(), exchange, key, QueueBindOptions::default(), FieldTable::default()).await
    }

    async fn declare_queue(
        &self,
        channel: &Channel,
        name: &str,
        arguments: FieldTable,
        exchange: &str,
    ) -> Result<(), (BrokerErrorKind, String)> {
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        let declared = channel.queue_declare(name.into(), durable, arguments);
        let (exchange, key) = (exchange.into(), name.into());
        let bound = channel.queue_bind(name.into(), exchange, key, QueueBindOptions::default(), FieldTable::default());
        // The first to fail is why the other does.
        try_join(declared, bound).await.map(drop).map_err(|error| mismatch("queue", name, &error))
    }

    fn arguments(&self, queue: Queue) -> FieldTable {
        if queue == Queue::Workers {
            let ttl = i64::try_from(WORKERS_TTL.as_millis()).unwrap_or(i64::MAX);
            return table([
                ("x-message-ttl", AMQPValue::LongLongInt(ttl)),
                ("x-max-length", AMQPValue::LongLongInt(WORKERS_MAX)),
            ]);
        }
        let mut arguments = quorum();
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
        if queue != Queue::Dead {
            self.dead_letter(&mut arguments, Some(self.key(Queue::Dead, PLAIN)));
        }
        arguments
    }

    /// At least once: without it the broker drops a message where its way to the dead letters is not clear.
    fn dead_letter(&self, arguments: &mut FieldTable, key: Option<String>) {
        arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString(self.prefix.to_string().into()));
        arguments.insert("x-dead-letter-strategy".into(), AMQPValue::LongString("at-least-once".into()));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        if let Some(key) = key {
            arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(key.into()));
        }
    }

    /// Declares the exchange and the queue in which messages of that delay wait. When their time is over the broker
    /// sends them on by their own routing key, which is that of the queue they were meant for.
    pub(super) async fn declare_step(
        &self,
        connection: &Connection,
        delay_ms: u64,
    ) -> Result<(), (BrokerErrorKind, String)> {
        let name = self.step(step(delay_ms));
        let channel = connection.create_channel().await.map_err(|error| (BrokerErrorKind::Unreachable, why(&error)))?;
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel
            .exchange_declare(name.as_str().into(), ExchangeKind::Fanout, durable, FieldTable::default())
            .await
            .map_err(|error| mismatch("exchange", &name, &error))?;
        let mut arguments = quorum();
        self.dead_letter(&mut arguments, None);
        self.declare_queue(&channel, &name, arguments, &name).await
    }

    /// Messages that wait in a queue.
    pub(super) async fn depth(&self, live: &Live, queue: Queue) -> Result<u64, BrokerError> {
        let failed = |error: lapin::Error| BrokerError {
            kind: BrokerErrorKind::Unreachable,
            action: format!("count the messages in {}", self.key(queue, PLAIN)),
            reason: why(&error),
        };
        let channel = live.connection.create_channel().await.map_err(failed)?;
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let mut depth = 0;
        for name in self.used_names(queue) {
            let found = channel.queue_declare(name.as_str().into(), passive, FieldTable::default()).await;
            depth += u64::from(found.map_err(failed)?.message_count());
        }
        Ok(depth)
    }
}

/// The step for a delay: the smallest of 250 ms · 2ⁿ that is not below it. Within a step the broker looks only at the
/// head of the queue, so a message waits for those before it too: at most twice its own delay in all.
fn step(delay_ms: u64) -> u64 {
    delay_ms.div_ceil(FIRST_STEP_MS).max(1).next_power_of_two() * FIRST_STEP_MS
}

fn quorum() -> FieldTable {
    table([("x-queue-type", AMQPValue::LongString("quorum".into()))])
}

fn table<const N: usize>(fields: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        table.insert(name.into(), value);
    }
    table
}

fn mismatch(what: &str, name: &str, error: &lapin::Error) -> (BrokerErrorKind, String) {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) if amqp.get_id() == 406 => {
            let delete = if what == "queue" {
                format!("rabbitmqctl delete_queue {name}")
            } else {
                format!("rabbitmqadmin delete exchange name={name}")
            };
            let said = amqp.get_message();
            (
                BrokerErrorKind::Mismatch,
                format!(
                    "the {what} {name} was declared in another way: {said}; once it is empty, mend it with `{delete}`"
                ),
            )
        }
        ErrorKind::ProtocolError(amqp) if amqp.get_id() == 403 => (BrokerErrorKind::Mismatch, why(error)),
        _ => (BrokerErrorKind::Unreachable, why(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_waits_in_the_smallest_step_that_holds_it() {
        let steps = [1, 250, 251, 500, 501, 60_000].map(step);
        assert_eq!(steps, [250, 250, 500, 500, 1000, 64_000]);
    }

    #[test]
    fn names_begin_with_the_prefix_and_urgent_work_has_its_own() {
        let topology = Topology::new("mine", None);
        assert_eq!(topology.names(Queue::Jobs(Lane::Cpu)), ["mine.jobs.cpu.urgent", "mine.jobs.cpu"]);
        assert_eq!(topology.names(Queue::Dead), ["mine.dead"]);
    }
}
