//! The broker on RabbitMQ: messages that outlive every process of ours.
