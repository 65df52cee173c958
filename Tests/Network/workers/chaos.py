"""One side of chaos: many connections at once, each half with its own pace and length, every byte checked.

    chaos.py user|origin CONFIG      CONFIG is JSON: address, seed, connections, seconds, patience

The user opens `connections` long ones, and short ones all the time beside them (their numbers begin at 1000).
A half ends in order (FIN) when its sender is done; the other half goes on. The origin ends when its stdin does.
The last line on stdout is JSON: one record for each connection, with bytes, SHA-256 and end of both halves.
"""

import json
import os
import random
import selectors
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from oracle import DOWN, TAG, UP, Misplaced, Stream, connection_of

SHORT = 1000
SHORT_INTERVAL = 0.25
TICK = 0.02
RATES = [20_000, 200_000, 1_000_000]      # bytes a second

role, config = sys.argv[1], json.loads(sys.argv[2])
began = time.monotonic()


class Sending:
    """The half that goes out: how fast, and how far."""

    def __init__(self, number, direction):
        chance = random.Random(f"{config['seed']}/{number}/{direction}")
        self.stream = Stream(number, direction)
        self.rate = chance.choice(RATES)
        self.burst = chance.choice([1, 1, 10])
        self.chance = chance
        self.allowance = 0.0
        self.finished = False
        if number >= SHORT:
            self.total, self.until = chance.randrange(1, 200_000), None
            self.rate = None
        else:
            self.total = None
            # Half of the halves end early, in the middle of the trouble.
            self.until = began + config["seconds"] * (1 if chance.random() < 0.5 else chance.uniform(0.3, 1))

    def due(self, passed):
        """How many bytes to send now; 0: none yet."""
        if self.rate is None:
            return min(self.total - self.stream.offset, 65536)
        self.allowance = min(self.allowance + self.rate * passed, self.rate)
        if self.allowance < self.rate * TICK * self.burst * 0.9:
            return 0
        return min(int(self.allowance), self.chance.randrange(1, 65536))

    @property
    def at_end(self):
        return self.stream.offset >= self.total if self.total is not None else time.monotonic() >= self.until


class Connection:
    def __init__(self, sock, number=None):
        self.sock, self.number = sock, number
        self.start, self.end, self.reading_until = b"", None, 0.0
        self.sending = self.receiving = None
        if number is not None:
            self._know(number)

    def _know(self, number):
        self.number = number
        mine, theirs = (UP, DOWN) if role == "user" else (DOWN, UP)
        self.sending, self.receiving = Sending(number, mine), Stream(number, theirs)
        # Some readers pause, so that credit runs out.
        self.pauses = random.Random(f"{config['seed']}/{number}/{role}").random() < 0.3 and number < SHORT

    def receive(self, now):
        if self.end or now < self.reading_until:
            return
        try:
            data = self.sock.recv(262144)
        except BlockingIOError:
            return
        except OSError as error:
            self.end = type(error).__name__
            return
        if not data:
            self.end = "fin"
            return
        if self.receiving is None:
            self.start += data
            if len(self.start) < TAG.size:
                return
            self._know(connection_of(self.start))
            data, self.start = self.start, b""
        self.receiving.check(data)
        if self.pauses and random.random() < 0.01:
            self.reading_until = now + 0.5

    def send(self, passed):
        half = self.sending
        if half is None or half.finished:
            return
        # The answer of a short connection begins when the request has ended.
        if half.stream.connection >= SHORT and role == "origin" and self.end != "fin":
            return
        try:
            if half.at_end and half.stream.offset >= TAG.size:
                self.sock.shutdown(socket.SHUT_WR)
                half.finished = True
                return
            count = half.due(passed) if half.stream.offset else 65536 if half.rate is None else TAG.size
            if half.total is not None:
                count = min(max(half.total, TAG.size) - half.stream.offset, 65536)
            if count > 0:
                data = half.stream.peek(count)
                sent = self.sock.send(data)
                half.stream.advance(data[:sent])
                half.allowance -= sent
        except BlockingIOError:
            pass
        except OSError as error:
            self.end = self.end or type(error).__name__
            half.finished = True

    @property
    def done(self):
        return self.end is not None and (self.sending is None or self.sending.finished or self.end != "fin")

    def record(self):
        halves = {}
        for name, stream in (("sent", self.sending and self.sending.stream), ("received", self.receiving)):
            halves[name] = [stream.offset, stream.sha.hexdigest()] if stream else [0, ""]
        return {"number": self.number, "end": self.end or "open", **halves,
                "finished": bool(self.sending and self.sending.finished)}


class Side:
    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.connections, self.records = [], []
        self.misplaced = []
        self.next_short, self.next_at = SHORT, began + 1
        self.last = began
        self.ending_at = None
        if role == "origin":
            self.listener = socket.create_server(tuple(config["address"]), backlog=1024)
            self.listener.setblocking(False)
            self.selector.register(self.listener, selectors.EVENT_READ)
            os.set_blocking(0, False)
            self.selector.register(0, selectors.EVENT_READ)
        else:
            for number in range(config["connections"]):
                self.open(number)

    def add(self, sock, number=None):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(sock, number)
        self.connections.append(connection)
        return connection

    def open(self, number):
        self.add(socket.create_connection(tuple(config["address"]), timeout=5), number)

    def tick(self):
        now = time.monotonic()
        passed, self.last = now - self.last, now
        if role == "origin":
            self._accept()
            self._notice_end(now)
        elif self.next_at <= now < began + config["seconds"]:
            self.next_at += SHORT_INTERVAL
            self.open(self.next_short)
            self.next_short += 1
        for connection in self.connections:
            try:
                connection.receive(now)
                connection.receive(now)
            except Misplaced as wrong:
                self.misplaced.append(str(wrong))
                connection.end = "misplaced"
            connection.send(passed)
            if connection.done:
                self.records.append(connection.record())
                connection.sock.close()
        self.connections = [connection for connection in self.connections if not connection.done]

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return
            self.add(sock)

    def _notice_end(self, now):
        try:
            if self.ending_at is None and not os.read(0, 1):
                self.ending_at = now + 5
        except BlockingIOError:
            pass

    @property
    def finished(self):
        if role == "user":
            past = time.monotonic() > began + config["seconds"]
            late = time.monotonic() > began + config["seconds"] + config["patience"]
            return late or (past and not self.connections)
        return self.ending_at is not None and (not self.connections or time.monotonic() > self.ending_at)

    def run(self):
        while not self.finished:
            self.tick()
            time.sleep(max(0.0, TICK - (time.monotonic() - self.last)))
        self.records += [connection.record() for connection in self.connections]
        print(json.dumps({"connections": self.records, "misplaced": self.misplaced}), flush=True)


Side().run()
