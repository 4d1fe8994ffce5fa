"""The cluster beside Celery and beside the bare broker. docs/performance.md tells what each row means.

Each case starts RabbitMQ, Redis, results API and one worker of its own, on free ports of the loopback, and ends them.
Ours and the peers use the same servers, one after the other.
"""
import contextlib
import http.client
import json
import mmap
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from common import PEERS, TIDEMILL, note, peer, report, rounds, run

# The first is the default. "off": no append-only file at all, as the peers' own figures were taken.
FSYNC = ("everysec", "always", "off")
IS_LONG = False
TICKS = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count()
HERE = Path(__file__).resolve().parent
PREFIX = "bench"
EXPRESSION = "x*x - 2*x"
CELERY = "Celery"


class Cluster:
    """Servers and our processes, each in a process group of its own; nothing of them outlives `with`."""

    fsync = FSYNC[0]

    def __init__(self, scratch):
        self.folder = scratch / f"cluster-{random.randrange(1 << 30)}"
        self.folder.mkdir()
        self.processes = {}

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        # Each is taken before the next is looked for.
        self.amqp_port = free_port(5_000, 10_000)
        self.start_rabbitmq()
        self.redis_port = free_port()
        self.start_redis()
        self.api_port = free_port()
        self.amqp = f"amqp://127.0.0.1:{self.amqp_port}"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL")} | {
            "TIDEMILL__BROKER__URL": self.amqp,
            "TIDEMILL__BROKER__PREFIX": PREFIX,
            "TIDEMILL__STORE__URL": f"redis://127.0.0.1:{self.redis_port}",
            "TIDEMILL__STORE__PREFIX": PREFIX,
            "TIDEMILL__API__URL": f"http://127.0.0.1:{self.api_port}",
            "TIDEMILL__API__LISTEN": f"127.0.0.1:{self.api_port}",
        }
        self.begin("results-api", [TIDEMILL, "results-api"], self.environment)
        self.wait_for("results-api", lambda: answer(self.api_port, "/readyz"))
        self.begin("worker", [TIDEMILL, "worker", "--threads", 2], self.environment)
        self.wait_for("worker", lambda: (answer(self.api_port, "/v1/workers") or {}).get("workers"))

    def start_rabbitmq(self):
        """A node with RabbitMQ's own settings and its own port mapper; nothing that a package has set up is touched."""
        server = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
        server = server if server.exists() else shutil.which("rabbitmq-server")
        home = self.folder / "rabbitmq"
        home.mkdir()
        (home / "plugins").write_text("[].\n")
        (home / "rabbitmq.conf").write_text("log.file.level = warning\n")
        port = self.amqp_port
        environment = os.environ | {
            "HOME": str(home),
            "RABBITMQ_NODENAME": f"bench-{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(port + 5_000),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(port + 10_000),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        mapper = f"epmd -port {port + 10_000} -address 127.0.0.1 >/dev/null 2>&1 &"
        self.begin("rabbitmq", ["sh", "-c", f'{mapper} exec "$0"', server], environment)
        self.wait_for("rabbitmq", lambda: greets(port, b"AMQP\0\0\x09\x01", b"\x01"))

    def start_redis(self):
        folder = self.folder / "redis"
        folder.mkdir()
        keep = ["--appendonly", "no"] if self.fsync == "off" else ["--appendonly", "yes", "--appendfsync", self.fsync]
        command = ["redis-server", "--bind", "127.0.0.1", "--port", self.redis_port, "--dir", folder, "--save", "", *keep]
        self.begin("redis", command, os.environ)
        self.wait_for("redis", lambda: greets(self.redis_port, b"PING\r\n", b"+PONG"))

    def begin(self, name, command, environment):
        with open(self.folder / f"{name}.log", "wb") as log:
            command = [str(word) for word in command]
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            self.processes[name] = subprocess.Popen(command, env=environment, start_new_session=True, **streams)

    def wait_for(self, name, is_up):
        until = time.monotonic() + 120
        while not is_up():
            if self.processes[name].poll() is not None or time.monotonic() > until:
                sys.exit(f"bench: {name} did not start\n{(self.folder / f'{name}.log').read_text(errors='replace')}")
            time.sleep(0.05)

    def stop(self):
        """Asks our processes to end; the servers hold nothing that anybody wants."""
        for name in ("worker", "results-api"):
            if name in self.processes:
                self.processes[name].terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.processes[name].wait(10)
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def cpu(self):
        """Seconds of CPU, user and system, that each has used so far."""
        groups = {process.pid: name for name, process in self.processes.items()}
        seconds = dict.fromkeys(self.processes, 0.0)
        for file in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = file.read_text().rpartition(")")[2].split()
                name = groups.get(int(fields[2]))
                if name:
                    seconds[name] += sum(map(int, fields[11:15])) / TICKS
        return seconds

    def peak(self, name):
        return peak(self.processes[name].pid)

    def redis_bytes(self):
        text = run(["redis-cli", "-p", self.redis_port, "info", "memory"])
        return int(re.search(r"used_memory:(\d+)", text)[1])

    def submit(self, count, *more):
        """Submits the numbers below `count`, waits, and looks at every outcome once the clock has stopped."""
        command = [TIDEMILL, "submit", "compute.map", "--range", f"0..{count}", "-o", f"expr={EXPRESSION}"]
        command += [*more, "--wait", "--format", "ndjson", "-q"]
        path = self.folder / "outcomes.ndjson"
        hold(count)
        before = self.cpu()
        with open(path, "wb") as out:
            started = time.perf_counter()
            process = subprocess.Popen([str(word) for word in command], stdout=out, env=self.environment, stdin=subprocess.DEVNULL)
            try:
                with Peak(process.pid) as highest:
                    _, status, usage = os.wait4(process.pid, 0)
                    took = time.perf_counter() - started
                    process.returncode = os.waitstatus_to_exitcode(status)
            finally:
                if process.returncode is None:
                    process.kill()
                    process.wait()
        if process.returncode != 0:
            sys.exit(f"bench: exit code {process.returncode} from {' '.join(map(str, command))}")
        cpu = {"submit": usage.ru_utime + usage.ru_stime}
        cpu |= {name: seconds - before[name] for name, seconds in self.cpu().items()}
        check(path, count)
        path.unlink()
        return Batch(count, took, cpu, highest.bytes)

    def warm_up(self):
        """The first batches of a cluster take up to twice as long, whatever their size."""
        for _ in range(10):
            self.submit(100_000)

    def read_from_the_middle(self, count):
        """Reads a thousand outcomes of the newest batch, which has `count`."""
        newest = answer(self.api_port, "/v1/batches?limit=1")["batches"][0]
        assert newest["progress"]["total"] == count, newest
        first, some = count // 2, 1000
        command = [TIDEMILL, "results", newest["batch"]["id"], "--from", first, "--limit", some, "--format", "ndjson"]
        lines = run(command, env=self.environment).splitlines()
        assert [json.loads(line)["index"] for line in lines] == list(range(first, first + some)), lines[:1]

    def celery(self, *arguments):
        """The peer's figures. Its scripts know their servers by fixed ports: copies of them get ours."""
        folder = self.folder / "celery"
        if not folder.exists():
            (folder / "run").mkdir(parents=True)
            for script in ("celery_bench.py", "peers_celery.py"):
                text = (PEERS / script).read_text()
                (folder / script).write_text(text.replace("5673", str(self.amqp_port)).replace("6390", str(self.redis_port)))
        hold(1_000_000)
        return peer("celery_bench.py", *arguments, folder=folder)

    def raw(self, count):
        """Messages a second of the bare broker: published and consumed at once, nothing done with them."""
        command = [PEERS / "rawamqp/target/release/rawamqp", "--url", f"{self.amqp}/%2f", "--n", count, "--size", 100, "--mode", "pipe"]
        hold(count)
        return json.loads(run(command).splitlines()[-1])["through_rate"]


class Batch:
    def __init__(self, count, took, cpu, submit_peak):
        self.count, self.took, self.cpu, self.submit_peak = count, took, cpu, submit_peak

    @property
    def rate(self):
        """Thousands of items a second."""
        return self.count / self.took / 1000


class Peak(threading.Thread):
    """The most memory that a process had, as far as a look every 20 ms can tell."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.bytes, self.over = pid, 0, threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def run(self):
        while not self.over.wait(0.02):
            self.bytes = max(self.bytes, peak(self.pid))


def peak(pid):
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) * 1024 if found else 0
    return 0


def check(path, count):
    """Each outcome once, in order, with the right value."""
    place = 0
    with open(path, "rb") as lines:
        for line in lines:
            outcome = json.loads(line)
            x = place
            assert (outcome["index"], outcome["status"], outcome.get("output")) == (x, "ok", x * x - 2 * x), line
            place += 1
    assert place == count, f"{place} outcomes of {count}"


def hold(items):
    """Takes memory for so many items and lets it go, so that the machine has it when the clock starts. What a virtual machine
    has left free for seconds its host takes back, and gives it anew page by page, at a twentieth of the speed.
    """
    # In Redis, in what both servers append to and in the file of outcomes, and half as much again; never most of what is free.
    free = os.sysconf("SC_AVPHYS_PAGES") * mmap.PAGESIZE
    size = min(items * 600, free // 2)
    mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def free_port(*further):
    """A port that is free, and so are those that far above it; all below those that the system gives away by itself."""
    while True:
        port = random.randrange(10_000, 15_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            for each in (port, *(port + more for more in further)):
                held.enter_context(socket.socket()).bind(("127.0.0.1", each))
            return port


def greets(port, words, expected):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as stream:
        stream.sendall(words)
        return stream.recv(64).startswith(expected)
    return False


def answer(port, path):
    """What our HTTP API says, where it says that all is well."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path)
        response = connection.getresponse()
        return json.load(response) if response.status == 200 else None


def split(what, batches, rest="idle and others"):
    """Where the time goes: seconds of CPU by process, and their share of what the cores could have given."""
    wall = statistics.median(batch.took for batch in batches)
    parts = {name: statistics.median(batch.cpu[name] for batch in batches) for name in batches[0].cpu}
    parts[rest] = wall * CORES - sum(parts.values())
    text = ", ".join(f"{name} {seconds:.2f} s ({seconds / wall / CORES:.0%})" for name, seconds in parts.items())
    print(f"    {what}: {wall:.2f} s on {CORES} cores: {text}", flush=True)


def load():
    print(f"    load average {' '.join(f'{figure:.2f}' for figure in os.getloadavg())}", flush=True)


def messages(reps, scratch, _photos):
    """One message per item, read back in order, beside Celery's group and the bare broker."""
    load()
    sizes = (10_000, 100_000)
    kept = {size: [] for size in sizes}
    with Cluster(scratch) as cluster:

        def ours(size):
            kept[size].append(cluster.submit(size, "--chunk", "1"))
            return kept[size][-1].rate

        def theirs():
            arguments = ("--mode", "group", "--n", sizes[0], "--safe", 1, "--interval", 0.01)
            return cluster.celery(*arguments)["tasks_per_s"] / 1000

        runs = [lambda size=size: ours(size) for size in sizes] + [theirs if PEERS else None]
        runs += [(lambda size=size: cluster.raw(size) / 1000) if PEERS else None for size in sizes]
        cluster.submit(sizes[0], "--chunk", "1")
        small, large, celery, *raw = rounds(reps, *runs)
    for size, mine, bare in zip(sizes, (small, large), raw):
        name = f"messages, {size:,}"
        report(name, "k/s", mine, f"{CELERY} group, 10,000, safe", celery, "20", digits=2)
        report(name, "k/s", mine, "raw loop (lapin), no results", bare, "0.5", digits=2)
    for size in sizes:
        split(f"messages, {size:,}", kept[size])
    load()


def chunks(reps, scratch, _photos):
    """A million items in chunks as we cut them, read back in order, beside Celery's chunks of 1000."""
    load()
    count, kept = 1_000_000, []
    with Cluster(scratch) as cluster:

        def ours():
            kept.append(cluster.submit(count))
            return kept[-1].rate

        def theirs(safe):
            arguments = ("--mode", "chunks", "--chunk", 1000, "--n", count, "--interval", 0.01, "--safe", safe)
            return cluster.celery(*arguments)["tasks_per_s"] / 1000

        cluster.warm_up()
        mine, fast, safe = rounds(reps, ours, *([lambda: theirs(0), lambda: theirs(1)] if PEERS else [None, None]))
    best = [max(pair) for pair in zip(fast, safe)]
    report("chunks, 1M", "k/s", mine, f"{CELERY} chunks(1000), the faster of defaults and safe", best, "10")
    report("chunks, 1M", "k/s", mine, f"{CELERY} chunks(1000), safe", safe, "-")
    split("chunks, 1M", kept)
    load()


def latency(reps, scratch, _photos):
    """One item, submit to result, one after the other, as a Python program of anybody's would."""
    load()
    count = 300
    tails, kept = ([], []), []
    with Cluster(scratch) as cluster:

        def ours():
            before, started = cluster.cpu(), time.perf_counter()
            client = [sys.executable, HERE / "one_by_one.py", "--api", cluster.api_port, "--n", count]
            times = sorted(json.loads(run(client)))
            took = time.perf_counter() - started
            kept.append(Batch(count, took, {name: used - before[name] for name, used in cluster.cpu().items()}, 0))
            tails[0].append(times[int(count * 0.99)])
            return times[count // 2]

        def theirs():
            found = cluster.celery("--mode", "latency", "--n", count, "--safe", 1)
            tails[1].append(found["p99_ms"])
            return found["p50_ms"]

        ours()
        tails[0].clear()
        kept.clear()
        mine, other = rounds(reps, ours, theirs if PEERS else None)
    shape = {"digits": 2, "less_is_better": True}
    report("latency, median", "ms", mine, f"{CELERY}, safe", other, "2", **shape)
    report("latency, 99th percentile", "ms", tails[0], f"{CELERY}, safe", tails[1], "-", **shape)
    split(f"latency, {count} times", kept, "the client, idle and others")
    load()


def growth(reps, scratch, _photos):
    """Time and memory at ten times as many items, again and again; each size has a cluster of its own."""
    load()
    sizes = [10_000, 100_000, 1_000_000] + [10_000_000] * IS_LONG
    with contextlib.ExitStack() as clusters:
        grown = {size: Grown(size, clusters.enter_context(Cluster(scratch))) for size in sizes}
        times = rounds(reps, *[grown[size].turn for size in sizes])
        for size, mine in zip(sizes, times):
            # Of neighbouring runs: an hour makes more of a difference than ten times as many items.
            more = statistics.median(large / small - 1 for large, small in zip(mine, times[1]))
            grown[size].tell(mine, f"{more:+.0%} of ±25 %" if size > 100_000 else "-")
    load()


class Grown:
    """A size of `growth` in a warm cluster."""

    def __init__(self, size, cluster):
        self.size, self.cluster = size, cluster
        self.kept, self.grown = [], []
        cluster.warm_up()

    def turn(self):
        """µs an item: of one batch, or the median of several so small that a moment makes a difference."""
        return statistics.median(self.submit() for _ in range(1 if self.size > 100_000 else 5))

    def submit(self):
        """Submits a batch, reads from its middle, and gives µs an item."""
        before = self.cluster.redis_bytes()
        self.kept.append(self.cluster.submit(self.size))
        self.grown.append(self.cluster.redis_bytes() - before)
        self.cluster.read_from_the_middle(self.size)
        return self.kept[-1].took / self.size * 1e6

    def tell(self, times, limit):
        tops = {"submit": max(batch.submit_peak for batch in self.kept)}
        tops |= {name: self.cluster.peak(name) for name in ("worker", "results-api")}
        memory = ", ".join(f"{name} {top / 1e6:.0f} MB" for name, top in tops.items())
        most = max(self.grown)
        assert max(tops.values()) < 300e6 and most < 1.5e9, f"{self.size:,} items: {memory}; Redis {most:,} bytes"
        redis = f"Redis {statistics.median(self.grown) / 1e6:,.1f} MB a batch"
        note(f"growth, {self.size:,}", "µs an item", times, limit, f"{memory}; {redis}", digits=2)
        split(f"growth, {self.size:,}", self.kept)


CASES = {"messages": messages, "chunks": chunks, "latency": latency, "growth": growth}
