"""The close matrix: every way to end a connection, by either side, before, during and after an outage.

The measure is direct TCP over a healthy network, executed in the same case: an outage may delay what the
other end sees, never change it. Each cell is one connection with a thread of its own; all cells share the outage.
"""

import socket
import threading
import time
from dataclasses import dataclass, field

from ends import Holder, Switchboard, call, exchange, name_of, observe, require_reset, reset, wait_unread
from faults import FAULTS
from process import Failure
from runner import Case

ORIGIN_PORT = 7400
LAST, ANSWER, UNREAD = 100_000, 200_000, 5000
#: Seconds after the heal in which an end must see what it must, and in which an idle one must see nothing.
PATIENCE, QUIET = 16, 2
#: Differing cells that are printed; a path that cannot do it differs in most.
SHOWN = 12
COLUMNS = ("without", "before", "during", "after")
WAYS = {}


def way(function):
    """A way to end a connection: takes the cell, the acting end and the other; returns what was seen."""
    WAYS[function.__name__] = function
    return function


@way
def fin(cell, actor, other):
    """The actor says its last words and closes."""
    cell.moment()
    actor.settimeout(PATIENCE)
    actor.sendall(b"l" * LAST)
    actor.close()
    return cell.sees(other, b"l" * LAST)


@way
def half_close(cell, actor, other):
    """The actor ends its half; the other reads the whole request, then answers, then closes."""
    cell.moment()
    actor.settimeout(PATIENCE)
    actor.sendall(b"l" * LAST)
    actor.shutdown(socket.SHUT_WR)
    request = cell.sees(other, b"l" * LAST)
    other.settimeout(PATIENCE)
    other.sendall(b"a" * ANSWER)
    other.close()
    return f"{request}; answer: {cell.sees(actor, b'a' * ANSWER)}"


@way
def both_fin(cell, actor, other):
    """Both ends finish at the same time; the two FINs cross."""
    cell.moment()
    for end, text in ((actor, b"l"), (other, b"a")):
        end.settimeout(PATIENCE)
        end.sendall(text * LAST)
        end.shutdown(socket.SHUT_WR)
    return f"{cell.sees(other, b'l' * LAST)}; {cell.sees(actor, b'a' * LAST)}"


@way
def closed_then_written(cell, actor, other):
    """The actor closes wholly; who still writes to it is told by a reset."""
    cell.moment()
    actor.close()
    seen = cell.sees(other, b"")
    other.settimeout(PATIENCE)
    until = time.monotonic() + cell.patience()
    while time.monotonic() < until:
        try:
            other.send(b"w" * 1000)
        except OSError as error:
            return f"{seen}; a write is told: {name_of(error)}"
        time.sleep(0.05)
    return f"{seen}; a write is not told"


@way
def rst(cell, actor, other):
    """The actor resets, with nothing on the way."""
    cell.moment()
    reset(actor)
    return cell.sees(other, b"")


@way
def rst_behind_data(cell, actor, other):
    """The actor resets behind data: how much of it still arrives is chance, but never does a clean end."""
    cell.moment()
    actor.settimeout(PATIENCE)
    actor.sendall(b"l" * LAST)
    reset(actor)
    data, end = observe(other, time.monotonic() + cell.patience())
    return f"{'some of the bytes' if data == b'l' * len(data) else 'wrong bytes'}, {end}"


@way
def killed(cell, actor, other):
    """The actor's process is killed; all it was sent had been read."""
    holder = Holder(actor)
    cell.moment()
    holder.kill()
    return cell.sees(other, b"")


@way
def killed_with_unread(cell, actor, other):
    """The actor's process is killed while data waits in its socket: the kernel resets."""
    other.sendall(b"x" * UNREAD)
    wait_unread(actor, UNREAD)
    holder = Holder(actor)
    cell.moment()
    holder.kill()
    return cell.sees(other, b"")


@way
def idle(cell, actor, other):
    """Nobody does anything, and nothing happens; afterwards the connection works."""
    cell.moment()
    seen = cell.sees(other, b"", quiet=True)
    exchange(actor, other)
    return f"{seen}; then alive"


@dataclass
class Clock:
    """The moments that all cells of one round share."""
    moments: dict = field(default_factory=lambda: {column: threading.Event() for column in COLUMNS})
    healed: threading.Event = field(default_factory=threading.Event)


class Cell:
    def __init__(self, way, side, column, clock):
        self.way, self.side, self.column, self.clock = way, side, column, clock
        self.seen = None
        self.ready = threading.Event()

    @property
    def key(self):
        return self.way, self.side

    def moment(self):
        """Waits for the time to act."""
        self.ready.set()
        self.clock.moments[self.column].wait()

    def patience(self):
        return PATIENCE if self.clock.healed.is_set() or self.column == "without" else 2 * PATIENCE

    def sees(self, end, expected, quiet=False):
        if quiet:
            self.clock.healed.wait(2 * PATIENCE)
        data, what = observe(end, time.monotonic() + (QUIET if quiet else self.patience()))
        if data != expected:
            return f"{len(data)} of {len(expected)} bytes or wrong ones, {what}"
        return f"all {len(expected)} bytes, {what}"

    def run(self, lab, path, switchboard):
        try:
            user, origin = call(lab, path, switchboard)
            exchange(user, origin)
            ends = (user, origin) if self.side == "user" else (origin, user)
            self.seen = WAYS[self.way](self, *ends)
        except (Failure, OSError) as error:
            self.seen = f"trouble: {error}"
        self.ready.set()


def execute(context, lab, path, cells, clock, fault=None):
    """Runs all cells over one path; with a fault, in three moments around it."""
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        threads = [threading.Thread(target=cell.run, args=(lab, path, switchboard), daemon=True)
                   for cell in cells]
        for thread in threads:
            thread.start()
        for cell in cells:
            if not cell.ready.wait(30):
                raise Failure(f"{cell.way} by the {cell.side} did not get ready")
        if fault is None:
            clock.healed.set()
            clock.moments["without"].set()
        else:
            clock.moments["before"].set()
            # Just before: the ends are on their way when the network fails.
            context.sleep(0.002)
            fault.inflict(lab, path)
            context.sleep(1)
            clock.moments["during"].set()
            context.sleep(9 if context.options.long else 2)
            fault.heal(lab, path)
            clock.healed.set()
            clock.moments["after"].set()
        for thread in threads:
            thread.join(4 * PATIENCE)
    return [cell for cell in cells if cell.seen is None]


def all_cells(columns, clock):
    sides = ("user", "origin")
    return [Cell(way, side, column, clock) for way in WAYS for side in sides for column in columns]


def matrix(fault_name):
    def story(context):
        fault = FAULTS[fault_name] if fault_name else None
        lab = context.lab()
        # The measure is taken anew when the machine was too busy for it; tele's own cells get one try.
        for tries_left in (2, 1, 0):
            clock = Clock()
            direct = all_cells(["without"], clock)
            execute(context, lab, context.path(lab, ORIGIN_PORT, kind="direct"), direct, clock)
            measure = {cell.key: cell.seen for cell in direct}
            try:
                check_measure(measure)
                break
            except Failure:
                if not tries_left:
                    raise

        clock = Clock()
        cells = all_cells(["without"] if fault is None else ["before", "during", "after"], clock)
        execute(context, lab, context.path(lab, ORIGIN_PORT), cells, clock, fault)
        wrong = [cell for cell in cells if cell.seen != measure[cell.key]]
        for cell in wrong[:SHOWN]:
            context.show(f"{cell.way} by the {cell.side}, {cell.column}: direct TCP shows "
                         f"“{measure[cell.key]}”, here the other end saw “{cell.seen}”")
        if wrong:
            raise Failure(f"{len(wrong)} of {len(cells)} cells differ from direct TCP")
        return f"{len(cells)} cells as direct TCP"
    return story


def check_measure(measure):
    """What direct TCP must show at the least, so that a broken measure cannot make everything equal."""
    for (way, side), seen in measure.items():
        ending = {"rst": "reset", "rst_behind_data": "reset", "killed_with_unread": "reset", "idle": "alive",
                  "closed_then_written": "reset"}.get(way, "eof")
        if seen is None or not seen.endswith(ending):
            raise Failure(f"direct TCP itself shows “{seen}” for {way} by the {side}")


def refused(context):
    """Nobody listens at the origin: the user is reset within a second, whether it speaks or only waits."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT)
    took = []
    for words in (b"", b"hello"):
        try:
            user = lab.client.connect(path.address)
            user.sendall(words)
        except (ConnectionRefusedError, ConnectionResetError):
            took.append(0.0)
            continue
        took.append(require_reset(user, 1, "the user of a refusing origin"))
    return f"told after {max(took) * 1000:.0f} ms"


def cases():
    # The relay of the canaries ends in order what was reset; the deaf one knows no half-close.
    yield Case("close.without", matrix(None), weight=1, drivers="either",
               canaries=(("relay", "cells differ"), ("bad-deaf", "cells differ")))
    for fault in ("blackhole", "reset", "address", "stop-client", "stop-server"):
        yield Case(f"close.{fault}", matrix(fault), weight=1, drivers="long", only_tele=fault.startswith("stop"),
                   canaries=(("relay", "cells differ"),) if fault == "blackhole" else ())
    yield Case("close.refused", refused, drivers="either", canaries=(("relay", "not a reset"),))
