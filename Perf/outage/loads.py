"""What goes over the path while it is measured. Both ends are here, so that one clock times them."""
import bisect
import os
import signal
import socket
import struct
import sys
import threading
import time

from hosts import Hosts, Trouble
from transports import ORIGIN_PORT, Transport

RECORD = struct.Struct(">Qd")
RECORD_BYTES = 64


class Ended(Exception):
    """The connection broke, or ended where it should not."""


class Origin:
    """Accepts connections on the server's host, in the order in which they come."""

    def __init__(self, hosts: Hosts, transport: Transport):
        self._listener = hosts.server.socket(transport.protocol)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("0.0.0.0", ORIGIN_PORT))
        self._listener.listen(4096)
        self._hosts, self._transport = hosts, transport

    def connect(self, seconds: float = 10) -> tuple[socket.socket, socket.socket]:
        """A new connection: (the user's end, the origin's end). Its first byte has passed, so that it exists all the way."""
        user = self._hosts.client.socket(self._transport.protocol)
        try:
            user.settimeout(seconds)
            user.connect(self._transport.address)
            user.sendall(b"!")
        except OSError as error:
            raise Trouble(f"{self._transport.name}: no connection ({error})") from None
        origin = self.accept(seconds)
        user.settimeout(None)
        return user, origin

    def accept(self, seconds: float = 10) -> socket.socket:
        """The origin's end of the next connection whose user has said its first byte."""
        try:
            self._listener.settimeout(seconds)
            while True:
                origin, _ = self._listener.accept()
                origin.settimeout(seconds)
                if origin.recv(1) == b"!":
                    break
                origin.close()   # Somebody's probe.
        except OSError as error:
            raise Trouble(f"{self._transport.name}: no connection ({error})") from None
        origin.settimeout(None)
        origin.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return origin

    def close(self):
        self._listener.close()


class Crowd:
    """The users' ends of many connections, in a process of its own: one process has descriptors for one end of each."""

    def __init__(self, hosts: Hosts, transport: Transport, count: int):
        self._orders, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            self._orders.close()
            self._serve(hosts, transport, count, theirs)
        theirs.close()

    def _serve(self, hosts: Hosts, transport: Transport, count: int, orders: socket.socket):
        """The child: connects all, then writes a byte on each when it is told to, and stays until it is left."""
        try:
            ends = []
            for _ in range(count):
                end = hosts.client.socket(transport.protocol)
                end.connect(transport.address)
                end.sendall(b"!")
                ends.append(end)
            while orders.recv(1):
                for end in ends:
                    end.sendall(b"w")
                orders.sendall(b".")
        except OSError as error:
            print(f"{transport.name}: {error}", file=sys.stderr)
        finally:
            os._exit(0)

    def write(self):
        self._orders.sendall(b"w")
        if not self._orders.recv(1):
            raise Trouble("the users are gone")

    def close(self):
        self._orders.close()
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def receive_exactly(end: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = end.recv(count - len(data))
        if not piece:
            raise Ended("ended")
        data += piece
    return data


class Task:
    """A thread that ends with its sockets; `trouble` is what ended it before."""

    def __init__(self, work):
        self.trouble: Exception | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            self._work()
        except (OSError, Ended, ValueError) as error:
            self.trouble = error


class Records:
    """Small records at a steady rate, one way. `arrivals`: (when it came, when it was sent)."""

    def __init__(self, sender: socket.socket, receiver: socket.socket, interval: float = 0.005):
        self.arrivals: list[tuple[float, float]] = []
        self._ends, self._interval, self._on = (sender, receiver), interval, True
        self._tasks = [Task(self._send), Task(self._receive)]

    def _send(self):
        due, number = time.monotonic(), 0
        while self._on:
            self._ends[0].sendall(RECORD.pack(number, time.monotonic()).ljust(RECORD_BYTES))
            number += 1
            due = max(due + self._interval, time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))

    def _receive(self):
        expected = 0
        while self._on:
            number, sent = RECORD.unpack_from(receive_exactly(self._ends[1], RECORD_BYTES))
            if number != expected:
                raise Ended(f"record {expected} was due, {number} came")
            expected += 1
            self.arrivals.append((time.monotonic(), sent))

    @property
    def trouble(self):
        return next((task.trouble for task in self._tasks if task.trouble), None)

    def first_after(self, moment: float) -> float | None:
        """Seconds from then to the first arrival."""
        index = bisect.bisect_right(self.arrivals, (moment, float("inf")))
        return self.arrivals[index][0] - moment if index < len(self.arrivals) else None

    def stop(self):
        self._on = False


class Stream:
    """Bytes at a rate, one way (0: as fast as it goes). `progress`: (when, bytes received so far)."""
    PIECE = bytes(64 << 10)

    def __init__(self, sender: socket.socket, receiver: socket.socket, rate: float = 0):
        self.sent = self.received = 0
        self.progress: list[tuple[float, int]] = []
        self.began = time.monotonic()
        self._ends, self._rate, self._on = (sender, receiver), rate, True
        self._tasks = [Task(self._send), Task(self._receive)]

    def produced(self, moment: float) -> float:
        return (moment - self.began) * self._rate

    def _send(self):
        while self._on:
            if self._rate:
                ahead = self.sent - self.produced(time.monotonic())
                if ahead > 0:
                    time.sleep(ahead / self._rate)
            self._ends[0].sendall(Stream.PIECE)
            self.sent += len(Stream.PIECE)

    def _receive(self):
        buffer, reported = bytearray(1 << 20), 0.0
        while self._on:
            count = self._ends[1].recv_into(buffer)
            if count == 0:
                raise Ended("ended")
            self.received += count
            now = time.monotonic()
            if now - reported > 0.01:
                self.progress.append((now, self.received))
                reported = now

    @property
    def trouble(self):
        return next((task.trouble for task in self._tasks if task.trouble), None)

    def stop(self):
        self._on = False


class Keystrokes:
    """A byte that is echoed, twenty times a second. `echoes`: (when it was typed, seconds until it came back)."""

    def __init__(self, user: socket.socket, origin: socket.socket, interval: float = 0.05):
        self.echoes: list[tuple[float, float]] = []
        self._user, self._origin, self._interval, self._on = user, origin, interval, True
        self._tasks = [Task(self._echo), Task(self._type)]

    def _echo(self):
        while self._on:
            data = self._origin.recv(4096)
            if not data:
                raise Ended("ended")
            self._origin.sendall(data)

    def _type(self):
        while self._on:
            typed = time.monotonic()
            self._user.sendall(b"k")
            receive_exactly(self._user, 1)
            took = time.monotonic() - typed
            self.echoes.append((typed, took))
            time.sleep(max(0.0, self._interval - took))

    @property
    def trouble(self):
        return next((task.trouble for task in self._tasks if task.trouble), None)

    def stop(self):
        self._on = False
