#!/usr/bin/env python3
"""An origin for thousands of connections: depot.py PORT [SEND-BUFFER]. A connection begins with a
letter and eight bytes.

    D count   it is sent so many bytes of the pattern, then FIN
    E 0       it hears what it says
    U 0       what it sends is compared with the pattern; behind its FIN it gets the count, eight bytes, and FIN

SEND-BUFFER: bytes that the kernel keeps for each connection; otherwise what it likes, 2.5 MiB and more on loopback.
"""

import resource
import selectors
import socket
import struct
import sys

BLOCK = memoryview(bytes(range(251)) * 2100)


def pattern(start, count):
    """Of the next `count` bytes some, not copied."""
    first = start % 251
    return BLOCK[first:first + min(count, 512 << 10)]


class Connection:
    def __init__(self, end):
        self.end, self.head, self.kind = end, b"", None
        self.left = self.position = 0

    def readable(self):
        """Which events it waits for next; 0: it is over."""
        if self.kind is None:
            data = self.end.recv(9 - len(self.head))
            self.head += data
            if not data:
                return 0
            if len(self.head) == 9:
                self.kind, self.left = self.head[:1], struct.unpack(">Q", self.head[1:])[0]
                return selectors.EVENT_WRITE if self.kind == b"D" else selectors.EVENT_READ
            return selectors.EVENT_READ
        data = self.end.recv(1 << 20)
        if self.kind == b"E":
            self.end.sendall(data)
            return selectors.EVENT_READ if data else 0
        if not data:
            if self.kind == b"U":
                self.end.send(struct.pack(">Q", self.position))
            return 0
        view = memoryview(data)
        while view:
            expected = pattern(self.position, len(view))
            if view[:len(expected)] != expected:
                return 0
            self.position += len(expected)
            view = view[len(expected):]
        return selectors.EVENT_READ

    def writable(self):
        for _ in range(4):
            if not self.left:
                self.end.shutdown(socket.SHUT_WR)
                return selectors.EVENT_READ
            part = pattern(self.position, self.left)
            try:
                sent = self.end.send(part)
            except BlockingIOError:
                break
            self.position += sent
            self.left -= sent
        return selectors.EVENT_WRITE


def main():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listener = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=4096)
    listener.setblocking(False)
    if len(sys.argv) > 2:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, int(sys.argv[2]))
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ)
    while True:
        for key, events in waiting.select():
            if key.fileobj is listener:
                try:
                    end = listener.accept()[0]
                except OSError:
                    continue
                end.setblocking(False)
                waiting.register(end, selectors.EVENT_READ, Connection(end))
                continue
            try:
                wanted = key.data.readable() if events & selectors.EVENT_READ else key.data.writable()
            except BlockingIOError:
                continue
            except OSError:
                wanted = 0
            if not wanted:
                waiting.unregister(key.fileobj)
                key.fileobj.close()
            elif wanted != key.events:
                waiting.modify(key.fileobj, wanted, key.data)


main()
