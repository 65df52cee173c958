"""Peers that know the protocol and bend it, over real sockets: legal sessions with a lie now and then, cut off anywhere. What the
simulator does to a tunnel, done to a whole server: its sockets, its origins' moods, its memory."""

import random
import socket
import threading
import time

from ends import RESET_AT_CLOSE, Switchboard, call, exchange
from process import Failure
from runner import CAPACITY, Case

from cases import floods
from cases.floods import AT_ONCE, GOOD_USERS, MOODS_PORT, ORIGIN_PORT, PER_SECOND, begin, echoes, frame, judge, session, target_of, two_origins, varint
from cases.mappings import Route

TARGET = target_of("moods")
LIES = b"liar"
INITIAL_CREDIT = 4096
#: Kinds of line that liars can cause: those of floods, one for each way to break the protocol, origins and streams.
KINDS = 40
#: Frames a second.
LEAST = 1000


class MoodyOrigin:
    """Does what origins do: answers, half-closes, resets, is silent."""

    def __init__(self, listener, chance):
        self.listener, self.chance = listener, chance

    def run(self):
        while True:
            end, _ = self.listener.accept()
            threading.Thread(target=self._meet, args=(end,), daemon=True).start()

    def _meet(self, end):
        end.settimeout(5)
        try:
            self._answer(end, self.chance.choice(("close", "reset", "send", "echo", "half-close", "silence")))
        except OSError:
            pass
        end.close()

    def _answer(self, end, mood):
        if mood == "reset":
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        elif mood == "send":
            end.sendall(bytes(self.chance.randrange(200_000)))
        elif mood == "half-close":
            end.shutdown(socket.SHUT_WR)
        elif mood == "silence":
            time.sleep(self.chance.random() * 2)
        while mood in ("echo", "half-close") and (got := end.recv(4096)):
            if mood == "echo":
                end.sendall(got)


class Script:
    """The frames of one session, mostly legal."""

    def __init__(self, chance):
        self.chance = chance
        self.sent = {}      # Bytes of each stream that has not ended.
        self.next = 0
        self.count = 0

    def batch(self):
        return b"".join(self._frame() for _ in range(self.chance.randrange(1, 40)))

    def _frame(self):
        self.count += 1
        kinds = (self._open, self._data, self._data, self._data, self._finish, self._reset, self._credit, self._answer)
        kind = self._lie if self.chance.random() < 0.01 else self.chance.choice(kinds)
        return kind()

    def _open(self):
        stream, self.next = self.next, self.next + 2
        self.sent[stream] = 0
        return frame(0x41, stream, TARGET, INITIAL_CREDIT, self.chance.choice((0, 1, 4096, 1 << 20, 1 << 30)))

    def _some(self):
        return self.chance.choice(tuple(self.sent)) if self.sent else None

    def _data(self):
        stream = self._some()
        if stream is None:
            return self._open()
        room = INITIAL_CREDIT - self.sent[stream]
        count = min(room, self.chance.choice((1, 8, 100, 4096)))
        if count <= 0:
            return self._finish()
        self.sent[stream] += count
        return bytes([0x42]) + varint(len(varint(stream)) + count) + varint(stream) + (LIES * 1024)[:count]

    def _finish(self):
        stream = self._some()
        return self._open() if stream is None else frame(0x43, stream, self.sent.pop(stream))

    def _reset(self):
        stream = self._some()
        if stream is None:
            return self._open()
        del self.sent[stream]
        return frame(0x44, stream, self.chance.randrange(9))

    def _credit(self):
        stream = self._some()
        return self._open() if stream is None else frame(0x45, stream, self.chance.randrange(1 << 40))

    def _answer(self):
        return self.chance.choice((frame(0x02, self.chance.randrange(1 << 20)), frame(0x01, 0, 1 << 40)))

    def _lie(self):
        number = self.chance.choice((0, 1, 2, self.next, 1 << 20, (1 << 62) - 1))
        return self.chance.choice((
            frame(0x41, number, TARGET, 4096, 4096), frame(0x41, self.next, number, 4096, 4096), frame(0x43, number, number),
            frame(0x44, number, number), frame(0x45, number, 0), frame(0x01, number, number), frame(0x03, number), frame(0x04, number),
            bytes([0x42]) + varint(8) + bytes(8), bytes([0x42]) + varint(1 << 40), self.chance.randbytes(20), frame(0x11, number), frame(0x7f, number)))


def lie(lab, stop, seed):
    chance = random.Random(seed)
    threading.Thread(target=MoodyOrigin(lab.server.listen(MOODS_PORT), random.Random(seed + 1)).run, daemon=True).start()
    while not stop.is_set():
        script = Script(chance)
        try:
            with session(lab) as end:
                end.settimeout(0.2)
                for _ in range(chance.randrange(1, 12)):
                    batch = script.batch()
                    cut = chance.randrange(len(batch) + 1)
                    end.sendall(batch[:cut])
                    end.sendall(batch[cut:])
                    if chance.random() < 0.5:
                        end.recv(65536)
                ending = chance.random()
                if ending < 0.3:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
                elif ending < 0.5:
                    end.sendall(frame(0x04, 0))
                elif ending < 0.6:
                    end.sendall(script.batch()[:chance.randrange(20)])
        except OSError:
            pass
        floods.done.value += script.count


def run(context):
    seconds = 60 if context.options.long else 6
    lab = context.lab()
    path = two_origins(context, lab)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, Route(GOOD_USERS), switchboard)
        quiet = echoes(user, origin, 1)
        liar, stop, counter = begin(lie, lab, context.random.randrange(1 << 32))
        busy = echoes(user, origin, seconds)
        resident = path.server.memory("VmHWM")
        stop.set()
        liar.join(5)
        liar.kill()
        path.check_alive()
        exchange(user, origin)
        gone = context.until(25, lambda: path.server.descriptors() < 40)
        exchange(user, origin)
        lines = path.server.errors.count("\n")
    judge(counter.value, LEAST * seconds, lines, KINDS * (AT_ONCE + PER_SECOND * (seconds + 30)), resident, busy, quiet)
    if not gone:
        raise Failure(f"{path.server.descriptors()} descriptors are left of it")
    return f"{counter.value} frames, good client's p99 {busy * 1000:.1f} ms (quiet {quiet * 1000:.1f}), server at most {resident >> 20} MiB, {lines} lines"


def cases():
    yield Case("liars", run, only_tele=True, only_plain=True, drivers="both", weight=CAPACITY)
