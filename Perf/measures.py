"""What is measured. Each measure starts a fresh pair and a fresh origin, so nothing is inherited: no warm
buffer, no connection in TIME_WAIT, no candidate's memory of an earlier load."""
import json
import os
import select
import subprocess
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from candidates import Candidate, Pair, free_port
from machine import Guard, complain
from processes import Program, Trouble, busy_seconds, confined
from throttle import Throttle

GIB = 1 << 30
SHORT_CONCURRENT = 16
SHORT_CROWD = 64  # where two loops share them, each has enough for one turn
REDIS_REQUESTS = 600_000  # of each kind, a second of the measured time
GRACE_SECONDS = 30  # beyond the measured time, for whatever still waits in buffers


@dataclass(frozen=True)
class Bench:
    """What every measure needs: the load generator, how long, how many."""
    load: Path
    seconds: float
    idle_count: int
    guard: Guard


@dataclass(frozen=True)
class Trial:
    """One measurement under way: everything that it may ask."""
    bench: Bench
    candidate: Candidate
    origin: Program
    pair: Pair
    load_cores: set[int] | None


@dataclass(frozen=True)
class Measure:
    name: str
    title: str
    run: Callable[[Trial], dict[str, float]]
    once: bool = False        # does not vary from round to round
    on_request: bool = False  # only when named by --only
    needs_relay: bool = False
    is_redis: bool = False    # the origin is a redis-server
    thread_share: float | None = None  # each thread of the relays has this part of a core
    apart: bool = False       # both relays have one core to themselves, user and origin have the others


def sample(bench: Bench, measure: Measure, candidate: Candidate) -> dict[str, float]:
    """One measurement: values by name. Raises Trouble."""
    relay_cores, load_cores = _cores_apart() if measure.apart else (None, None)
    with tempfile.TemporaryDirectory(prefix="tele-perf-") as folder:
        scratch = Path(folder)
        port = free_port() if measure.is_redis else None
        words = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", folder] if port else [str(bench.load), "origin"]
        origin = Program("origin", words, scratch, bench.guard, load_cores)
        probe = (b"PING\r\n", b"+") if port else (b"Ex", b"x")
        try:
            with Pair(candidate, port or _port_of(origin), scratch, bench.guard, probe, relay_cores) as pair:
                with Throttle(pair.programs, measure.thread_share) if measure.thread_share else nullcontext():
                    values = measure.run(Trial(bench, candidate, origin, pair, load_cores))
                pair.check()
                origin.check()
                return values
        finally:
            origin.stop()


def _cores_apart() -> tuple[set[int], set[int]]:
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise Trouble("a core for the relays and one for the load are needed")
    return {first}, set(others)


def _port_of(origin: Program) -> int:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        origin.check()
        text = origin.output()
        if text.endswith("\n"):
            return json.loads(text)["port"]
        time.sleep(0.002)
    raise Trouble("the origin did not start")


@dataclass(frozen=True)
class Load:
    """What the user's side printed, what the relays spent meanwhile, and who else was at work."""
    result: dict
    relay_cpu_seconds: float
    values: dict[str, float]  # of interest for every measure


def _loaded(trial: Trial, *words) -> Load:
    """Runs the user's side to its end."""
    relays, origin, machine = trial.pair.cpu_seconds(), trial.origin.cpu_seconds(), busy_seconds()
    start = time.monotonic()
    argv = [str(trial.bench.load), *map(str, words)]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, preexec_fn=confined(trial.load_cores)) as user:
        try:
            out, err = user.communicate(timeout=trial.bench.seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            raise Trouble(f"{words[0]}: not finished {GRACE_SECONDS} s after its time") from None
        finally:
            user.kill()
    if user.returncode != 0:
        raise Trouble(f"{words[0]}: {err.strip() or 'it said nothing'}")
    time.sleep(0.05)  # the last connections close, forked relays end: that is their work as well
    result = json.loads(out)
    relays = trial.pair.cpu_seconds() - relays
    ours = relays + trial.origin.cpu_seconds() - origin + result["cpu"]
    others = (busy_seconds() - machine - ours) / (time.monotonic() - start)
    return Load(result, relays, {"load_cpu_seconds": ours - relays, "cores_used_by_others": max(others, 0.0)})


def _stream(count: int, direction: str):
    def run(trial: Trial) -> dict[str, float]:
        load = _loaded(trial, "stream", trial.pair.port, count, trial.bench.seconds, direction)
        result = load.result
        values = load.values | {"gbit_per_second": result["bytes"] * 8 / result["seconds"] / 1e9,
                                "least_to_most": result["least"] / max(result["most"], 1)}
        if trial.pair.programs:
            values["cpu_seconds_per_gib"] = load.relay_cpu_seconds * GIB / result["bytes"]
        return values
    return run


def _ping(trial: Trial) -> dict[str, float]:
    load = _loaded(trial, "ping", trial.pair.port, trial.bench.seconds)
    values = load.values | {f"{name}_us": load.result[name] / 1000 for name in ("p50", "p99", "p999")}
    if trial.pair.programs:
        values["cpu_us_per_round_trip"] = load.relay_cpu_seconds * 1e6 / load.result["count"]
    return values


def _beside(trial: Trial) -> dict[str, float]:
    """The ping-pong while eight streams push."""
    argv = [str(trial.bench.load), "stream", str(trial.pair.port), "8", str(trial.bench.seconds + 0.6), "up"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bulk:
        try:
            time.sleep(0.3)
            load = _loaded(trial, "ping", trial.pair.port, trial.bench.seconds)
            out, err = bulk.communicate(timeout=trial.bench.seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            raise Trouble("the streams beside did not end") from None
        finally:
            bulk.kill()
    if bulk.returncode != 0:
        raise Trouble(f"the streams beside: {err.strip() or 'it said nothing'}")
    result = json.loads(out)
    return {f"{name}_us": load.result[name] / 1000 for name in ("p50", "p99")} | {
        "gbit_per_second": result["bytes"] * 8 / result["seconds"] / 1e9}


def _short(concurrent: int):
    def run(trial: Trial) -> dict[str, float]:
        load = _loaded(trial, "connect", trial.pair.port, concurrent, trial.bench.seconds)
        values = load.values | {"connections_per_second": load.result["count"] / load.result["seconds"]}
        if trial.pair.programs:
            values["cpu_us_per_connection"] = load.relay_cpu_seconds * 1e6 / load.result["count"]
        return values
    return run


def _redis(trial: Trial) -> dict[str, float]:
    """redis-benchmark: 64 clients, sixteen requests of each under way."""
    relays = trial.pair.cpu_seconds()
    count = int(REDIS_REQUESTS * trial.bench.seconds)
    argv = ["redis-benchmark", "-h", "127.0.0.1", "-p", str(trial.pair.port), "-c", "64", "-P", "16", "-n", str(count), "-t", "set,get", "--csv"]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=trial.bench.seconds + GRACE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Trouble(f"redis-benchmark: {error}") from error
    rows = {line.split(",")[0].strip('"'): line.split(",")[1].strip('"') for line in done.stdout.splitlines() if line.count(",") > 1}
    if done.returncode or "SET" not in rows or "GET" not in rows:
        raise Trouble(f"redis-benchmark: {(done.stderr or done.stdout).strip()[-200:]}")
    values = {"set_per_second": float(rows["SET"]), "get_per_second": float(rows["GET"])}
    if trial.pair.programs:
        values["cpu_us_per_request"] = (trial.pair.cpu_seconds() - relays) * 1e6 / (2 * count)
    return values


def _idle(trial: Trial) -> dict[str, float]:
    count = trial.candidate.idle_count(trial.bench.idle_count)
    time.sleep(0.3)  # the probe's connection has ended
    before = trial.pair.memory()
    argv = [str(trial.bench.load), "idle", str(trial.pair.port), str(count)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as user:
        try:
            if not select.select([user.stdout], [], [], 2 * GRACE_SECONDS)[0]:
                raise Trouble(f"idle: {count} connections not open after {2 * GRACE_SECONDS} s")
            opened = user.stdout.readline()
            if opened:
                time.sleep(1)
                during = trial.pair.memory()
            _, err = user.communicate(timeout=GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            raise Trouble("idle: the connections did not close") from None
        finally:
            user.kill()
    if not opened or user.returncode != 0:
        raise Trouble(f"idle: {err.strip() or 'it said nothing'}")
    values = {"connections": float(count), "open_us": json.loads(opened)["seconds"] * 1e6 / count}
    for role in before:
        values[f"{role}_base_bytes"] = float(before[role].rss)
        values[f"{role}_bytes_per_connection"] = during[role].grown_since(before[role]) / count
    return values


MEASURES = [
    Measure("stream-1", "one stream", _stream(1, "up")),
    Measure("stream-8", "eight streams", _stream(8, "up")),
    Measure("stream-1-down", "one stream, origin to user", _stream(1, "down"), on_request=True),
    Measure("stream-8-down", "eight streams, origin to user", _stream(8, "down"), on_request=True),
    Measure("stream-64", "64 streams", _stream(64, "up"), on_request=True),
    Measure("apart-1", "one stream, relays on a core of their own", _stream(1, "up"), apart=True),
    Measure("apart-8", "eight streams, relays on a core of their own", _stream(8, "up"), apart=True),
    Measure("apart-1-down", "one stream, origin to user, relays on a core of their own", _stream(1, "down"), apart=True, on_request=True),
    Measure("apart-8-down", "eight streams, origin to user, relays on a core of their own", _stream(8, "down"), apart=True, on_request=True),
    Measure("apart-64", "64 streams, relays on a core of their own", _stream(64, "up"), apart=True, on_request=True),
    Measure("ping", "one-byte ping-pong", _ping),
    Measure("beside", "one-byte ping-pong beside eight streams", _beside, on_request=True),
    Measure("short", "short connections", _short(SHORT_CONCURRENT)),
    Measure("redis", "redis-benchmark, 64 clients, pipelined", _redis, on_request=True, is_redis=True),
    Measure("stream-8-limited", "eight streams, each thread has a fifth of a core", _stream(8, "up"), on_request=True, thread_share=0.2),
    Measure("stream-8-down-limited", "eight streams, origin to user, each thread has a fifth of a core", _stream(8, "down"), on_request=True, thread_share=0.2),
    Measure("short-limited", "short connections, 64 at a time, each thread has a fifth of a core", _short(SHORT_CROWD), on_request=True, thread_share=0.2),
    Measure("redis-limited", "redis-benchmark, each thread has a tenth of a core", _redis, on_request=True, is_redis=True, thread_share=0.1),
    Measure("idle", "idle connections", _idle, once=True, needs_relay=True),
]


def build_load(folder: Path) -> Path:
    """Compiles the load generator; ends the run with a hint when there is no compiler."""
    here = Path(__file__).resolve().parent
    binary = folder / "load"
    argv = [os.environ.get("CC", "cc"), "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror",
            "-o", str(binary), str(here / "load.c"), str(here / "origin.c")]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    except OSError:
        raise SystemExit(complain(f"there is no C compiler called {argv[0]}",
                                  "apt-get install gcc libc6-dev, or set CC", 69)) from None
    if done.returncode != 0:
        raise SystemExit(complain("the load generator does not compile", done.stderr.strip()[:2000], 69))
    return binary
