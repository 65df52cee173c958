"""What the numbers are held against. A floor decides the exit status; an aim is printed beside it."""
from dataclasses import dataclass
from statistics import median
from typing import Callable

# Samples by candidate, measure and value.
Samples = dict[str, dict[str, dict[str, list[float]]]]

COPYING = ("socat", "haproxy")


@dataclass(frozen=True)
class Target:
    """`value` of `subject` must be at least (or at most) `factor` × the reference: the `pick` of the peers'
    medians, or 1 when there are no peers and `factor` is the number itself."""
    floor: bool
    measure: str
    value: str
    subject: str
    relation: str  # ">=" or "<="
    factor: float
    peers: tuple[str, ...] = ()
    pick: str = "the only"  # "slower", "best" …: for the reader; `choose` does it
    choose: Callable = min


@dataclass(frozen=True)
class Verdict:
    target: Target
    got: float | None
    needed: float | None
    missing: tuple[str, ...]  # candidates without a number, so that nothing can be said

    @property
    def met(self) -> bool | None:
        if self.got is None or self.needed is None:
            return None
        return self.got >= self.needed if self.target.relation == ">=" else self.got <= self.needed


def _floors():
    for measure in ("stream-1", "stream-8"):
        for subject in ("tele-uring", "tele-epoll"):
            # Above the noise of one round on a busy machine: a fall is noticed, a wish is an aim.
            yield Target(True, measure, "gbit_per_second", subject, ">=", 0.5,
                         ("socat", "haproxy"), "slower", min)


def _aims():
    for measure in ("stream-1", "stream-8", "stream-1-down", "stream-8-down", "apart-1", "apart-8", "apart-1-down", "apart-8-down"):
        yield Target(False, measure, "gbit_per_second", "tele-uring", ">=", 1.25, COPYING, "best", max)
        yield Target(False, measure, "gbit_per_second", "tele-uring", ">=", 0.85, ("haproxy-splice-always",))
        yield Target(False, measure, "cpu_seconds_per_gib", "tele-uring", "<=", 0.7, COPYING, "best", min)
        yield Target(False, measure, "gbit_per_second", "tele-epoll", ">=", 0.9, ("tele-uring",))
    for measure in ("stream-64", "apart-64"):
        yield Target(False, measure, "gbit_per_second", "tele-uring", ">=", 1.1, COPYING, "best", max)
    yield Target(False, "stream-1", "gbit_per_second", "tele-key", ">=", 2.5, ("stunnel",))
    yield Target(False, "ping", "p50_us", "tele-key", "<=", 1.15, ("tele-uring",))
    for value in ("p50_us", "p99_us", "cpu_us_per_round_trip"):
        yield Target(False, "ping", value, "tele-uring", "<=", 1, ("haproxy",))
    yield Target(False, "short", "connections_per_second", "tele-uring", ">=", 1.1, ("haproxy",))
    for value in ("set_per_second", "get_per_second"):
        yield Target(False, "redis", value, "tele-uring", ">=", 1, ("haproxy",))
    for role in ("client", "server"):
        yield Target(False, "idle", f"{role}_bytes_per_connection", "tele-uring", "<=", 2048)
        yield Target(False, "idle", f"{role}_base_bytes", "tele-uring", "<=", 12 << 20)


TARGETS = [*_floors(), *_aims()]


def judge(samples: Samples) -> list[Verdict]:
    def middle(candidate: str, target: Target) -> float | None:
        found = samples.get(candidate, {}).get(target.measure, {}).get(target.value)
        return median(found) if found else None

    verdicts = []
    for target in TARGETS:
        got = middle(target.subject, target)
        peers = {name: middle(name, target) for name in target.peers}
        missing = tuple(name for name, value in {target.subject: got, **peers}.items() if value is None)
        if None in peers.values():
            needed = None
        else:
            needed = target.factor * (target.choose(peers.values()) if peers else 1)
        verdicts.append(Verdict(target, got, needed, missing))
    return verdicts
