"""One cell of the tables each: a transport, a load, a fault. docs/outage-laboratory.md defines the figures."""
import select
import socket
import statistics
import time
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from faults import FAULTS, clear
from hosts import Hosts, Line, Trouble
from loads import Crowd, Keystrokes, Origin, Records, Stream
from transports import Transport


@contextmanager
def laboratory(link: Path, line: Line, transport: Transport, congestion: str | None = None, paths: int = 1):
    with Hosts(link, line, congestion) as hosts:
        if paths == 2:
            hosts.add_path(link)
        origin = Origin(hosts, transport)
        try:
            transport.start(hosts)
            yield hosts, origin
        finally:
            transport.stop()
            origin.close()


@contextmanager
def connected(origin: Origin, count: int = 1):
    pairs = []
    try:
        for _ in range(count):
            pairs.append(origin.connect())
        yield pairs
    finally:
        for pair in pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)   # Wakes its threads.
                except OSError:
                    pass
                end.close()


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def patience(outage: float) -> float:
    """How long a recovery is waited for: plain TCP may double its time-out once more."""
    return 2 * outage + 6


def recovery(hosts: Hosts, origin: Origin, transport: Transport, fault_name: str, outage: float) -> dict:
    """Records both ways through one outage."""
    fault = FAULTS[fault_name]
    if fault.needs_processes and not transport.has_processes:
        return {"skipped": "there is no process to stop"}
    transport.check()
    with connected(origin) as [(user, server)]:
        flows = {"up": Records(user, server), "down": Records(server, user)}
        try:
            time.sleep(1)
            fault.inflict(hosts, transport)
            time.sleep(outage)
            fault.heal(hosts, transport)
            healed = time.monotonic()
            seconds: dict[str, float | None] = {}
            while time.monotonic() < healed + patience(outage):
                for way, flow in flows.items():
                    if way not in seconds and (first := flow.first_after(healed)) is not None:
                        seconds[way] = first
                if len(seconds) == 2 or all(flow.trouble for flow in flows.values()):
                    break
                time.sleep(0.005)
            broken = next((str(flow.trouble) for flow in flows.values() if flow.trouble), None)
        finally:
            for flow in flows.values():
                flow.stop()
            clear(hosts)
            hosts.tell("on both")
    if len(seconds) < 2:
        return {"broken": broken} if broken else {"late": patience(outage)}
    return {**seconds, "worst": max(seconds.values())}


def keystrokes(link: Path, transport: Transport, line: Line, congestion: str | None, direction: str, streams: int,
               seconds: float) -> dict:
    """Echoes beside bulk, after a warm-up that lasts a third."""
    with laboratory(link, line, transport, congestion) as (hosts, origin), connected(origin, streams + 1) as pairs:
        time.sleep(0.5)
        (user, server), *rest = pairs
        typing = Keystrokes(user, server)
        bulk = [Stream(*(pair if direction == "up" else reversed(pair))) for pair in rest]
        time.sleep(seconds / 3)
        began, before = time.monotonic(), sum(stream.received for stream in bulk)
        time.sleep(seconds)
        took, after = time.monotonic() - began, sum(stream.received for stream in bulk)
        for load in (typing, *bulk):
            if load.trouble:
                raise Trouble(f"{transport.name}: {load.trouble}")
            load.stop()
        echoes = [echo for typed, echo in typing.echoes if typed >= began]
    if not echoes:
        raise Trouble(f"{transport.name}: no key came back")
    return {"p50": statistics.median(echoes), "p99": percentile(echoes, 0.99), "rate": (after - before) * 8 / took,
            "echoes": echoes}


def backlog(link: Path, transport: Transport, line: Line, rate: float, outage: float) -> dict:
    """A stream of events at `rate` bytes a second through a blackhole: when has everything that was produced arrived?"""
    with laboratory(link, line, transport) as (hosts, origin), connected(origin) as [(user, server)]:
        stream = Stream(user, server, rate)
        time.sleep(3)
        cut = time.monotonic()
        hosts.tell("off both")
        time.sleep(outage)
        hosts.tell("on both")
        healed = time.monotonic()
        # What a line of this rate can do at best, headers of packets of 9000 bytes counted.
        best = outage * rate / (line.rate / 8 * 0.99 - rate) if line.rate else 0.0
        until = healed + 3 * best + patience(outage)
        caught = None
        while caught is None and time.monotonic() < until and not stream.trouble:
            time.sleep(0.005)
            now = time.monotonic()
            if stream.received >= stream.produced(now - 0.1 - 2 * line.delay):
                caught = now - healed
        stream.stop()
    return {"caught": caught, "best": best, "began": cut - stream.began, "healed": healed - stream.began,
            "progress": [(at - stream.began, count) for at, count in stream.progress],
            **({"broken": str(stream.trouble)} if stream.trouble else {})}


def many(link: Path, transport: Transport, line: Line, count: int, outage: float) -> dict:
    """Connections with one byte written each while the path is off: seconds from the heal until all of them have come."""
    with laboratory(link, line, transport) as (hosts, origin), closing(Crowd(hosts, transport, count)) as crowd:
        accepted = [origin.accept() for _ in range(count)]
        hosts.tell("off both")
        began = time.monotonic()
        crowd.write()
        time.sleep(max(0.0, outage - (time.monotonic() - began)))
        waiting = select.epoll()
        ends = {}
        for end in accepted:
            end.setblocking(False)
            ends[end.fileno()] = end
            waiting.register(end.fileno(), select.EPOLLIN)
        early = sum(1 for descriptor, _ in waiting.poll(0, count))
        if early:
            raise Trouble(f"{transport.name}: {early} bytes came over a path that is off")
        hosts.tell("on both")
        healed, arrived = time.monotonic(), []
        while ends and time.monotonic() < healed + patience(outage):
            for descriptor, _ in waiting.poll(0.1, 1024):
                waiting.unregister(descriptor)
                if ends.pop(descriptor).recv(1) == b"w":
                    arrived.append(time.monotonic() - healed)
        waiting.close()
        for end in accepted:
            end.close()
    return {"count": count, "outage": outage, "arrived": len(arrived), "first": min(arrived, default=None),
            "last": max(arrived, default=None)}


def longest(moments: list[float], begin: float, end: float) -> float:
    """The longest time without one of them, from the last before `begin` on."""
    before = [moment for moment in moments if moment <= begin][-1:] or [begin]
    inside = before + [moment for moment in moments if begin < moment <= end] + [end]
    return max(later - earlier for earlier, later in zip(inside, inside[1:]))


def two_paths(link: Path, transport: Transport, line: Line, bulk: int) -> dict:
    """Records both ways beside streams of bulk, over one of two paths; it goes silent, and comes back. The longest gaps, in seconds."""
    with laboratory(link, line, transport, paths=2) as (hosts, origin), connected(origin, bulk + 1) as [(user, server), *pairs]:
        flows = [Records(user, server), Records(server, user)]
        streams = [Stream(*pair) for pair in pairs]
        time.sleep(3)
        gaps = {}
        for what, words in (("silence", "off both"), ("back", "on both")):
            began = time.monotonic()
            hosts.tell(words)
            time.sleep(3)
            gaps[what] = max(longest([came for came, _ in list(flow.arrivals)], began, time.monotonic()) for flow in flows)
        for load in (*flows, *streams):
            if load.trouble:
                raise Trouble(f"{transport.name}: {load.trouble}")
            load.stop()
        return gaps


def sum_of_paths(link: Path, transport: Transport, line: Line, streams: int, seconds: float, paths: int) -> dict:
    """What streams of bulk get together, over one path or two."""
    with laboratory(link, line, transport, paths=paths) as (_, origin):
        time.sleep(3)
        with connected(origin, streams) as pairs:
            bulk = [Stream(*pair) for pair in pairs]
            time.sleep(seconds / 2)
            began, before = time.monotonic(), sum(stream.received for stream in bulk)
            time.sleep(seconds)
            rate = (sum(stream.received for stream in bulk) - before) * 8 / (time.monotonic() - began)
            for stream in bulk:
                if stream.trouble:
                    raise Trouble(f"{transport.name}: {stream.trouble}")
                stream.stop()
    return {"rate": rate}


#: Paths that are difficult and whole: name → (the line, what besides is wrong). *pauses*: for half a second every five. *starved*:
#: the transport's server has little of a CPU.
PATHS = {
    "2 % loss": (Line(rate=50e6, delay=0.015, queue=0.2, loss=0.02), None),
    "1 Mbit/s, 2 s of queue": (Line(rate=1e6, delay=0.015, queue=2), None),
    "pauses of 0.5 s": (Line(rate=50e6, delay=0.015, queue=0.2), "pauses"),
    "starved of CPU": (Line(rate=50e6, delay=0.015, queue=0.2), "starved"),
    "1 % loss, 50 ms": (Line(rate=100e6, delay=0.025, queue=0.1, loss=0.01), None),
    "satellite": (Line(rate=50e6, uplink=64e3, delay=0.3, queue=1), None),
    "1 Gbit/s, 100 ms": (Line(rate=1e9, delay=0.05, queue=0.05, mtu=9000), None),
}


def path(link: Path, transport: Transport, name: str, congestion: str | None, seconds: float, streams: int = 1) -> dict:
    """Streams of bulk beside keystrokes, up, or down where the uplink is narrow: their rate together after a third of the time, and how often
    tele changed its carrier."""
    line, wrong = PATHS[name]
    pauses = wrong == "pauses"
    with laboratory(link, line, transport, congestion) as (hosts, origin), connected(origin, streams + 1) as [typing, *pairs], \
            transport.starved() if wrong == "starved" else nullcontext():
        bulk, keys = [Stream(*(pair if line.uplink is None else reversed(pair))) for pair in pairs], Keystrokes(*typing)
        end, before = time.monotonic() + seconds * 4 / 3, None
        while (now := time.monotonic()) < end:
            if before is None and now > end - seconds:
                before, began = sum(stream.received for stream in bulk), now
            if pauses:
                hosts.tell("off both")
                time.sleep(0.5)
                hosts.tell("on both")
            time.sleep(4.5 if pauses else 0.5)
        rate = (sum(stream.received for stream in bulk) - before) * 8 / (time.monotonic() - began)
        for load in (keys, *bulk):
            if load.trouble:
                raise Trouble(f"{transport.name}: {load.trouble}")
            load.stop()
        return {"rate": rate, "changes": transport.said("session resumed") if transport.name.startswith("tele") else None}
