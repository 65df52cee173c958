"""Many streams at full speed beside one that is pushed without being read.

    pump.py origin PORT                  serves by a connection's first byte:
                                           P  sends without end, between "go" and "pause" on stdin
                                           S  pushes SIZE bytes of the pattern, connection 1 down, then ends
                                           T  reads from "wake" on stdin on, checks the pattern, connection 1 up
    pump.py user HOST PORT COUNT         opens COUNT connections of kind P and reads them all

Both print a line of JSON four times a second: what happened so far, with the monotonic clock.
"""

import json
import os
import resource
import selectors
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from oracle import DOWN, UP, Misplaced, Stream

CHUNK = b"p" * 32768
REPORT = 0.25
#: So little of what is pushed may hide in the kernel's buffers at the two ends.
SMALL_BUFFER = 65536
#: As on a network. Loopback's 65483 leave room for one segment in a receive buffer that is half full; the next is lost, and the
#: sender's time-out doubles to seconds: a stream stands still that nobody keeps waiting.
SEGMENT = 8960

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
selector = selectors.DefaultSelector()


def report(**values):
    print(json.dumps({"time": time.monotonic(), **values}), flush=True)


class Origin:
    def __init__(self, port):
        self.listener = socket.create_server(("0.0.0.0", port), backlog=4096)
        self.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        self.listener.setblocking(False)
        selector.register(self.listener, selectors.EVENT_READ, self.accept)
        os.set_blocking(0, False)
        selector.register(0, selectors.EVENT_READ, self.told)
        self.sleeper = self.pushed = self.read = None
        self.pumped, self.going = [], False
        self.state = {"pushed": 0, "read": 0, "end": "", "wrong": ""}
        self.run()

    def run(self):
        at = time.monotonic()
        while True:
            for key, _ in selector.select(REPORT):
                key.data(key.fileobj)
            if time.monotonic() >= at:
                at = time.monotonic() + REPORT
                report(**self.state)

    def accept(self, listener):
        for _ in range(64):
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ, self.first)

    def first(self, sock):
        try:
            kind = sock.recv(1)
        except OSError:
            kind = b""
        selector.unregister(sock)
        if kind == b"P":
            self.pumped.append(sock)
            if self.going:
                selector.register(sock, selectors.EVENT_WRITE, self.pump)
        elif kind == b"S":
            self.size = struct.unpack(">Q", sock.recv(8))[0]
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
            self.pushed = Stream(1, DOWN)
            selector.register(sock, selectors.EVENT_WRITE, self.push)
        elif kind == b"T":
            self.sleeper, self.read = sock, Stream(1, UP)
        else:
            sock.close()

    def pump(self, sock):
        try:
            sock.send(CHUNK)
        except BlockingIOError:
            pass
        except OSError:
            self.pumped.remove(sock)
            selector.unregister(sock)
            sock.close()

    def push(self, sock):
        try:
            data = self.pushed.peek(min(len(CHUNK), self.size - self.pushed.offset))
            self.pushed.advance(data[:sock.send(data)])
        except BlockingIOError:
            return
        except OSError as error:
            self.state["end"] = str(error)
            selector.unregister(sock)
            return
        self.state["pushed"] = self.pushed.offset
        if self.pushed.offset == self.size:
            selector.unregister(sock)
            self.state["sha"] = self.pushed.sha.hexdigest()
            sock.close()

    def told(self, stdin):
        words = os.read(0, 100).decode().split()
        if not words:
            sys.exit(0)
        for word in words:
            if word == "wake":
                selector.register(self.sleeper, selectors.EVENT_READ, self.check)
            elif self.going != (word == "go"):
                self.going = word == "go"
                for sock in self.pumped:
                    if self.going:
                        selector.register(sock, selectors.EVENT_WRITE, self.pump)
                    else:
                        selector.unregister(sock)

    def check(self, sock):
        try:
            data = sock.recv(262144)
            if data:
                self.read.check(data)
            else:
                self.state["end"] = "fin"
        except Misplaced as wrong:
            self.state["wrong"] = str(wrong)
        except OSError as error:
            self.state["end"] = str(error)
        self.state["read"] = self.read.offset
        if self.state["end"] or self.state["wrong"]:
            selector.unregister(sock)


class User:
    def __init__(self, host, port, count):
        each, lost = [0] * count, 0
        for number in range(count):
            sock = socket.socket()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
            sock.settimeout(10)
            sock.connect((host, port))
            sock.send(b"P")
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ, number)
        at = time.monotonic()
        while True:
            for key, _ in selector.select(REPORT):
                try:
                    data = key.fileobj.recv(262144)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if data:
                    each[key.data] += len(data)
                else:
                    lost += 1
                    selector.unregister(key.fileobj)
            if time.monotonic() >= at:
                at = time.monotonic() + REPORT
                report(total=sum(each), lost=lost, each=each)


if sys.argv[1] == "origin":
    Origin(int(sys.argv[2]))
else:
    User(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
