"""What a user is promised when processes die, middleboxes lie and strangers knock; each from outside."""

import os
import signal
import socket
import struct
import sys
import threading
import time

import path as paths
from ends import Switchboard, call, exchange, observe, receive_exactly
from lab import SERVER_ADDRESS
from path import CARRIER_PORT
from process import Failure
from runner import Case

ORIGIN_PORT = 7900
MIDDLEBOX_PORT = 7950
WORKERS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "workers")
#: A probe's interval and two round trips; the rest is the machine's.
RECOVERY = 0.5


def begin(lab, path, switchboard):
    """A user's connection whose first bytes went out, whether anybody could take them or not."""
    name = switchboard.name()
    user = lab.client.connect(path.address)
    user.sendall(struct.pack(">Q", name) + b"early")
    return name, user


def killed_and_started(context):
    """A killed process starts again at once, on the same port, and no user hangs or sees a clean end."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT)
    rounds = 500 if context.options.long else 12
    slowest = 0.0
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        for turn in range(rounds):
            user, origin = call(lab, path, switchboard)
            origin.sendall(b"o" * 200_000)
            user.sendall(b"u" * 200_000)
            role = "server" if turn % 2 else "client"
            getattr(path, role).kill()
            began = time.monotonic()
            start_anew(context, path, role)
            fresh, other = served(lab, path, switchboard)
            slowest = max(slowest, time.monotonic() - began)
            for end, who in ((user, "user"), (origin, "origin")):
                # The other side of a killed client is held; its end is not ours to see here.
                _, seen = observe(end, time.monotonic() + (0.02 if (role, who) == ("client", "origin") else 2))
                if seen == "eof":
                    raise Failure(f"round {turn}: the {who} saw a clean end when the {role} was killed")
            for end in (user, origin, fresh, other):
                end.close()
    if slowest > 1:
        raise Failure(f"it took {slowest:.2f} s from a start to the first exchange")
    return f"{rounds} kills, at most {slowest:.2f} s from the start to an exchange"


def start_anew(context, path, role):
    """Starts a process and waits for its own word: the port may still be that of the dead one for a moment."""
    heard = getattr(path, role).errors.count("listening for ")
    getattr(path, f"start_{role}")()
    context.until(5, lambda: getattr(path, role).errors.count("listening for ") > heard)


def served(lab, path, switchboard):
    """A connection that works within a second. One that the dead server may have heard of is reset, and another made."""
    limit = time.monotonic() + 1
    while True:
        name, user = begin(lab, path, switchboard)
        while time.monotonic() < limit:
            try:
                origin = switchboard.accepted(name, 0.02)
                if receive_exactly(origin, 5) != b"early":
                    raise Failure("the first bytes were lost")
                exchange(user, origin, seconds=1)
                return user, origin
            except Failure:
                _, seen = observe(user, time.monotonic() + 0.001)
                if seen == "reset":
                    break
                if seen != "nothing":
                    raise Failure(f"a new connection saw “{seen}”") from None
        else:
            raise Failure("a new connection hung for a second")


def newcomers_outlive_the_session(context):
    """A connection that came while the server was gone goes on in the new session, with its bytes."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        old, old_origin = call(lab, path, switchboard)
        exchange(old, old_origin)
        path.server.kill()
        context.sleep(0.3)
        waiting = [begin(lab, path, switchboard) for _ in range(20)]
        context.sleep(0.3)
        path.start_server()
        for name, user in waiting:
            origin = switchboard.accepted(name, 2)
            if origin.recv(5) != b"early":
                raise Failure("the first bytes were lost")
            exchange(user, origin)
        _, seen = observe(old, time.monotonic() + 1)
        if seen != "reset":
            raise Failure(f"a user of the lost session saw “{seen}”, not a reset")
    return "20 connections carried over"


def drain_in_an_outage(context):
    """SIGTERM while the network is away and bytes wait: they arrive, then the process ends."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT, client_flags=["-drain=30s"], server_flags=["-drain=30s"])
    notes = []
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        for role in ("client", "server"):
            user, origin = call(lab, path, switchboard)
            exchange(user, origin)
            lab.forward("drop")
            sender, receiver = (user, origin) if role == "client" else (origin, user)
            payload = os.urandom(3 << 20)
            threading.Thread(target=send_and_finish, args=(sender, payload), daemon=True).start()
            receiver.shutdown(socket.SHUT_WR)
            context.sleep(1)
            getattr(path, role).signal(signal.SIGTERM)
            context.sleep(2)
            if not getattr(path, role).running:
                raise Failure(f"the {role} ended with bytes that nobody had")
            lab.forward()
            data, seen = observe(receiver, time.monotonic() + 10)
            if data != payload or seen != "eof":
                raise Failure(f"{len(data)} of {len(payload)} bytes arrived before “{seen}” when the {role} drained")
            _, seen = observe(sender, time.monotonic() + 2)
            status = getattr(path, role).wait(5)
            if status != 0:
                raise Failure(f"the drained {role} ended with status {status}")
            notes.append(role)
            getattr(path, f"start_{role}")()
    return "3 MB arrived whole, then ended: " + ", ".join(notes)


def send_and_finish(end, payload):
    try:
        end.sendall(payload)
        end.shutdown(socket.SHUT_WR)
    except OSError:
        pass    # What did not arrive is noticed at the other end.


def slow_user_of_a_drained_server(context):
    """The server drains and says goodbye while a user has not taken all: it still gets every byte and the end."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT, server_flags=["-drain=20s"])
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, path, switchboard)
        payload = os.urandom(12 << 20)
        user.shutdown(socket.SHUT_WR)
        threading.Thread(target=send_and_finish, args=(origin, payload), daemon=True).start()
        context.sleep(1)
        path.server.signal(signal.SIGTERM)
        context.sleep(1)
        data = bytearray()
        user.settimeout(5)
        while part := user.recv(65536):
            data += part
            time.sleep(0.002)
        if bytes(data) != payload:
            raise Failure(f"{len(data)} of {len(payload)} bytes arrived")
        if path.server.wait(5) != 0:
            raise Failure(f"the drained server ended with status {path.server.status}")
        path.start_server()
    return "12 MB arrived at the user's own speed"


def hello():
    return b"TELE\x01\x01\x00\x54" + bytes(16) + struct.pack(">QQQIQ", 1, 0, 0, 0, 1 << 26) + bytes(32)


def strangers(context):
    """New sessions that open a stream and vanish, while a good client is away: it comes back to its own."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT, server_flags=["-max-sessions=20"])
    count = 2000 if context.options.long else 600
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, path, switchboard)
        exchange(user, origin)
        lab.forward("meta l4proto tcp reject with tcp reset", "drop")
        for end in (user, origin):
            end.sendall(b"away")    # Both sides learn that the carrier is gone.
        context.sleep(1.5)
        for number in range(count):
            stranger = lab.server.connect(("127.0.0.1", CARRIER_PORT))
            stranger.sendall(hello())
            if number % 2 and paths.SECURITY == "none":
                # Answered, or refused when the table is full of sessions with something to lose.
                if not stranger.recv(128):
                    raise Failure("a stranger got no answer")
                try:    # OPEN 0: it hears, and has something to lose
                    stranger.sendall(bytes([0x41, 0x08, 0x00, 0x00, 0x50, 0x00, 0x80, 0x01, 0x00, 0x00]))
                except OSError:
                    pass
                time.sleep(0.001)
            stranger.close()
        resident = path.server.memory()
        lab.forward()
        for end in (user, origin):
            end.settimeout(5)
            if end.recv(4) != b"away":
                raise Failure("something else arrived")
        exchange(user, origin, seconds=3)
        fresh, other = call(lab, path, switchboard, seconds=3)
        exchange(fresh, other)
        if "session lost" in path.client.errors:
            raise Failure("the good client's session was evicted")
    return f"{count} sessions came and went, the server has {resident >> 20} MiB resident"


class Middlebox:
    def __init__(self, lab):
        self.process = lab.start("middlebox", [sys.executable, os.path.join(WORKERS, "middlebox.py"),
                                               str(MIDDLEBOX_PORT), SERVER_ADDRESS, str(CARRIER_PORT)],
                                 host=lab.client, stdin="pipe")
        self.process.wait_for_port(MIDDLEBOX_PORT)

    def tell(self, word):
        self.process.tell(word)


def behind(context, lab, carrier_port=MIDDLEBOX_PORT):
    path = context.path(lab, ORIGIN_PORT, start=False)
    path.start_server()
    path.carrier_host, path.carrier_port = "127.0.0.1", carrier_port
    return path


def one_direction_stuck(context):
    """What the client sends is swallowed while the server's bytes still come: a new carrier within a second."""
    lab = context.lab()
    box = Middlebox(lab)
    path = behind(context, lab)
    path.start_client()
    notes = []
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        for rate, chunk, pause in (("a trickle", 100, 0.05), ("a flood", 1 << 20, 0.001)):
            user, origin = call(lab, path, switchboard)
            exchange(user, origin)
            running = threading.Event()
            threading.Thread(target=pour, args=(origin, chunk, pause, running), daemon=True).start()
            drained = threading.Thread(target=drain_quietly, args=(user, running), daemon=True)
            drained.start()
            context.sleep(1)
            box.tell("up")
            box.tell("pass")    # Fresh connections pass again; those that were there stay deaf.
            began = time.monotonic()
            user.sendall(b"are you there?")
            origin.settimeout(5)
            try:
                if origin.recv(14) == b"":
                    raise Failure("the origin's connection ended")
            except TimeoutError:
                raise Failure(f"behind {rate} the stuck direction was not noticed within 5 s") from None
            took = time.monotonic() - began
            notes.append(f"{rate} {took:.2f} s")
            running.set()
            if took > 1.3:
                raise Failure(f"behind {rate} the stuck direction was noticed after {took:.2f} s only")
            user.close()
            origin.close()
            context.sleep(0.3)
    return "noticed and mended: " + ", ".join(notes)


def pour(end, chunk, pause, done):
    try:
        while not done.is_set():
            end.sendall(b"x" * chunk)
            time.sleep(pause)
    except OSError:
        pass


def drain_quietly(end, done):
    try:
        while not done.is_set() and end.recv(1 << 20):
            pass
    except OSError:
        pass


def swallowing_middlebox(context):
    """It accepts and swallows for a while: the first connection behind the heal carries on."""
    lab = context.lab()
    box = Middlebox(lab)
    path = behind(context, lab)
    path.start_client()
    worst = 0.0
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, path, switchboard)
        for seconds in (2, 3.3, 4.1, 5.7):
            exchange(user, origin)
            box.tell("both")
            user.sendall(b"while you were away")
            context.sleep(seconds)
            box.tell("pass")
            healed = time.monotonic()
            origin.settimeout(10)
            received = b""
            while len(received) < 19:
                received += origin.recv(19 - len(received))
            worst = max(worst, time.monotonic() - healed)
    if worst > RECOVERY:
        raise Failure(f"the first byte came {worst:.2f} s after the heal")
    return f"first byte at most {worst:.2f} s after the heal"


def idle_client(context):
    """Nobody speaks; the network goes; only the server has something to say. It is heard within a second."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT)
    worst = 0.0
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, path, switchboard)
        exchange(user, origin)
        for idle, outage in ((1.5, 4), (1.5, 14)):
            context.sleep(idle)
            lab.forward("drop")
            context.sleep(outage / 2)
            origin.sendall(b"news")
            context.sleep(outage / 2)
            lab.forward()
            healed = time.monotonic()
            user.settimeout(10)
            if user.recv(4) != b"news":
                raise Failure("something else arrived")
            worst = max(worst, time.monotonic() - healed)
    if worst > 1.1:
        raise Failure(f"the news came {worst:.2f} s after the heal")
    return f"heard at most {worst:.2f} s after the heal"


def one_stream_at_a_time(context):
    """-max-streams=1 serves one after the other, also when they end in every way."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT, client_flags=["-max-streams=1"], server_flags=["-max-streams=1"])
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        for turn in range(60):
            user, origin = call(lab, path, switchboard, seconds=3)
            exchange(user, origin, seconds=3)
            first, second = (user, origin) if turn % 2 else (origin, user)
            if turn % 3 == 0:
                first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            first.close()
            observe(second, time.monotonic() + 1)
            second.close()
    return "60 connections, one after the other"


def cases():
    for story in (killed_and_started, newcomers_outlive_the_session, drain_in_an_outage, slow_user_of_a_drained_server,
                  strangers, one_direction_stuck, swallowing_middlebox, idle_client, one_stream_at_a_time):
        yield Case(f"promises.{story.__name__.replace('_', '-')}", story, only_tele=True, drivers="either")
