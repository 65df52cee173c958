"""The bytes that a case sends: a function of (connection, direction, offset), so a misplaced one tells.

A stream is made of blocks of 4096 bytes. Each begins with a tag that says which block it is and goes on with
bytes drawn from the tag, so a receiver needs only the connection's number to know every byte it must see.
"""

import hashlib
import struct

BLOCK = 4096
MAGIC = b"TELE"
TAG = struct.Struct(">4sIBxxxQ")
UP, DOWN = 0, 1
WAY = {UP: "up", DOWN: "down"}


class Misplaced(Exception):
    """A byte arrived that does not belong at its offset."""


def block(connection, direction, index):
    tag = TAG.pack(MAGIC, connection, direction, index)
    return tag + hashlib.shake_128(tag).digest(BLOCK - TAG.size)


def connection_of(start):
    """The connection whose stream begins with these bytes (at least `TAG.size` of them)."""
    magic, connection, _, index = TAG.unpack(start[:TAG.size])
    if magic != MAGIC or index != 0:
        raise Misplaced(f"a connection begins with {start[:TAG.size].hex()}, no beginning of a stream")
    return connection


class Stream:
    """One direction of one connection, produced or expected in order."""

    def __init__(self, connection, direction):
        self.connection, self.direction = connection, direction
        self.offset = 0
        self.sha = hashlib.sha256()
        self._index, self._block = -1, b""

    def __str__(self):
        return f"connection {self.connection} {WAY[self.direction]}"

    def peek(self, count):
        """The next `count` bytes, without moving."""
        parts, position, left = [], self.offset, count
        while left > 0:
            index, start = divmod(position, BLOCK)
            if index != self._index:
                self._index, self._block = index, block(self.connection, self.direction, index)
            part = self._block[start:start + left]
            parts.append(part)
            position += len(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def advance(self, data):
        self.sha.update(data)
        self.offset += len(data)

    def check(self, data):
        """Accept the next bytes as they arrived, or say which byte came instead."""
        expected = self.peek(len(data))
        if data != expected:
            raise Misplaced(self._explain(data, expected))
        self.advance(data)

    def _explain(self, data, expected):
        at = next(i for i in range(len(data)) if data[i] != expected[i])
        where = f"{self} offset {self.offset + at}"
        return f"{where}: {self._name(bytes(data[at:]))}"

    def _name(self, wrong):
        tag = wrong.find(MAGIC)
        if tag >= 0 and len(wrong) >= tag + TAG.size:
            _, connection, direction, index = TAG.unpack(wrong[tag:tag + TAG.size])
            seen = wrong[tag:tag + 64]
            if direction in WAY and seen == block(connection, direction, index)[:len(seen)]:
                position = index * BLOCK - tag
                return f"the byte of connection {connection} {WAY[direction]} offset {position} came"
        if len(wrong) >= 12:
            first = self.offset // BLOCK
            for index in range(max(0, first - 512), first + 512):
                near = block(self.connection, self.direction, index)
                found = near.find(wrong[:12])
                if found >= 0:
                    return f"the byte of its own offset {index * BLOCK + found} came"
        return f"unknown bytes {wrong[:16].hex()} came"
