"""A middlebox that accepts connections for the server and, when told, swallows bytes in one or both directions.

    middlebox.py PORT HOST HOSTPORT

Lines on stdin: "pass", "both" (swallow both ways), "up" (swallow only what the client sends). A connection that was
there while it swallowed stays deaf that way for ever, as behind a box that lost its state; nothing is ever reset.
"flip up N", "flip down N": one bit of the Nth byte that passes that way from now on is changed. "record FILE": all
bytes that pass are also written there.
"""

import socket
import sys
import threading

mode = "pass"
flips = {}
record = None
pairs = []
lock = threading.Lock()


class Pair:
    def __init__(self, client, server):
        self.client, self.server = client, server
        self.up = self.down = True
        with lock:
            pairs.append(self)
            self.follow(mode)
        for source, sink, way in ((client, server, "up"), (server, client, "down")):
            threading.Thread(target=self.carry, args=(source, sink, way), daemon=True).start()

    def follow(self, word):
        if word in ("both", "up"):
            self.up = False
        if word == "both":
            self.down = False

    def carry(self, source, sink, way):
        try:
            while data := source.recv(65536):
                if getattr(self, way):
                    sink.sendall(change(data, way))
        except OSError:
            pass
        # An end passes through only where bytes do: otherwise nobody is ever told.
        if getattr(self, way):
            for end in (source, sink):
                end.close()


def change(data, way):
    with lock:
        if record:
            record.write(data)
            record.flush()
        if way not in flips:
            return data
        if flips[way] >= len(data):
            flips[way] -= len(data)
            return data
        changed = bytearray(data)
        changed[flips.pop(way)] ^= 0x10
        return bytes(changed)


def accept(listener, server):
    while True:
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            onward = socket.create_connection(server, 5)
        except OSError:
            client.close()
            continue
        onward.settimeout(None)
        onward.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        Pair(client, onward)


def main():
    global mode, record
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=256)
    threading.Thread(target=accept, args=(listener, (sys.argv[2], int(sys.argv[3]))), daemon=True).start()
    for line in sys.stdin:
        with lock:
            words = line.split()
            if words[0] == "flip":
                flips[words[1]] = int(words[2])
                continue
            if words[0] == "record":
                record = open(words[1], "wb")
                continue
            mode = line.strip()
            for pair in pairs:
                pair.follow(mode)


main()
