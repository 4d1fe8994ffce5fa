#!/usr/bin/env python3
"""Speaks docs/wire.md with nothing but pika and redis-py: publishes batches, reads their outcomes, and works.

usage: client.py submit --amqp URL --redis URL --http URL --prefix P --task T [--options JSON] [--chunk N] INPUT…
       client.py work --amqp URL --prefix P --lane L
       client.py refused --amqp URL --prefix P --type TYPE --body TEXT

`submit` prints one JSON object: the batch, its counts, its outcomes in input order and in completion order, from Redis and,
as frames, over HTTP. `work` takes chunks until it is ended. `refused` publishes what no collector can read and prints the dead letter that becomes of it.
cli/tests/wire.rs runs all three. Written from the page, not from the code; keep it so.
"""

import argparse
import json
import os
import random
import sys
import time
import urllib.request
import uuid
from functools import partial

import pika
import redis

VERSION = 1
LANES = ["cpu", "wait", "process", "vision"]
PAGE = 65_536  # items of a page of the bitmap
BAND = 4096  # items of a band
WITHIN_SECONDS = 60
QUORUM = {"x-queue-type": "quorum"}


def main():
    parser = argparse.ArgumentParser()
    words = parser.add_subparsers(required=True)
    submitting = words.add_parser("submit")
    submitting.add_argument("--redis", required=True)
    submitting.add_argument("--http", required=True)
    submitting.add_argument("--task", required=True)
    submitting.add_argument("--options", type=json.loads, default={})
    submitting.add_argument("--chunk", type=int, default=7)
    submitting.add_argument("--lane", default="cpu", choices=LANES)
    submitting.add_argument("--priority", type=int, default=0)
    submitting.add_argument("inputs", nargs="+", type=json.loads)
    submitting.set_defaults(act=submit)
    working = words.add_parser("work")
    working.add_argument("--lane", required=True, choices=LANES)
    working.set_defaults(act=work)
    refusing = words.add_parser("refused")
    refusing.add_argument("--type", required=True)
    refusing.add_argument("--body", required=True)
    refusing.set_defaults(act=refused)
    for each in (submitting, working, refusing):
        each.add_argument("--amqp", required=True)
        each.add_argument("--prefix", required=True)
    arguments = parser.parse_args()
    arguments.act(arguments)


# RabbitMQ


class Broker:
    """A connection, its topology, and a channel with confirms to publish on."""

    def __init__(self, arguments):
        self.prefix = arguments.prefix
        self.connection = pika.BlockingConnection(pika.URLParameters(arguments.amqp))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        self.declare()

    def declare(self):
        """Declares what worker and results API declare: idempotent, an error where the arguments differ."""
        self.channel.exchange_declare(self.prefix, "direct", durable=True)
        self.channel.exchange_declare(f"{self.prefix}.control", "fanout", durable=True)
        lasting = QUORUM | {"x-delivery-limit": 1_000_000_000}
        dead = f"{self.prefix}.dead"
        self.declare_queue(dead, self.prefix, lasting)
        buried = lasting | self.dead_letters() | {"x-dead-letter-routing-key": dead}
        self.declare_queue(f"{self.prefix}.results", self.prefix, buried)
        for lane in LANES:
            for queue in (f"jobs.{lane}.urgent", f"jobs.{lane}", f"suspects.{lane}"):
                self.declare_queue(f"{self.prefix}.{queue}", self.prefix, buried)
        brief = {"x-message-ttl": 30_000, "x-max-length": 10_000}
        self.declare_queue(f"{self.prefix}.workers", self.prefix, brief)

    def declare_queue(self, name, exchange, arguments):
        self.channel.queue_declare(name, durable=True, arguments=arguments)
        self.channel.queue_bind(name, exchange, routing_key=name)

    def dead_letters(self):
        return {
            "x-dead-letter-exchange": self.prefix,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }

    def publish(self, queue, kind, body, headers, exchange=None, **properties):
        """Publishes and returns once the broker has confirmed; raises where it returned or refused the message."""
        properties = pika.BasicProperties(
            type=kind, content_type="application/json", delivery_mode=2, headers={"v": VERSION} | headers, **properties
        )
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.channel.basic_publish(exchange or self.prefix, f"{self.prefix}.{queue}", body, properties, mandatory=True)

    def publish_chunk(self, lane, batch, attempt, items, delay=0):
        """Publishes a chunk; a delay in milliseconds is waited for in the smallest step that holds it."""
        body = {"v": VERSION, "batch": batch, "attempt": attempt, "items": items}
        headers = {"batch": batch["id"], "task": batch["task"], "chunk": items[0][0]}
        urgent = ".urgent" if batch.get("priority") else ""
        more = {"priority": batch["priority"]} if urgent else {}
        if delay:
            more |= {"exchange": self.step(delay), "expiration": str(delay)}
        self.publish(f"jobs.{lane}{urgent}", "tidemill.chunk", body, headers, **more)

    def step(self, delay):
        step = 250
        while step < delay:
            step *= 2
        name = f"{self.prefix}.retry.{step}"
        self.channel.exchange_declare(name, "fanout", durable=True)
        self.declare_queue(name, name, QUORUM | self.dead_letters())
        return name

    def publish_outcomes(self, batch, worker, outcomes):
        body = {"v": VERSION, "batch": batch, "worker": worker, "device": "cpu", "outcomes": outcomes}
        self.publish("results", "tidemill.outcomes", body, {"batch": batch})


# A batch


def submit(arguments):
    broker = Broker(arguments)
    batch = {
        "id": uuid.uuid4().hex,
        "task": arguments.task,
        "options": arguments.options,
        "retry": {"attempts": 3, "base": 100, "max": 1000},
        "timeout": 60_000,
        "priority": arguments.priority,
    }
    of_batch = {"batch": batch["id"]}
    broker.publish("results", "tidemill.open", {"v": VERSION, "batch": batch}, of_batch)
    items = [[index, value] for index, value in enumerate(arguments.inputs)]
    for start in range(0, len(items), arguments.chunk):
        broker.publish_chunk(arguments.lane, batch, 1, items[start : start + arguments.chunk])
    seal = {"v": VERSION, "batch": batch["id"], "total": len(items)}
    broker.publish("results", "tidemill.seal", seal, of_batch)
    broker.connection.close()

    outcomes = Outcomes(redis.Redis.from_url(arguments.redis), arguments.prefix, batch["id"])
    found = {"batch": batch["id"], "input": list(outcomes.in_input_order())}
    found |= {"completion": list(outcomes.in_completion_order()), "counts": outcomes.counts()}
    found["framed"] = {order: list(framed(arguments.http, batch["id"], order)) for order in ("input", "completion")}
    json.dump(found, sys.stdout)


class Outcomes:
    """What Redis holds of a batch."""

    def __init__(self, server, prefix, batch):
        self.redis = server
        self.keys = f"{prefix}:{{{batch}}}:"
        self.until = time.monotonic() + WITHIN_SECONDS

    def key(self, name):
        return self.keys + name

    def counts(self):
        names = ["total", "ok", "failed", "dead", "cancelled", "expired", "duplicates"]
        return {name: int(count) for name, count in zip(names, self.redis.hmget(self.key("batch"), names))}

    def in_input_order(self):
        """Yields outcomes as the gap-free beginning of the batch grows, to its end."""
        with self.redis.pubsub() as listening:
            listening.subscribe(self.key("changed"))
            place, total = 0, None
            while total is None or place < total:
                outcomes, total = self.page(place)
                yield from outcomes
                place += len(outcomes)
                if not outcomes and place != total:
                    # A message may be lost: after a second it looks in any case.
                    listening.get_message(timeout=1)
                    if time.monotonic() > self.until:
                        raise TimeoutError(f"the batch stands at {place} of {total}")

    def page(self, start, most=PAGE):
        """Gives the outcomes from a place on, up to the first gap, and the total where it is known."""
        pages = range(start // PAGE, (start + most - 1) // PAGE + 1)
        bands = range(start // BAND, (start + most - 1) // BAND + 1)
        # The bits before the bands: what the bitmap has is in the bands then.
        asked = self.redis.pipeline(transaction=False)
        asked.hmget(self.key("batch"), ["created", "total"])
        for page in pages:
            asked.get(self.key(f"bits:{page}"))
        asked.hmget(self.key("bands"), list(bands))
        (created, total), *bitmaps, listed = asked.execute()
        total = None if total is None else int(total)
        if created is None:
            return [], total  # the collector has not seen it yet
        end = start
        while end < start + most and is_set(bitmaps[end // PAGE - pages[0]], end % PAGE):
            end += 1
        found = {}
        for entry in sorted(holders(bands, listed, start, end)):
            for _, fields in self.redis.xrange(self.key("outcomes"), entry, entry):
                # Ascending: of two outcomes of one item the later counts.
                found |= {outcome["index"]: outcome for outcome in read(fields[b"s"])}
        return [found[index] for index in range(start, end)], total

    def in_completion_order(self):
        """Yields outcomes as they landed."""
        last = "-"
        while entries := self.redis.xrange(self.key("outcomes"), last, count=100):
            for name, fields in entries:
                yield from read(fields[b"s"])
                last = f"({name.decode()}"


def is_set(bitmap, bit):
    return bit // 8 < len(bitmap or b"") and bitmap[bit // 8] & (0x80 >> bit % 8) != 0


def holders(bands, listed, start, end):
    """Gives the entries that may hold outcomes of these items."""
    entries = set()
    for band, tokens in zip(bands, listed):
        for token in (tokens or b"").decode().split(","):
            entry, _, hull = token.rstrip("+").partition(":")
            first, _, last = hull.partition("-")
            if entry and band * BAND + int(first) < end and band * BAND + int(last or first) >= start:
                entries.add(int(entry))
    return entries


def read(segment):
    """Reads a segment: its outcomes, each with who made it."""
    segment = json.loads(segment)
    for index, status, value, result, attempts, queued, run, *name in segment["outcomes"]:
        outcome = {"index": index, "status": status, "input": value, "attempts": attempts, "worker": segment["worker"]}
        if status == "ok":
            outcome["output"] = result
        elif status in ("failed", "dead"):
            outcome["error"] = result
        yield outcome


def framed(url, batch, order):
    """Reads a batch's outcomes over HTTP."""
    accept = {"Accept": "application/vnd.tidemill.segments"}
    request = urllib.request.Request(f"{url}/v1/batches/{batch}/results?order={order}", headers=accept)
    with urllib.request.urlopen(request, timeout=WITHIN_SECONDS) as answer:
        while line := answer.readline():
            head, found = json.loads(line), {}
            segments = [(end, count, read(answer.read(size))) for end, count, size in head["segments"]]
            for end, count, outcomes in sorted(segments, key=lambda segment: segment[0]):
                for nth, outcome in enumerate(outcomes):
                    place = outcome["index"] if order == "input" else end - count + nth
                    if head["from"] <= place < head["next"]:
                        found[place] = outcome
            yield from (found[place] for place in range(head["from"], head["next"]))


# A worker


class Bad(Exception):
    """An item that fails: its kind, and whether it may pass."""

    def __init__(self, kind, message, retryable=False):
        super().__init__(message)
        self.failure = {"kind": kind, "message": message, "retryable": retryable}


def factorize(_options, number, _attempt):
    if type(number) is not int or not 1 <= number < 1 << 64:
        raise Bad("invalid_input", f"{number!r} is no whole number from 1 on")
    factors, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors + [number] if number > 1 else factors


def second_try(_options, value, attempt):
    """Gives back its input, and fails for a passing reason at first."""
    if attempt == 1:
        raise Bad("busy", "come again", retryable=True)
    return value


TASKS = {"compute.factorize": factorize, "test.second-try": second_try}


def work(arguments):
    broker = Broker(arguments)
    taking = broker.connection.channel()
    taking.basic_qos(prefetch_count=4)
    lane = arguments.lane
    for queue in (f"jobs.{lane}.urgent", f"jobs.{lane}"):
        taking.basic_consume(f"{broker.prefix}.{queue}", partial(take, broker, lane))
    print("ready", flush=True)
    taking.start_consuming()


def take(broker, lane, taking, method, properties, body):
    """Runs one chunk: its outcomes are safe, and so is what runs again, before it is acknowledged."""
    reason = None
    try:
        chunk = json.loads(body)
        batch, attempt = chunk["batch"], chunk["attempt"]
        if properties.type != "tidemill.chunk" or chunk["v"] != VERSION or batch["task"] not in TASKS:
            reason = "not a chunk of a task that is known here"
    except (ValueError, TypeError, KeyError) as error:
        reason = f"not a chunk: {error!r}"
    if reason:
        broker.publish("dead", properties.type, body, {"reason": reason})
    else:
        outcomes, again = run(batch, attempt, chunk["items"])
        if outcomes:
            broker.publish_outcomes(batch["id"], f"python-{os.getpid()}", outcomes)
        if again:
            retry = batch["retry"]
            longest = min(retry["max"], retry["base"] << min(attempt - 1, 31))
            broker.publish_chunk(lane, batch, attempt + 1, again, delay=max(1, random.randint(0, longest)))
    taking.basic_ack(method.delivery_tag)


def run(batch, attempt, items):
    """Gives the outcomes of a chunk's items, and the items that are to run again."""
    outcomes, again = [], []
    taken = time.monotonic()
    for item in items:
        index, value, *more = item
        begun = time.monotonic()
        if batch.get("expires") is not None and time.time() * 1000 >= batch["expires"]:
            status, result, attempts = "expired", None, attempt - 1
        else:
            attempts = attempt
            try:
                status, result = "ok", TASKS[batch["task"]](batch["options"], value, attempt)
            except Bad as bad:
                if bad.failure["retryable"] and attempt < batch["retry"]["attempts"]:
                    again.append(item)
                    continue
                status, result = "failed", bad.failure
        queued, took = (round(1e6 * span) for span in (begun - taken, time.monotonic() - begun))
        outcomes.append([index, status, value, result, attempts, queued, took, *more[:1]])
    return outcomes, again


# What is no message


def refused(arguments):
    broker = Broker(arguments)
    broker.publish("results", arguments.type, arguments.body.encode(), {})
    until = time.monotonic() + WITHIN_SECONDS
    while time.monotonic() < until:
        method, properties, body = broker.channel.basic_get(f"{broker.prefix}.dead", auto_ack=True)
        if method:
            letter = {"type": properties.type, "reason": properties.headers["reason"], "body": body.decode()}
            json.dump(letter, sys.stdout)
            return
        broker.connection.process_data_events(0.05)
    raise TimeoutError("no dead letter came")


if __name__ == "__main__":
    main()
