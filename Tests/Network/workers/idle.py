#!/usr/bin/env python3
"""Sessions that only live: idle.py HOST PORT COUNT [KEY-FILE] greets COUNT times, answers each PING and sends
nothing else. Prints "ready" when all have been welcomed, then how many are gone, once a second. With a key each
session's keys are renewed once, on both sides."""

import selectors
import socket
import struct
import sys
import time

import psk

HELLO = b"TELE\x01\x01\x00\x54" + bytes(16) + struct.pack(">QQQIQ", 1, 0, 0, 0, 1 << 26) + bytes(32)
WELCOME, PING = 0x11, 0x02
#: A frame behind WELCOME proves that somebody is there: PING with the token 1.
PROOF = bytes([PING, 1, 1])


class Session:
    def __init__(self, address, key):
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if key:
            self.socket = psk.SecureSocket(self.socket, key)
        self.socket.sendall(HELLO)
        self.bytes = b""
        self.is_welcome = False

    def read(self):
        """False: it is over."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.bytes += data
        while True:
            frame = self.frame()
            if not frame:
                return bool(data)
            kind, body = frame
            if kind == WELCOME:
                self.is_welcome = True
                if isinstance(self.socket, psk.SecureSocket):
                    self.socket.renew_keys()
                self.socket.sendall(PROOF)
            elif kind == PING:
                self.socket.sendall(bytes([0x03, len(body)]) + body)

    def frame(self):
        """The next whole frame, as (type, body)."""
        if len(self.bytes) < 2:
            return None
        size = 1 << (self.bytes[1] >> 6)
        if len(self.bytes) < 1 + size:
            return None
        length = int.from_bytes(self.bytes[1:1 + size], "big") & ((1 << (8 * size - 2)) - 1)
        if len(self.bytes) < 1 + size + length:
            return None
        kind, body = self.bytes[0], self.bytes[1 + size:1 + size + length]
        self.bytes = self.bytes[1 + size + length:]
        return kind, body


def main():
    address, count = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
    secret = psk.Key(sys.argv[4]) if len(sys.argv) > 4 else None
    waiting = selectors.DefaultSelector()
    sessions = 0
    for _ in range(count):
        session = Session(address, secret)
        while not session.is_welcome:
            if not session.read():
                sys.exit("a session was refused")
        session.socket.setblocking(False)
        waiting.register(session.socket, selectors.EVENT_READ, session)
        sessions += 1
        for key, _ in waiting.select(0):
            if not key.data.read():
                sys.exit("a session ended")
    print("ready", flush=True)
    gone, told = 0, time.monotonic()
    while True:
        for key, _ in waiting.select(0.5):
            if not key.data.read():
                waiting.unregister(key.data.socket)
                gone += 1
        if time.monotonic() - told > 1:
            told = time.monotonic()
            print(gone, flush=True)


if __name__ == "__main__":
    main()
