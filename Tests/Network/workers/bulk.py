"""Bulk both ways on one connection as fast as it goes, every byte under a SHA-256.

    bulk.py origin PORT
    bulk.py user HOST PORT UP DOWN [PAUSE]   bytes each way; PAUSE: seconds without reading, in the middle

A connection begins with both lengths, 8 bytes each. Either side ends its half in order, and prints when both have ended a line
of JSON: bytes and hash of what it sent and received, and how the other half ended.
"""

import hashlib
import json
import random
import socket
import struct
import sys
import threading
import time

CHUNK = 1 << 20
BLOCK = random.Random(7).randbytes(9 << 20)


def chunks(seed, count):
    """`count` bytes that nothing repeats: each chunk begins with its number."""
    number = 0
    while count > 0:
        start = (seed + number * 65537) % (8 << 20)
        chunk = struct.pack(">QQ", seed, number) + BLOCK[start:start + CHUNK - 16]
        yield chunk[:count]
        count -= CHUNK
        number += 1


def send(sock, seed, count, result):
    digest, sent = hashlib.sha256(), 0
    try:
        for chunk in chunks(seed, count):
            sock.sendall(chunk)
            digest.update(chunk)
            sent += len(chunk)
        sock.shutdown(socket.SHUT_WR)
    except OSError as error:
        result["failed"] = str(error)
    result["sent"] = [sent, digest.hexdigest()]


def receive(sock, count, pause, result):
    digest, received, memory = hashlib.sha256(), 0, bytearray(CHUNK)
    view, end = memoryview(memory), "fin"
    try:
        while got := sock.recv_into(memory):
            digest.update(view[:got])
            received += got
            if pause and received > count // 2:
                time.sleep(pause)
                pause = 0
    except OSError as error:
        end = str(error)
    result["received"], result["end"] = [received, digest.hexdigest()], end


def both(sock, seed, out, back, pause=0):
    began, result = time.monotonic(), {}
    sender = threading.Thread(target=send, args=(sock, seed, out, result))
    sender.start()
    receive(sock, back, pause, result)
    sender.join()
    sock.close()
    result["seconds"] = time.monotonic() - began
    # print() writes a line and its end in two: those of two connections could mix.
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def serve(sock):
    up, down = struct.unpack(">QQ", sock.recv(16, socket.MSG_WAITALL))
    both(sock, 2, down, up)


if sys.argv[1] == "origin":
    listener = socket.create_server(("0.0.0.0", int(sys.argv[2])), backlog=64)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
else:
    host, port, up, down = sys.argv[2], *map(int, sys.argv[3:6])
    connection = socket.create_connection((host, port))
    connection.sendall(struct.pack(">QQ", up, down))
    both(connection, 1, up, down, float(sys.argv[6]) if len(sys.argv) > 6 else 0)
