#!/usr/bin/env python3
"""Sends one item after the other to a cluster, each when the outcome of the one before is there.

usage: one_by_one.py --api PORT --n COUNT

Each is a `POST /v1/batches?wait=true`, whose answer is the outcome, over one kept connection. It prints the
milliseconds of each.
"""
import argparse
import http.client
import json
import sys
import time


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--api", type=int, required=True)
    parser.add_argument("--n", type=int, required=True)
    arguments = parser.parse_args()
    connection = http.client.HTTPConnection("127.0.0.1", arguments.api)
    times = []
    for x in range(arguments.n):
        started = time.perf_counter()
        body = json.dumps({"task": "compute.map", "options": {"expr": "x*x - 2*x"}, "items": [x]})
        connection.request("POST", "/v1/batches?wait=true", body, {"content-type": "application/json"})
        response = connection.getresponse()
        outcome = json.loads(response.read())
        times.append((time.perf_counter() - started) * 1000)
        assert response.status == 201, outcome
        assert (outcome["status"], outcome["output"]) == ("ok", x * x - 2 * x), outcome
    json.dump(times, sys.stdout)


if __name__ == "__main__":
    main()
