"""What users and operators do during an outage, forward and reverse, over TCP and unix sockets: the outage delays it and changes nothing."""

import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time

from ends import exchange, observe, receive_exactly, reset
from lab import SERVER_ADDRESS
from path import binary, security_flags
from process import Failure
from runner import Case

CARRIER = 40300
MIB = 1 << 20
#: More than the kernel's buffers and tele's own hold for one connection.
PUSHED = 96 * MIB
BLOCK = bytes(range(251)) * 1044


class Service:
    """A mapping's two ends: where its users connect, and its origin, each TCP or unix."""

    def __init__(self, kind, name, port, folder, users_host, origin_host):
        self.kind, self.name, self.users_host, self.origin_host = kind, name, users_host, origin_host
        at = (lambda what, number: f"unix:{folder}/{name}-{what}") if kind == "unix" else (lambda what, number: f"127.0.0.1:{number}")
        self.entrance, self.origin = at("in", port), at("out", port + 100)
        self.arrived = queue.Queue()
        self.listener = None

    def _target(self, address):
        if self.kind == "unix":
            return address.removeprefix("unix:")
        host, port = address.rsplit(":", 1)
        return (host, int(port))

    def listen(self):
        if self.kind == "unix":
            self.listener = socket.socket(socket.AF_UNIX)
            target = self._target(self.origin)
            if os.path.exists(target):
                os.unlink(target)
            self.listener.bind(target)
            self.listener.listen(64)
        else:
            self.listener = self.origin_host.listen(self._target(self.origin)[1])
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()
        return self

    def _accept(self, listener):
        while True:
            try:
                self.arrived.put(listener.accept()[0])
            except OSError:
                return

    def close(self):
        """Nobody listens any more; what was accepted lives on."""
        listener, self.listener = self.listener, None
        if listener:
            try:
                listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            listener.close()

    def connect(self):
        if self.kind == "tcp":
            return self.users_host.connect(self._target(self.entrance))
        user = socket.socket(socket.AF_UNIX)
        user.settimeout(5)
        user.connect(self._target(self.entrance))
        return user

    def accepted(self, seconds=15):
        try:
            end = self.arrived.get(timeout=seconds)
        except queue.Empty:
            raise Failure(f"{self.name}: no connection reached the origin within {seconds} s") from None
        end.settimeout(15)
        return end

    def pair(self):
        user = self.connect()
        origin = self.accepted()
        user.settimeout(15)
        exchange(user, origin)
        return user, origin


class Tunnel:
    """A client and a server with configuration files; `direction`: who has the users."""

    def __init__(self, context, direction, kind):
        self.context, self.lab, self.is_reverse = context, context.lab(), direction == "reverse"
        self.driver = context.job.driver or "auto"
        hosts = (self.lab.server, self.lab.client) if self.is_reverse else (self.lab.client, self.lab.server)
        self.services = {name: Service(kind, name, 9301 + place, self.lab.directory, *hosts) for place, name in enumerate(("main", "added", "gone", "absent"))}
        self.write(("main", "gone", "absent"))
        self.server, self.client = self.start("server", self.lab.server), None
        self.server.wait_for_port(CARRIER)
        self.client = self.start("client", self.lab.client)
        if not context.until(10, lambda: "carrier up" in self.client.errors):
            raise Failure("the client has no carrier")
        # The side that has the users is the one that is drained and reloaded first.
        self.users_side, self.origins_side = (self.server, self.client) if self.is_reverse else (self.client, self.server)

    def file(self, role):
        return os.path.join(self.lab.directory, f"{role}.toml")

    def write(self, names):
        users, origins = (("server", "listen"), ("client", "origins")) if self.is_reverse else (("client", "listen"), ("server", "origins"))
        for (role, table), side in ((users, "entrance"), (origins, "origin")):
            out = f":{CARRIER}" if role == "server" else f"{SERVER_ADDRESS}:{CARRIER}"
            lines = "".join(f"{name} = {json.dumps(getattr(self.services[name], side))}\n" for name in names)
            with open(self.file(role), "w", encoding="utf-8") as file:
                # What is open when a drain is over would be reset.
                file.write(f'[{role}]\nio = "{self.driver}"\nout = "{out}"\ndrain = "60s"\n[{role}.{table}]\n{lines}')

    def control(self, role):
        return os.path.join(self.lab.directory, f"{role}.sock")

    def start(self, role, host):
        return self.lab.start(f"tele-{role}", [binary(), f"-config={self.file(role)}", f"-control={self.control(role)}", *security_flags(role)], host=host)

    def reload(self, process):
        count = process.errors.count("notice reloaded")
        process.signal(signal.SIGHUP)
        if not self.context.until(5, lambda: process.errors.count("notice reloaded") > count):
            raise Failure(f"{process.name} did not reload: {process.errors[-300:]}")

    def drain(self):
        role = "server" if self.users_side is self.server else "client"
        run = subprocess.run([binary(), "drain", f"-control={self.control(role)}"], capture_output=True, text=True, timeout=15)
        if run.returncode:
            raise Failure(f"tele drain: {run.stderr.strip()}")


def push(end, count):
    """Sends that many bytes on a thread of its own. Returns the thread and what went wrong."""
    wrong = []

    def send():
        try:
            left = count
            end.settimeout(120)
            while left:
                part = BLOCK[:left]
                end.sendall(part)
                left -= len(part)
            end.shutdown(socket.SHUT_WR)
        except OSError as error:
            wrong.append(str(error))
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread, wrong


def pull(end, count, who):
    """Reads what `push` has sent, and its end."""
    end.settimeout(60)
    at = 0
    while at < count:
        part = end.recv(1 << 18)
        if not part:
            raise Failure(f"{who}: the end after {at} of {count} bytes")
        start = at % len(BLOCK)
        wanted = (BLOCK + BLOCK)[start:start + len(part)] if len(part) <= len(BLOCK) else (BLOCK * 3)[start:start + len(part)]
        if part != wanted:
            raise Failure(f"{who}: wrong bytes near {at}")
        at += len(part)
    if end.recv(1) != b"":
        raise Failure(f"{who}: bytes behind the end")


def ended(end, who, allowed, seconds=15):
    data, seen = observe(end, time.monotonic() + seconds)
    if data or seen not in allowed:
        raise Failure(f"{who}: {len(data)} bytes, then {seen}; expected {' or '.join(allowed)}")


def doings(direction, kind):
    """Through two outages, in the second of which the side with the users is drained."""
    # A unix socket has no reset of its own: who is cut off reads an end, as from a peer that was killed.
    cut = ("reset",) if kind == "tcp" else ("reset", "eof")

    def story(context):
        seconds = 10 if context.options.long else 2
        tunnel = Tunnel(context, direction, kind)
        main, added, gone, absent = (tunnel.services[name] for name in ("main", "added", "gone", "absent"))
        main.listen()
        gone.listen()
        added.listen()
        # Stuck readers, one on each side, from before the outage to after it.
        user_stuck, origin_stuck = main.pair(), main.pair()
        pushes = [push(user_stuck[1], PUSHED), push(origin_stuck[0], PUSHED)]
        half, resets, closes, recycled, idle = main.pair(), main.pair(), main.pair(), gone.pair(), main.pair()
        leaving = gone.pair()
        context.sleep(0.5)
        tunnel.lab.forward("drop")
        half[0].sendall(BLOCK)
        half[0].shutdown(socket.SHUT_WR)
        reset(resets[0]) if kind == "tcp" else resets[0].close()
        closes[1].close()
        # The origin ends wholly, with what it had, and another one takes its place.
        gone.close()
        recycled[1].close()
        context.sleep(seconds / 2)
        early, lost = main.connect(), absent.connect()
        gone.listen()
        again = gone.connect()
        tunnel.write(("main", "added", "absent", "gone"))
        tunnel.reload(tunnel.users_side)
        tunnel.reload(tunnel.origins_side)
        late = added.connect()
        for user in (early, again, late):
            user.settimeout(15)
            user.sendall(b"first")
        context.sleep(seconds / 2)
        tunnel.lab.forward()
        if receive_exactly(half[1], len(BLOCK)) != BLOCK or half[1].recv(1) != b"":
            raise Failure("a half-closed connection lost bytes or its end")
        half[1].sendall(BLOCK)
        half[1].close()
        if receive_exactly(half[0], len(BLOCK)) != BLOCK or half[0].recv(1) != b"":
            raise Failure("the answer behind the end, or its end, was lost")
        ended(resets[1], "the origin of a user who has gone", cut)
        ended(closes[0], "the user of an origin that has closed", ("eof",))
        ended(recycled[0], "the user of the old origin", ("eof",))
        ended(lost, "the user of an origin that is not there", cut)
        exchange(*idle)
        exchange(*leaving)
        pairs = [idle, leaving]
        for user, service in ((early, main), (again, gone), (late, added)):
            origin = service.accepted()
            if receive_exactly(origin, 5) != b"first":
                raise Failure("the first bytes of a user who came during the outage are wrong")
            exchange(user, origin)
            pairs.append((user, origin))
        # The second outage: a mapping is taken away, and the side with the users is drained.
        tunnel.lab.forward("drop")
        for user, _ in pairs:
            user.sendall(b"during")
        waiting = main.connect()
        waiting.sendall(b"first")
        context.sleep(seconds / 2)
        tunnel.write(("main", "added", "absent"))
        tunnel.reload(tunnel.users_side)
        tunnel.drain()
        try:
            with main.connect() as refused:
                ended(refused, "who comes while it drains", cut)
        except (ConnectionRefusedError, FileNotFoundError):   # The second: the socket's file is gone.
            pass
        context.sleep(seconds / 2)
        tunnel.lab.forward()
        pairs.append((waiting, main.accepted()))
        if receive_exactly(pairs[-1][1], 5) != b"first":
            raise Failure("who came before the drain was not served whole")
        for _, origin in pairs[:-1]:
            if receive_exactly(origin, 6) != b"during":
                raise Failure("bytes of the second outage are wrong")
        for pair in pairs:
            exchange(*pair)
        # They read at last.
        pull(user_stuck[0], PUSHED, "the user who did not read")
        pull(origin_stuck[1], PUSHED, "the origin that did not read")
        for thread, wrong in pushes:
            thread.join(10)
            if wrong or thread.is_alive():
                raise Failure(f"a sender did not end: {wrong}")
        for pair in [user_stuck, origin_stuck, half, resets, closes, recycled, *pairs]:
            for end in pair:
                end.close()
        if tunnel.users_side.wait(15) != 0:
            raise Failure("what was drained did not end in order")
        for service in tunnel.services.values():
            service.close()
        return f"two outages of {seconds} s: {len(pairs) + 8} connections ended, or went on, as without"
    return story


def cases():
    for direction in ("forward", "reverse"):
        for kind in ("tcp", "unix"):
            yield Case(f"outage.{direction}-{kind}", doings(direction, kind), drivers="either", only_tele=True)
