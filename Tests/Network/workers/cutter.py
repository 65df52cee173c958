"""A relay that cuts each connection after so many bytes of its client, on both sides at once.

    cutter.py PORT HOST PORT LEAST MOST SEED

Each connection draws its number between LEAST and MOST. A line is printed for each cut.
"""

import random
import select
import socket
import struct
import sys

port, host, to, least, most, seed = int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:7])
chance = random.Random(seed)
listener = socket.create_server(("127.0.0.1", port), backlog=64)
ways, left = {}, {}


def cut(one):
    for sock in (one, ways.pop(one)):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        ways.pop(sock, None)
        left.pop(sock, None)


while True:
    for sock in select.select([listener, *ways], [], [])[0]:
        if sock is listener:
            near = listener.accept()[0]
            try:
                far = socket.create_connection((host, to), 2)
            except OSError:
                near.close()
                continue
            ways[near], ways[far] = far, near
            left[near] = chance.randrange(least, most)
        elif sock in ways:
            try:
                data = sock.recv(min(1 << 18, left.get(sock, 1 << 18)))
                if data:
                    ways[sock].sendall(data)
            except OSError:
                data = b""
            if sock in left:
                left[sock] -= len(data)
            if not data or left.get(sock) == 0:
                if data:
                    print("cut", flush=True)
                cut(sock)
