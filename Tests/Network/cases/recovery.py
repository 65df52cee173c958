"""How soon new bytes flow after a blackhole: two hundred records a second in both directions, gaps measured.

The same is measured over direct TCP beside it, where retransmission time-outs have doubled meanwhile.
"""

import struct
import threading
import time

from ends import Switchboard, call, receive_exactly
from faults import FAULTS
from process import Failure
from runner import Case

ORIGIN_PORT = 7600
INTERVAL = 0.005
OUTAGES = (2, 5, 10)
LIMIT = 5
RECORD = struct.Struct(">Qd40x")


class Flow:
    """Records in one direction: when each was sent and when it came."""

    def __init__(self, sender, receiver):
        self.arrivals, self.trouble, self.running = [], None, True
        self.sender, self.receiver = sender, receiver
        for end in (sender, receiver):
            end.settimeout(180)    # longer than any outage, also for plain TCP
        self.threads = [threading.Thread(target=self._guard, args=(run,), daemon=True)
                        for run in (self._send, self._receive)]
        for thread in self.threads:
            thread.start()

    def _guard(self, run):
        try:
            run()
        except (OSError, Failure) as error:
            if self.running:
                self.trouble = f"a record stream broke: {error}"

    def _send(self):
        due, number = time.monotonic(), 0
        while self.running:
            self.sender.sendall(RECORD.pack(number, time.monotonic()))
            number += 1
            due += INTERVAL
            time.sleep(max(0.0, due - time.monotonic()))

    def _receive(self):
        expected = 0
        while self.running:
            number, sent = RECORD.unpack(receive_exactly(self.receiver, RECORD.size))
            if number != expected:
                raise Failure(f"record {expected} was due, {number} came")
            expected += 1
            self.arrivals.append((time.monotonic(), sent))

    def longest_gap(self, since):
        """Seconds between two records that came after that moment; the last one before it counts, too."""
        moments = [came for came, _ in list(self.arrivals)]
        before = [came for came in moments if came <= since][-1:]
        moments = before + [came for came in moments if came > since] + [time.monotonic()]
        return max(later - earlier for earlier, later in zip(moments, moments[1:]))

    def stop(self):
        self.running = False
        if self.trouble:
            raise Failure(self.trouble)

    def recovery(self, healed):
        """(seconds to the first record that came after the heal, seconds until nothing lags any more)."""
        after = [(came, sent) for came, sent in list(self.arrivals) if came > healed]
        if not after:
            return None, None
        level = next((came - healed for came, sent in after if came - sent < 0.1), None)
        return after[0][0] - healed, level


def recovery(context):
    ways = [context.job.path] + (["direct"] if context.job.path == "tele" else [])
    outages = context.options.long and (2, 5, 10, 30, 60) or OUTAGES
    if context.job.expect:
        outages = (7,)      # over plain TCP a retransmission comes 12.6 s after the loss, and none in between
    results, worst = {}, 0.0

    def measure(way):
        try:
            with_lab(way)
        except Failure as failure:
            results[way] = failure

    def with_lab(way):
        lab = context.lab()
        path = context.path(lab, ORIGIN_PORT, kind=way)
        rows = results.setdefault(way, [])
        with Switchboard(lab, ORIGIN_PORT) as switchboard:
            user, origin = call(lab, path, switchboard)
            flows = [Flow(user, origin), Flow(origin, user)]
            for seconds in outages:
                context.sleep(1.5)
                FAULTS["blackhole"].inflict(lab, path)
                context.sleep(seconds)
                FAULTS["blackhole"].heal(lab, path)
                healed = time.monotonic()
                context.until(30, lambda: all(flow.trouble or flow.recovery(healed)[1] for flow in flows))
                for flow in flows:
                    if flow.trouble:
                        raise Failure(flow.trouble)
                rows.append([flow.recovery(healed) for flow in flows])
            for flow in flows:
                flow.running = False

    threads = [threading.Thread(target=measure, args=(way,), daemon=True) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            context.sleep(0.1)

    context.show(f"{'path':8}{'outage':>8}{'first up':>10}{'first down':>12}{'level up':>10}"
                 f"{'level down':>12}   seconds")
    for way in ways:
        if isinstance(results.get(way), Failure):
            if way == "direct":
                context.show(f"{way:8} {results[way]}")
                continue
            raise results[way]
        for seconds, row in zip(outages, results[way]):
            (up, level_up), (down, level_down) = row
            cells = ["never" if value is None else f"{value:.3f}"
                     for value in (up, down, level_up, level_down)]
            context.show(f"{way:8}{seconds:>6} s{cells[0]:>10}{cells[1]:>12}{cells[2]:>10}{cells[3]:>12}")
            if way != "direct" or context.job.path == "direct":
                worst = max(worst, *(LIMIT * 10 if value is None else value for value in (up, down)))
    if worst > LIMIT:
        raise Failure(f"the first new byte came {worst:.1f} s after the heal, more than {LIMIT} s")
    return f"first new byte at most {worst:.2f} s after the heal"


def cases():
    yield Case("recovery", recovery, weight=3, drivers="either", canaries=(("relay", "more than 5 s"),))
