"""Peers that flood, drip, never read or never answer, while a good client works beside them.

A flood lives in a process of its own, with the origin that it leads the server to: one interpreter would make the good client wait, not
the server.
"""

import multiprocessing
import os
import select
import selectors
import threading
import time

import path as paths
from ends import Switchboard, call, exchange
from path import CARRIER_PORT
from process import Failure
from runner import CAPACITY, Case, Skip

from cases.mappings import Files, Route
from cases.promises import hello

ORIGIN_PORT, MUTE_PORT, FLOOD_PORT, MOODS_PORT, GOOD_USERS = 7880, 7881, 7882, 7883, 9101
MUTE_USERS = 1000
#: The good client's echo: worse than this is starvation, better is the machine's mood.
P99_LIMIT = 0.15
#: What a server may have resident: its base, what this suite lets it hold (-memory), and a tenth more.
MEMORY = 64 << 20
RESIDENT_LIMIT = int((20 << 20) + MEMORY * 1.1)
#: Kinds of line that a flood can cause, what the log takes of each at once, and then each second.
KINDS, AT_ONCE, PER_SECOND = 6, 50, 1


def varint(value):
    for bits, size in ((6, 1), (14, 2), (30, 4), (62, 8)):
        if value < 1 << bits:
            return (value | ({1: 0, 2: 1, 4: 2, 8: 3}[size] << (8 * size - 2))).to_bytes(size, "big")
    raise ValueError(value)


def frame(kind, *fields):
    body = b"".join(varint(field) for field in fields)
    return bytes([kind]) + varint(len(body)) + body


#: What the flood's process has done: connections made, and frames sent. Shared with the parent; `alone` sets it in the child.
done = None


def target_of(name):
    """The number by which OPEN names an origin (docs/protocol.md 6.2)."""
    number = 0xcbf29ce484222325
    for byte in name.encode():
        number = (number ^ byte) * 0x100000001b3 % (1 << 64)
    return max(1, number % (1 << 62))


TARGET = target_of("flood")


def knock(lab):
    end = lab.server.connect(("127.0.0.1", CARRIER_PORT))
    done.value += 1
    return end


def session(lab):
    """A session of its own, by a peer that then does as it likes."""
    end = knock(lab)
    end.sendall(hello())
    welcome = b""
    while len(welcome) < 128:
        part = end.recv(128 - len(welcome))
        if not part:
            raise OSError("no welcome")
        welcome += part
    return end


def silent(lab, stop):
    held = []
    while not stop.is_set():
        held.append(knock(lab))
        del held[:-400]
        time.sleep(0.002)


def dripping(lab, stop):
    held = [knock(lab) for _ in range(60)]
    text = hello()
    for position in range(len(text) - 1):
        for end in held:
            try:
                end.sendall(text[position:position + 1])
            except OSError:
                pass
        if stop.wait(1):
            return


def garbage(lab, stop):
    while not stop.is_set():
        try:
            with knock(lab) as end:
                end.sendall(os.urandom(300))
        except OSError:
            pass
        time.sleep(0.001)


def vanishing(lab, stop):
    while not stop.is_set():
        try:
            session(lab).close()
        except OSError:
            pass


def flooding(make):
    """A session that sends what `make(number)` gives, for ever; when it is ended, another."""
    def flood(lab, stop):
        while not stop.is_set():
            try:
                end = session(lab)
                end.settimeout(1)
                number = 0
                while not stop.is_set():
                    end.sendall(b"".join(make(number + index) for index in range(500)))
                    number += 500
                    done.value += 500
                    while select.select([end], [], [], 0)[0]:
                        if not end.recv(65536):
                            raise OSError("the session was ended")
            except OSError:
                time.sleep(0.01)
    return flood


def deaf(lab, stop):
    """Opens streams, asks for answers, reads nothing."""
    held = []
    while not stop.is_set() and len(held) < 40:
        try:
            end = session(lab)
            for number in range(50):
                end.sendall(frame(0x41, 2 * number, TARGET, 4096, 1 << 30)
                            + bytes([0x42]) + varint(len(varint(2 * number)) + 8) + varint(2 * number) + bytes(8))
            held.append(end)
        except OSError:
            pass
        time.sleep(0.02)
    stop.wait()


def alone(flood, lab, stop, counter, *rest):
    """Without the connections of other cases: one that is open here, too, would not end where it is closed."""
    global done
    done = counter
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                os.close(int(name))
        except OSError:
            pass    # The folder's own.
    lab.server.after_fork()
    threading.Thread(target=be_origin, args=(lab.server.listen(FLOOD_PORT),), daemon=True).start()
    flood(lab, stop, *rest)


def be_origin(listener):
    """Takes what comes, answers nothing, ends when the other side does."""
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is listener:
                waiting.register(listener.accept()[0], selectors.EVENT_READ)
                continue
            try:
                if key.fileobj.recv(65536):
                    continue
            except OSError:
                pass    # Reset.
            waiting.unregister(key.fileobj)
            key.fileobj.close()


def two_origins(context, lab):
    """A server for the good client and its flood."""
    return Files(context, lab, {"good": f"127.0.0.1:{GOOD_USERS}"},
                 {"good": f"127.0.0.1:{ORIGIN_PORT}", "flood": f"127.0.0.1:{FLOOD_PORT}", "moods": f"127.0.0.1:{MOODS_PORT}"},
                 server=f'buffer = "16MiB"\nmemory = "{MEMORY >> 20}MiB"\nmax-streams = 1000\nhold = "5s"\n')


def begin(action, lab, *rest):
    """Starts a flood. Returns its process, what ends it, and the count of what it does."""
    forked = multiprocessing.get_context("fork")
    stop, counter = forked.Event(), forked.Value("q", 0)
    flood = forked.Process(target=alone, args=(action, lab, stop, counter, *rest), daemon=True)
    flood.start()
    return flood, stop, counter


#: Each with what it must have done in four seconds to be one.
FLOODS = {
    "silent": (silent, 400),
    "dripping": (dripping, 60),
    "garbage": (garbage, 400),
    "vanishing": (vanishing, 200),
    "open-reset": (flooding(lambda n: frame(0x41, 2 * n, TARGET, 4096, 4096) + frame(0x44, 2 * n, 0)), 5000),
    "ping": (flooding(lambda n: frame(0x02, n)), 5000),
    "credit": (flooding(lambda n: (frame(0x41, 0, TARGET, 4096, 4096) if n == 0 else b"") + frame(0x45, 0, 4096 + n)), 5000),
    "deaf": (deaf, 40),
}
GENTLE = ("silent", "dripping", "garbage", "deaf")
BEFORE_A_KEY = ("silent", "dripping", "garbage")


def story(name):
    def run(context):
        if paths.SECURITY != "none" and name not in BEFORE_A_KEY:
            raise Skip("strangers get no further than the handshake")
        seconds = 60 if context.options.long else 4
        lab = context.lab()
        path = two_origins(context, lab)
        with Switchboard(lab, ORIGIN_PORT) as switchboard:
            user, origin = call(lab, Route(GOOD_USERS), switchboard)
            quiet = echoes(user, origin, 1.5)
            action, least = FLOODS[name]
            flood, stop, counter = begin(action, lab)
            context.sleep(0.5)
            busy = echoes(user, origin, seconds)
            resident = path.server.memory("VmHWM")
            stop.set()
            flood.join(5)
            flood.kill()
            path.check_alive()
            exchange(user, origin)
            fresh, other = call(lab, Route(GOOD_USERS), switchboard, seconds=3)
            exchange(fresh, other)
            for end in (fresh, other):
                end.close()
            # What the flood left goes by itself: handshakes after 10 s, sessions after -hold.
            gone = context.until(18, lambda: path.server.descriptors() < 40)
            lines = path.server.errors.count("\n")
        judge(counter.value, least, lines, KINDS * (AT_ONCE + PER_SECOND * (seconds + 30)), resident, busy, quiet)
        if not gone:
            raise Failure(f"{path.server.descriptors()} descriptors are left of it")
        return (f"good client's p99 {busy * 1000:.1f} ms (quiet {quiet * 1000:.1f}), server at most "
                f"{resident >> 20} MiB, {lines} lines, {counter.value} connections and frames")
    return run


def judge(done, least, lines, most, resident, busy, quiet):
    """Of what was `done` at least so much, of what it cost at most so much. Seconds, bytes."""
    if done < least:
        raise Failure(f"that was no flood: {done} connections and frames, {least} wanted")
    if lines > most:
        raise Failure(f"the server wrote {lines} lines, more than {most}")
    if resident > RESIDENT_LIMIT:
        raise Failure(f"the server had {resident >> 20} MiB resident, more than {RESIDENT_LIMIT >> 20}")
    if busy > P99_LIMIT:
        raise Failure(f"the good client's p99 was {busy * 1000:.0f} ms, quiet {quiet * 1000:.1f}")


def mute_origin(context):
    """More users of an origin that never answers than may connect at a time: those of another origin do not notice."""
    lab = context.lab()
    mute = lab.server.listen(MUTE_PORT, backlog=0)
    full = [lab.server.connect(("127.0.0.1", MUTE_PORT))]   # Its queue: whoever comes now hears nothing.
    path = Files(context, lab, {"good": "127.0.0.1:9101", "mute": "127.0.0.1:9102"},
                 {"good": f"127.0.0.1:{ORIGIN_PORT}", "mute": f"127.0.0.1:{MUTE_PORT}"})
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, Route(9101), switchboard)
        quiet = echoes(user, origin, 1.5)
        idle = path.server.descriptors()
        waiting = [lab.client.connect(("127.0.0.1", 9102)) for _ in range(MUTE_USERS)]
        # 512 connect at a time; the others wait for their turn without a descriptor.
        if not context.until(5, lambda: path.server.descriptors() > idle + 500):
            raise Failure(f"the server has {path.server.descriptors()} descriptors, {idle} before: nobody waits")
        began = time.monotonic()
        fresh, other = call(lab, Route(9101), switchboard, seconds=2)
        exchange(fresh, other)
        took = time.monotonic() - began
        busy = echoes(user, origin, 60 if context.options.long else 4)
        # The origin has ten seconds to answer, then they are told.
        gone = context.until(15, lambda: path.server.descriptors() < idle + 10)
        for end in (*waiting, *full, mute):
            end.close()
    if busy > P99_LIMIT:
        raise Failure(f"the good user's p99 was {busy * 1000:.0f} ms, quiet {quiet * 1000:.1f}")
    if not gone:
        raise Failure(f"{path.server.descriptors()} descriptors are left, {idle} before")
    return f"{MUTE_USERS} wait in vain, another origin's user came through in {took:.2f} s, p99 {busy * 1000:.1f} ms (quiet {quiet * 1000:.1f})"


def echoes(user, origin, seconds):
    """The 99th percentile of a byte's way there and back."""
    times = []
    end = time.monotonic() + seconds
    user.settimeout(5)
    origin.settimeout(5)
    while time.monotonic() < end:
        began = time.monotonic()
        user.sendall(b"k")
        origin.recv(1)
        origin.sendall(b"k")
        user.recv(1)
        times.append(time.monotonic() - began)
        time.sleep(0.005)
    return sorted(times)[int(len(times) * 0.99)]


def cases():
    for name in FLOODS:
        # Some take a core and more: what they measure beside others would be the others.
        yield Case(f"floods.{name}", story(name), only_tele=True, weight=2 if name in GENTLE else CAPACITY)
    yield Case("floods.mute-origin", mute_origin, only_tele=True)
