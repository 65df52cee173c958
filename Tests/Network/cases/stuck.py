"""One stuck reader among a thousand streams: the others keep their speed, memory stays within the budget.

Far more than the budget is pushed at an end that does not read. It must stop near the budget, and arrive
whole when the end wakes. The speed of the others is taken in turn with and without the stuck one, in the same run.
"""

import json
import os
import socket
import struct
import sys
import time

from oracle import DOWN, UP, Misplaced, Stream
from path import HERE
from process import Failure, last_line
from runner import CAPACITY, Case

ORIGIN_PORT = 7500
OTHERS = 999
MIB = 1 << 20
BUFFER = 16 * MIB
#: What the others must keep of their speed: starvation leaves a few per cent. Measured: 95 % to 103 %.
KEEP = 0.7
WINDOW = 3
MOST_WINDOWS = 8
#: What a process may take beside its buffers: itself, a thousand streams, slabs that are being filled.
OWN_MEMORY = 96 * MIB


def stuck(side):
    def story(context):
        size = (1024 if context.options.long else 256) * MIB
        lab = context.lab()
        path = context.path(lab, ORIGIN_PORT, client_flags=[f"-buffer={BUFFER // MIB}MiB"],
                            server_flags=[f"-buffer={BUFFER // MIB}MiB"])
        origin = lab.start("pump-origin", worker("origin", ORIGIN_PORT), host=lab.server, stdin="pipe")
        origin.wait_for_port(ORIGIN_PORT)
        others = lab.start("pump-user", worker("user", *path.address, OTHERS), host=lab.client)
        if not context.until(30, lambda: latest(others)):
            raise Failure(f"{OTHERS} connections were not opened within 30 s: {last_line(others.errors)}")

        free = [measure(context, origin, others), measure(context, origin, others)]
        # While it is pushed the others rest: it shall meet its own budget, not its share of two processors.
        end = Reader(lab, path, size) if side == "user" else Writer(lab, path, size)
        pushed = until_it_stops(context, origin if side == "user" else end)
        beside = [measure(context, origin, others), measure(context, origin, others)]
        # Other work on the machine takes speed for a while; a stuck stream would take it for as long as it is stuck.
        while max(beside) < KEEP * max(free) and len(beside) < MOST_WINDOWS:
            beside.append(measure(context, origin, others))
        memory = check_budget(path, pushed, size)
        end.wake(origin)
        if not context.until(120, lambda: end.check(origin)):
            raise Failure(f"after the wake only {end.arrived(origin)} of {size} bytes arrived within 120 s")
        free.append(measure(context, origin, others))
        lost = latest(others)["lost"]
        if lost:
            raise Failure(f"{lost} of the other connections ended")
        # The best of each: other work on the machine only ever takes speed away.
        ratio = max(beside) / max(free)
        note = (f"stopped at {pushed // MIB} MiB of {size // MIB}, arrived whole; {memory}; "
                f"the others went on at {max(beside) / 1e6:.0f} MB/s, {ratio:.0%} of before")
        if ratio < KEEP:
            raise Failure(note)
        return note
    return story


def worker(*arguments):
    return [sys.executable, os.path.join(HERE, "workers", "pump.py"), *map(str, arguments)]


def latest(process):
    lines = process.output.splitlines()
    for line in reversed(lines[-2:]):
        try:
            return json.loads(line)
        except json.JSONDecodeError:
            continue
    return None


def measure(context, origin, others):
    """Bytes a second of all other streams together; each of them must move within the window."""
    origin.tell("go")
    context.sleep(0.5)
    first = latest(others)
    context.sleep(WINDOW)
    last = latest(others)
    origin.tell("pause")
    context.sleep(0.5)
    if last["total"] == first["total"]:
        raise Failure("the other streams stand still")
    still = sum(before == after for before, after in zip(first["each"], last["each"]))
    if still:
        raise Failure(f"{still} of the {OTHERS} other streams stand still")
    return (last["total"] - first["total"]) / (last["time"] - first["time"])


def until_it_stops(context, pusher):
    """How much was pushed when nothing more is taken for two seconds."""
    pushed, since, limit = -1, time.monotonic(), time.monotonic() + 60
    while time.monotonic() < limit:
        context.sleep(0.25)
        now = pusher.pushed if isinstance(pusher, Writer) else (latest(pusher) or {}).get("pushed", 0)
        if now != pushed:
            pushed, since = now, time.monotonic()
        elif pushed > 0 and time.monotonic() - since > 2:
            return pushed
    raise Failure(f"{pushed} bytes were pushed and it did not stop within 60 s")


def check_budget(path, pushed, size):
    """Both buffers and what the kernel holds in the sockets between bound what is taken."""
    kernel = kernel_buffers(path.lab)
    limit = 2 * BUFFER + kernel + 4 * MIB
    if pushed >= size or pushed > limit:
        raise Failure(f"{pushed // MIB} MiB were taken for a reader that sleeps; "
                      f"the budget allows {limit // MIB}")
    parts = []
    for process in (path.client, path.server):
        if process is None:
            continue
        resident, most = process.memory(), process.memory("VmHWM")
        parts.append(f"{process.name} {resident // MIB} MiB resident, {most // MIB} at most")
        if most > 2 * BUFFER + OWN_MEMORY:
            raise Failure(f"{process.name} took {most // MIB} MiB; its budget is {BUFFER // MIB} each way")
    return ", ".join(parts)


def kernel_buffers(lab):
    """The most that the kernel keeps for a stream on the way: two sockets at tele that tune themselves."""
    values = []
    for key in ("tcp_rmem", "tcp_wmem"):
        shown = lab.start("sysctl", ["cat", f"/proc/sys/net/ipv4/{key}"], host=lab.server)
        shown.wait(5)
        values.append(int(shown.output.split()[-1]))
    return sum(values)


class Reader:
    """The user that does not read; the origin pushes."""

    def __init__(self, lab, path, size):
        self.size, self.stream, self.ended = size, Stream(1, DOWN), False
        self.sock = lab.client.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.sock.settimeout(10)
        self.sock.connect(path.address)
        self.sock.sendall(b"S" + struct.pack(">Q", size))

    def wake(self, origin):
        self.sock.settimeout(0.5)

    def check(self, origin):
        """Reads on; whether all is here."""
        until = time.monotonic() + 0.5
        while time.monotonic() < until and not self.ended:
            try:
                data = self.sock.recv(262144)
            except TimeoutError:
                return False
            except OSError as error:
                raise Failure(f"the stuck stream broke after {self.stream.offset} bytes: {error}") from None
            if not data:
                self.ended = True
                break
            try:
                self.stream.check(data)
            except Misplaced as wrong:
                raise Failure(f"misplaced: {wrong}") from None
        if self.ended and self.stream.offset != self.size:
            raise Failure(f"the stuck stream ended in order after {self.stream.offset} of {self.size} bytes")
        return self.ended

    def arrived(self, origin):
        return self.stream.offset


class Writer:
    """The user that pushes at an origin which does not read."""

    def __init__(self, lab, path, size):
        self.size, self.stream = size, Stream(1, UP)
        self.sock = lab.client.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        self.sock.settimeout(10)
        self.sock.connect(path.address)
        self.sock.sendall(b"T")
        self.sock.settimeout(0.2)
        self.finished = False

    @property
    def pushed(self):
        self._push(0.3)
        return self.stream.offset

    def _push(self, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.stream.offset < self.size:
            data = self.stream.peek(min(32768, self.size - self.stream.offset))
            try:
                self.stream.advance(data[:self.sock.send(data)])
            except TimeoutError:
                return
            except OSError as error:
                raise Failure(f"the pushing user broke after {self.stream.offset} bytes: {error}") from None
        if self.stream.offset == self.size and not self.finished:
            self.sock.shutdown(socket.SHUT_WR)
            self.finished = True

    def wake(self, origin):
        origin.tell("wake")

    def check(self, origin):
        self._push(0.5)
        state = latest(origin)
        if state["wrong"]:
            raise Failure(f"misplaced: {state['wrong']}")
        if state["end"] and (state["end"] != "fin" or state["read"] != self.size):
            raise Failure(f"the origin saw “{state['end']}” after {state['read']} of {self.size} bytes")
        return state["end"] == "fin"

    def arrived(self, origin):
        return latest(origin)["read"]


def cases():
    yield Case("stuck.user", stuck("user"), weight=CAPACITY, canaries=(
        ("bad-greedy", "were taken for a reader that sleeps"), ("bad-lane", "stand still")))
    yield Case("stuck.origin", stuck("origin"), weight=CAPACITY)
