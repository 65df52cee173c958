"""A middlebox that accepts connections for the server and, when told, swallows bytes in one or both directions.

    middlebox.py PORT HOST HOSTPORT

Lines on stdin: "pass", "both" (swallow both ways), "up" (swallow only what the client sends). A connection that was
there while it swallowed stays deaf that way for ever, as behind a box that lost its state; nothing is ever reset.
"""

import socket
import sys
import threading

mode = "pass"
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
                    sink.sendall(data)
        except OSError:
            pass
        # An end passes through only where bytes do: otherwise nobody is ever told.
        if getattr(self, way):
            for end in (source, sink):
                end.close()


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
    global mode
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=256)
    threading.Thread(target=accept, args=(listener, (sys.argv[2], int(sys.argv[3]))), daemon=True).start()
    for line in sys.stdin:
        with lock:
            mode = line.strip()
            for pair in pairs:
                pair.follow(mode)


main()
