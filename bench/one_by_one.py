#!/usr/bin/env python3
"""Sends one item after the other to a cluster, each when the result of the one before is there.

usage: one_by_one.py --api PORT --amqp URL --prefix P --n COUNT

It prints the milliseconds of each, and how it published: by `POST /v1/batches`, or, where that results API publishes
nothing, by hand as docs/wire.md has it (then pika is needed). Results come over a kept HTTP connection in both ways.
"""
import argparse
import http.client
import json
import sys
import time
import uuid

TASK, OPTIONS = "compute.map", {"expr": "x*x - 2*x"}


class Api:
    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port)

    def ask(self, method, path, body=None):
        self.connection.request(method, path, body, {"content-type": "application/json"} if body else {})
        response = self.connection.getresponse()
        return response.status, response.read()

    def publish(self, x):
        status, body = self.ask("POST", "/v1/batches", json.dumps({"task": TASK, "options": OPTIONS, "items": [x]}))
        assert status == 201, (status, body)
        return json.loads(body)["id"]

    def result(self, batch):
        while True:
            status, body = self.ask("GET", f"/v1/batches/{batch}/results?follow=true")
            if status != 404:  # 404: the collector has not seen it yet
                assert status == 200, (status, body)
                return json.loads(body)


class Wire:
    def __init__(self, url, prefix):
        import pika

        self.properties, self.prefix = pika.BasicProperties, prefix
        self.channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
        self.channel.confirm_delivery()

    def publish(self, x):
        batch = {"id": uuid.uuid4().hex, "task": TASK, "options": OPTIONS, "timeout": 60_000, "priority": 0}
        batch["retry"] = {"attempts": 3, "base": 500, "max": 60_000}
        of_batch = {"batch": batch["id"]}
        self.send("results", "tidemill.open", {"v": 1, "batch": batch}, of_batch)
        of_chunk = of_batch | {"task": TASK, "chunk": 0, "items": 1, "attempt": 1}
        self.send("jobs.cpu", "tidemill.chunk", {"v": 1, "batch": batch, "attempt": 1, "items": [[0, x]]}, of_chunk)
        self.send("results", "tidemill.seal", {"v": 1, "batch": batch["id"], "total": 1}, of_batch)
        return batch["id"]

    def send(self, queue, kind, body, headers):
        """Returns once the broker has confirmed."""
        properties = self.properties(type=kind, content_type="application/json", delivery_mode=2, headers={"v": 1} | headers)
        self.channel.basic_publish(self.prefix, f"{self.prefix}.{queue}", json.dumps(body).encode(), properties, mandatory=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--api", type=int, required=True)
    parser.add_argument("--amqp", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--n", type=int, required=True)
    arguments = parser.parse_args()
    # Asked on a connection of its own: whoever refuses a body may close it unread.
    status, _ = Api(arguments.api).ask("POST", "/v1/batches", json.dumps({"task": TASK, "options": OPTIONS, "items": [0]}))
    api = Api(arguments.api)
    publisher = api if status == 201 else Wire(arguments.amqp, arguments.prefix)
    times = []
    for x in range(arguments.n):
        started = time.perf_counter()
        outcome = api.result(publisher.publish(x))
        times.append((time.perf_counter() - started) * 1000)
        assert (outcome["status"], outcome["output"]) == ("ok", x * x - 2 * x), outcome
    json.dump({"by": "POST /v1/batches" if publisher is api else "the wire (pika)", "ms": times}, sys.stdout)


if __name__ == "__main__":
    main()
