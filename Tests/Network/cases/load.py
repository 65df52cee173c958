"""Honest load that is heavy or strange, and peers that do not read: it slows down what it must and ends nothing else."""

import multiprocessing
import os
import signal
import socket
import struct
import sys
import threading
import time

import path as paths
from ends import RESET_AT_CLOSE, Switchboard, call, exchange, receive_exactly
from lab import SERVER_ADDRESS
from path import CARRIER_PORT, HERE
from process import Failure, last_line
from runner import CAPACITY, Case

from cases.floods import frame
from cases.mappings import Files, Route
from cases.promises import hello

ORIGIN_PORT = 7960
MIB = 1 << 20


def pattern(start, count):
    """The bytes of a stream from `start` on."""
    block = bytes(range(251))
    first = start % 251
    return (block * (count // 251 + 2))[first:first + count]


def send_pattern(end, start, count):
    step = 251 * 4096
    position = start
    while position < start + count:
        part = min(step, start + count - position)
        end.sendall(pattern(position, part))
        position += part


def receive_all(end, seconds):
    """Everything until the end, compared with the pattern as it comes. Returns (bytes, what ended it)."""
    end.settimeout(seconds)
    position = 0
    while True:
        try:
            data = end.recv(MIB)
        except TimeoutError:
            return position, "nothing"
        except OSError as error:
            return position, str(error)
        if not data:
            return position, "eof"
        if data != pattern(position, len(data)):
            raise Failure(f"a wrong byte within {len(data)} bytes at offset {position}")
        position += len(data)


def urgent(direction, splicing):
    """64 MiB, an urgent byte, 10 MiB and, or not, FIN: every byte arrives in its place, as over direct TCP with SO_OOBINLINE."""
    before, after = 64 * MIB, 10 * MIB

    def story(context):
        lab = context.lab()
        flags = [f"-splice={splicing}"]
        path = context.path(lab, ORIGIN_PORT, client_flags=flags, server_flags=flags)
        notes = []
        with Switchboard(lab, ORIGIN_PORT) as switchboard:
            for ends in (True, False):
                user, origin = call(lab, path, switchboard)
                sender, receiver = (user, origin) if direction == "up" else (origin, user)
                receiver.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)

                def send():
                    sender.settimeout(60)
                    send_pattern(sender, 0, before)
                    sender.send(pattern(before, 1), socket.MSG_OOB)
                    send_pattern(sender, before + 1, after)
                    if ends:
                        sender.shutdown(socket.SHUT_WR)
                thread = threading.Thread(target=send, daemon=True)
                used = sum(process.cpu_seconds() for process in (path.client, path.server) if process)
                thread.start()
                count, seen = receive_all(receiver, 10 if ends else 2)
                if count != before + 1 + after or seen != ("eof" if ends else "nothing"):
                    raise Failure(f"{count / MIB:.2f} of {(before + 1 + after) / MIB:.2f} MiB arrived before “{seen}”")
                thread.join(5)
                if not ends:
                    context.sleep(1)
                    began = sum(process.cpu_seconds() for process in (path.client, path.server) if process)
                    context.sleep(1)
                    spent = sum(process.cpu_seconds() for process in (path.client, path.server) if process) - began
                    if spent > 0.2:
                        raise Failure(f"an idle stream costs {spent:.2f} CPU s a second after an urgent byte")
                    notes.append(f"{began - used:.1f} CPU s")
                user.close()
                origin.close()
        return "every byte in its place, with and without FIN; " + notes[0]
    return story


class Depot:
    """An origin for thousands of connections, in a process of its own."""

    def __init__(self, context, lab, port=ORIGIN_PORT, send_buffer=None):
        self.context, self.lab = context, lab
        self.process = lab.start(f"depot-{port}", [sys.executable, os.path.join(HERE, "workers", "depot.py"), str(port),
                                                   *([str(send_buffer)] if send_buffer else [])], host=lab.server)
        self.process.wait_for_port(port)

    def ask(self, address, count, receive_buffer=None):
        """A connection that asked for `count` bytes and has read none."""
        end = self.lab.client.socket()
        if receive_buffer:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        end.settimeout(20)
        end.connect(address)
        end.sendall(b"D" + struct.pack(">Q", count))
        return end

    def fetch(self, address, count, seconds=30):
        """Bytes a second of a download that is read at once, every byte compared."""
        end = self.ask(address, count)
        began = time.monotonic()
        received, seen = receive_all(end, seconds)
        if (received, seen) != (count, "eof"):
            raise Failure(f"{received} of {count} bytes arrived before “{seen}”")
        end.close()
        return count / (time.monotonic() - began)

    def fetch_as_fast(self, address, count, wanted):
        """The best of many: other work on the machine only ever takes speed away. Ends as soon as one is as fast as `wanted`."""
        best = 0
        until = time.monotonic() + 20
        while best < wanted and time.monotonic() < until:
            best = max(best, self.fetch(address, count))
        return best

    def keystrokes(self, address, seconds):
        """What a byte there and back took, in seconds, the shortest first; one each 5 ms."""
        times, until = [], time.monotonic() + seconds
        with self.lab.client.connect(address, 20) as end:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.sendall(b"E" + bytes(8))
            while time.monotonic() < until:
                began = time.monotonic()
                end.sendall(b"k")
                if end.recv(1) != b"k":
                    raise Failure("a keystroke was not answered")
                times.append(time.monotonic() - began)
                time.sleep(0.005)
        return sorted(times)

    def put(self, end, start, count):
        send_pattern(end, start, count)

    def offer(self, address):
        """A connection that will send."""
        end = self.lab.client.connect(address, 20)
        end.sendall(b"U" + bytes(8))
        return end

    def accepted(self, end, count, seconds):
        """Ends the upload: the origin must have every byte."""
        end.settimeout(seconds)
        end.shutdown(socket.SHUT_WR)
        answer = b""
        while len(answer) < 8:
            part = end.recv(8 - len(answer))
            if not part:
                raise Failure("the origin ended an upload: it saw a wrong byte")
            answer += part
        if struct.unpack(">Q", answer)[0] != count:
            raise Failure(f"the origin has {struct.unpack('>Q', answer)[0]} of {count} bytes")
        end.close()


def read_one_after_another(context):
    """One process reads 40 downloads of 20 MiB one after the other, as `cat <(curl 1) <(curl 2) …` does."""
    # A thousand origins on loopback would hold 2 GiB and more in their sockets: all that this kernel has for TCP, whoever
    # carries the connections.
    count, send_buffer = (1000, 64 << 10) if context.options.long else (40, None)
    size = 20 * MIB
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT)
    depot = Depot(context, lab, send_buffer=send_buffer)
    ends = [depot.ask(path.address, size) for _ in range(count)]
    context.sleep(1)
    rate = depot.fetch(path.address, 20 * MIB, 10)
    for number, end in enumerate(ends):
        received, seen = receive_all(end, 10)
        if (received, seen) != (size, "eof"):
            raise Failure(f"connection {number} of {count}: {received / MIB:.1f} of {size / MIB:.0f} MiB arrived before “{seen}”")
        end.close()
    return f"{count} downloads of {size // MIB} MiB, one after the other; beside them a new one at {rate / MIB:.0f} MiB/s"


def stopped_readers(context):
    """64 downloads that nobody reads: a new one is half as fast as without them; its memory stays within the flag."""
    # Ten thousand that the kernel cannot hold would use up its TCP memory, with tele or without.
    count, size, kept = (4000, 192 << 10, 4096) if context.options.long else (64, 64 * MIB, None)
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT)
    depot = Depot(context, lab)
    # So many connections in both measurements: a stream alone goes another way (splice).
    idle = [depot.offer(path.address) for _ in range(count)]
    free = max(depot.fetch(path.address, 64 * MIB) for _ in range(3))
    for end in idle:
        end.close()
    stopped = [depot.ask(path.address, size, kept) for _ in range(count)]
    context.sleep(3)
    beside = depot.fetch_as_fast(path.address, 64 * MIB, free / 2)
    memory = [process.memory("VmHWM") // MIB for process in (path.client, path.server) if process]
    note = f"{beside / MIB:.0f} MiB/s beside {len(stopped)} stopped readers, {free / MIB:.0f} without; {memory} MiB"
    if beside < free / 2 or any(used > 64 + 64 + 32 for used in memory):
        raise Failure(note)
    return note


def p99(times):
    return sorted(times)[len(times) * 99 // 100]


def idle_sessions(has_key):
    def run(context):
        """Thousands of idle sessions: another's download is as fast as on an empty server, and each costs little memory."""
        count = 10_000 if context.options.long else 2000
        lab = context.lab()
        key = f"{paths.secrets()}/key" if has_key else None
        flags = [f"-key={key}"] if has_key else []
        path = context.path(lab, ORIGIN_PORT, server_flags=["-max-sessions=20000", "-memory=256MiB", *flags], client_flags=flags)
        depot = Depot(context, lab)
        # The sessions' other ends want the suite's two processors, too: whoever types, and what is measured, goes first.
        run_first(path.client.pid, path.server.pid, depot.process.pid, 0)
        context.callback(os.sched_setscheduler, 0, os.SCHED_OTHER, os.sched_param(0))
        free = max(depot.fetch(path.address, 64 * MIB) for _ in range(5))
        quiet = p99(depot.keystrokes(path.address, 5))
        before = path.server.memory()
        crowd = lab.start("idle", [sys.executable, os.path.join(HERE, "workers", "idle.py"), SERVER_ADDRESS, str(CARRIER_PORT), str(count),
                                   *([key] if key else [])], host=lab.client)
        if not context.until(120, lambda: "ready" in crowd.output):
            raise Failure(f"{count} sessions were not welcomed within 120 s: {last_line(crowd.errors)}")
        # The first PINGs have been answered, and nothing came for more than a second.
        context.sleep(6)
        each = (path.server.memory() - before) / count
        beside = depot.fetch_as_fast(path.address, 64 * MIB, (0.95 if context.options.long else 0.7) * free)
        loud = p99(depot.keystrokes(path.address, 15))
        gone = int(crowd.output.split()[-1])
        note = (f"{beside / MIB:.0f} MiB/s beside {count} idle sessions, {free / MIB:.0f} without; keystrokes' p99 {loud * 1000:.2f} ms, "
                f"{quiet * 1000:.2f} without; {each / 1024:.1f} KiB each, {gone} ended")
        if beside < 0.7 * free or loud > 2 * quiet + 0.001 or each > 8192 or gone:
            raise Failure(note)
        return note
    return run


def refusals(context):
    """A mapping whose origin is down, and users that end by RST, thousands a second: the other mapping's users notice nothing."""
    lab = context.lab()
    Files(context, lab, {"good": "127.0.0.1:9101", "down": "127.0.0.1:9102"},
          {"good": f"127.0.0.1:{ORIGIN_PORT}", "down": "127.0.0.1:1"}, client="max-streams = 1000", server="max-streams = 1000")
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, Route(9101), switchboard)
        stop, counts = multiprocessing.Event(), multiprocessing.Array("Q", 2)
        knockers = [multiprocessing.Process(target=knock, args=(lab, port, index, stop, counts), daemon=True)
                    for index, port in enumerate((9102, 9101))]
        for knocker in knockers:
            knocker.start()
        try:
            slowest = 0
            end = time.monotonic() + (60 if context.options.long else 8)
            while time.monotonic() < end:
                began = time.monotonic()
                exchange(user, origin, 100, 5)
                slowest = max(slowest, time.monotonic() - began)
                context.sleep(0.01)
        finally:
            stop.set()
            for knocker in knockers:
                knocker.join(5)
                knocker.kill()
        seconds = 60 if context.options.long else 8
        rates = [count / seconds for count in counts]
        if min(rates) < 200:
            raise Failure(f"only {rates[0]:.0f} and {rates[1]:.0f} connections a second were made")
    return f"{rates[0]:.0f} refused and {rates[1]:.0f} reset connections a second, the slowest exchange beside them {slowest * 1000:.0f} ms"


def knock(lab, port, index, stop, counts):
    lab.client.after_fork()
    maker = lab.client.maker

    def loop():
        while not stop.is_set():
            end = socket.socket()
            try:
                end.connect(("127.0.0.1", port))
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
                # Refused ones end by themselves; the others by RST, as health checks and scanners do.
                if port == 9102:
                    end.settimeout(2)
                    end.recv(1)
            except OSError:
                pass
            counts[index] += 1
            end.close()
    threads = [maker.submit(loop)]
    for thread in threads:
        thread.result()


def outage_within_memory(security):
    """8000 users write 16 KiB each in an outage: the buffer holds what it says, nobody is reset, and all of it arrives."""
    def story(context):
        flags = ["-buffer=1MiB", "-memory=1MiB"] if security else ["-buffer=64MiB", "-memory=64MiB"]
        count = 8000
        lab = context.lab()
        secure = {role: [f"-key={paths.secrets()}/key"] if security else [] for role in ("client", "server")}
        path = context.path(lab, ORIGIN_PORT, client_flags=flags + secure["client"], server_flags=["-buffer=64MiB"] + secure["server"])
        depot = Depot(context, lab)
        users = [depot.offer(path.address) for _ in range(count)]
        # Until all of them are open at the origin, so that the outage meets users and nothing else.
        if not context.until(20, lambda: status_of_streams(path) >= count):
            context.sleep(2)
        lab.forward("drop")
        size = 16 << 10
        payload = pattern(0, size)
        for user in users:
            user.setblocking(False)
            try:
                sent = user.send(payload)
            except BlockingIOError:
                sent = 0
            if sent != size:
                raise Failure(f"the kernel took {sent} of {size} bytes of a user")
        context.sleep(3)
        cpu = path.client.cpu_seconds()
        context.sleep(2)
        cpu = (path.client.cpu_seconds() - cpu) / 2
        memory = path.client.memory("VmHWM") // MIB
        lab.forward()
        for user in users:
            depot.accepted(user, size, 30)
        path.client.signal(signal.SIGTERM)
        path.client.wait(15)
        path.client = None
        note = f"{count} users, {memory} MiB at most, {cpu:.0%} of a processor in the outage"
        limit = (1 if security else 64) * 1.05 + 16 + count * 1.2 / 1024
        if memory > limit or cpu > 0.3:
            raise Failure(f"{note}; {limit:.0f} MiB were allowed")
        return note
    return story


def refusals_unread(context):
    """A peer that opens 135 000 streams of an unknown name and reads nothing: what it costs is bounded, also when it has left."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT, server_flags=["-max-streams=200000"])
    before = path.server.memory()
    ends = []
    for _ in range(6):
        end = lab.client.connect((SERVER_ADDRESS, CARRIER_PORT))
        end.sendall(hello())
        receive_exactly(end, 128)
        end.settimeout(1)
        # A small buffer, never read: the RESETs stay at the server.
        try:
            for start in range(0, 135_000, 500):
                end.sendall(b"".join(frame(0x41, 2 * (start + index), 12345, 1, 1 << 20) for index in range(500)))
        except OSError:
            pass
        ends.append(end)
    context.sleep(1)
    beside = (path.server.memory() - before) / len(ends) / MIB
    for end in ends:
        end.close()
    context.sleep(1)
    after = (path.server.memory() - before) / len(ends) / MIB
    note = f"{beside:.1f} MiB a session that reads nothing, {after:.1f} when it has left"
    if beside > 5 or after > 5:
        raise Failure(note)
    return note


def never_acknowledging(context):
    """45 peers that open streams of an unknown name, read all and acknowledge nothing: a good client notices nothing."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT, server_flags=["-memory=64MiB", "-buffer=64MiB"])
    stop, ready = multiprocessing.Event(), multiprocessing.Value("i", 0)
    peers = multiprocessing.Process(target=acknowledge_nothing, args=(lab, stop, ready), daemon=True)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, path, switchboard)
        peers.start()
        try:
            if not context.until(30, lambda: ready.value == 45):
                raise Failure(f"only {ready.value} of 45 peers are there")
            slowest = 0
            for _ in range(300):
                began = time.monotonic()
                exchange(user, origin, 30_000, 10)
                slowest = max(slowest, time.monotonic() - began)
                context.sleep(0.01)
            memory = path.server.memory("VmHWM") / MIB
        finally:
            stop.set()
            peers.join(5)
            peers.kill()
    note = f"the slowest exchange {slowest * 1000:.0f} ms, {memory:.0f} MiB at most"
    # The peers, the good client and the origin share the machine's two processors with the server.
    if slowest > 1 or memory > 64 * 1.05 + 16 + 8:
        raise Failure(note)
    return note


def acknowledge_nothing(lab, stop, ready):
    """Each peer is owed a MiB of RESETs, which it reads and does not acknowledge."""
    lab.client.after_fork()
    opens = memoryview(b"".join(frame(0x41, 2 * number, 12345, 1, 1 << 20) for number in range(200_000)))
    ends = []
    for _ in range(45):
        end = lab.client.connect((SERVER_ADDRESS, CARRIER_PORT))
        end.sendall(hello())
        receive_exactly(end, 128)
        end.setblocking(False)
        ends.append([end, opens])
        ready.value += 1
    while not stop.is_set():
        for peer in ends:
            end, left = peer
            try:
                peer[1] = left[end.send(left[:1 << 16]):]
                end.recv(1 << 20)
            except OSError:
                pass    # Not now, or not any more.
        time.sleep(0.001)


def run_first(*tasks):
    """These go before all others, whatever else wants the processors; what they start does not."""
    for task in tasks:
        os.sched_setscheduler(task, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def crowd_returns(count, delay):
    def run(context):
        """Keyed clients on a long path meet a restarted server: all are back within seconds, with few handshakes each."""
        late_port = CARRIER_PORT + 1
        lab = context.lab()
        key = [f"-key={paths.secrets()}/key"]
        path = context.path(lab, ORIGIN_PORT, server_flags=key, start=False)
        path.start_server()
        late = paths.late(lab, late_port, delay)
        # The path and the server are machines of their own, which hundreds of clients do not slow down.
        run_first(path.server.pid, late.pid)
        crowd = [lab.start(f"crowd-{number}", [paths.binary(), "-client", f"-in=127.0.0.1:{21000 + number}", "-control=none",
                                               f"-out={SERVER_ADDRESS}:{late_port}", f"-io={path.driver}", *key], host=lab.client)
                 for number in range(count)]

        def greeted(times):
            return sum(client.errors.count("carrier up") + client.errors.count("resumed") >= times for client in crowd)
        if not context.until(20 + count // 10, lambda: greeted(1) == count):
            raise Failure(f"only {greeted(1)} of {count} clients reached the server at first")
        path.server.kill()
        path.server.wait(5)
        context.sleep(2)
        path.start_server()
        run_first(path.server.pid)
        began, before = time.monotonic(), int(late.output.split()[-1])
        back = context.until(30, lambda: greeted(2) == count)
        taken = time.monotonic() - began
        context.sleep(1)
        begun = int(late.output.split()[-1]) - before
        note = f"{greeted(2)} of {count} clients back {taken:.1f} s after the server, {begun / count:.1f} handshakes each"
        if not back or taken > 5 + 6 * delay or begun > 4 * count:
            raise Failure(note)
        return note
    return run


def grants(context):
    """30 clients on a path of 100 ms: the last uploads as fast as the first, and so does one that was killed and restarted twenty times,
    whose old sessions the server keeps."""
    late_port, first_port, size = CARRIER_PORT + 1, 21000, 24 * MIB
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT, start=False)
    path.start_server()
    depot = Depot(context, lab)
    paths.late(lab, late_port, 0.05)

    def start(number, before=0):
        """`before`: how often it was started; the listener of a killed one may be seen for a moment."""
        client = lab.start(f"client-{number}", [
            paths.binary(), "-client", f"-in=127.0.0.1:{first_port + number}", "-control=none", f"-out={SERVER_ADDRESS}:{late_port}",
            f"-io={path.driver}", *paths.security_flags("client")], host=lab.client)
        if not context.until(10, lambda: client.errors.count("listening for users") > before):
            raise Failure(f"client {number} does not listen: {last_line(client.errors)}")
        return client

    def rate(number):
        """MiB a second, at best of two: the first teaches the window."""
        best = 0
        for _ in range(2):
            began = time.monotonic()
            end = depot.offer(("127.0.0.1", first_port + number))
            end.settimeout(60)
            depot.put(end, 0, size)
            depot.accepted(end, size, 60)
            best = max(best, size / MIB / (time.monotonic() - began))
        return best

    clients = [start(number) for number in range(30)]
    if not context.until(20, lambda: all("carrier up" in client.errors for client in clients)):
        raise Failure("not every client has a carrier")
    rates = {number: rate(number) for number in (0, 9, 19, 29)}
    for turn in range(1, 21):
        clients[0].kill()
        clients[0].wait(5)
        clients[0] = start(0, turn)
        exchanged = depot.offer(("127.0.0.1", first_port))
        depot.accepted(exchanged, 0, 20)
    rates["restarted"] = rate(0)
    note = ", ".join(f"{name} {value:.1f} MiB/s" for name, value in rates.items())
    if min(rates.values()) < max(rates.values()) / 2:
        raise Failure(note)
    return note


def all_together(context):
    """Idle sessions, a mapping that refuses, stopped readers, a crowd that restarts, a transfer and keystrokes, at a time."""
    seconds = 600 if context.options.long else 15
    lab = context.lab()
    files = Files(context, lab, {"good": "127.0.0.1:9101", "down": "127.0.0.1:9102", "depot": "127.0.0.1:9103"},
                  {"good": f"127.0.0.1:{ORIGIN_PORT}", "down": "127.0.0.1:1", "depot": f"127.0.0.1:{ORIGIN_PORT + 1}"},
                  server='max-sessions = 4000\nmemory = "256MiB"')
    depot = Depot(context, lab, ORIGIN_PORT + 1)
    idle = lab.start("idle", [sys.executable, os.path.join(HERE, "workers", "idle.py"), SERVER_ADDRESS, str(CARRIER_PORT), "2000"],
                     host=lab.client)
    if not context.until(60, lambda: "ready" in idle.output):
        raise Failure(f"2000 sessions were not welcomed: {last_line(idle.errors)}")
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, Route(9101), switchboard)
        # The suite's two processors run the programs at the ends, too, which want all of them. Whoever types, and what is measured, goes
        # first: the rest is the scheduler's.
        run_first(files.client.pid, files.server.pid, 0)
        context.callback(os.sched_setscheduler, 0, os.SCHED_OTHER, os.sched_param(0))
        quiet = keystrokes(context, user, origin, 30 if context.options.long else 3)
        stopped = [depot.ask(("127.0.0.1", 9103), 64 * MIB) for _ in range(40)]
        stop, counts = multiprocessing.Event(), multiprocessing.Array("Q", 2)
        knocker = multiprocessing.Process(target=knock, args=(lab, 9102, 0, stop, counts), daemon=True)
        knocker.start()
        crowd, moved, trouble = [], multiprocessing.Value("Q", 0), multiprocessing.Queue()
        # In a process of its own: a thread of this one would hold Python's lock for 5 ms at a time, three times in each keystroke.
        mover = multiprocessing.Process(target=move, args=(depot, ("127.0.0.1", 9103), stop, moved, trouble), daemon=True)
        mover.start()
        try:
            began, loud = time.monotonic(), []
            while time.monotonic() - began < seconds:
                for process in crowd:
                    process.kill()
                crowd = [lab.start(f"crowd-{number}", [paths.binary(), "-client", f"-in=127.0.0.1:{21000 + number}",
                                                       f"-out={SERVER_ADDRESS}:{CARRIER_PORT}", "-control=none",
                                                       *paths.security_flags("client")], host=lab.client) for number in range(10)]
                loud += keystrokes(context, user, origin, 5)
        finally:
            stop.set()
            knocker.join(5)
            knocker.kill()
        mover.join(60)
        if not trouble.empty():
            raise Failure(trouble.get())
        for end in stopped:
            end.close()
    memory = files.server.memory("VmHWM") // MIB
    quiet, loud = p99(quiet), p99(loud)
    note = (f"{moved.value} MiB right, keystrokes' p99 {loud * 1000:.1f} ms (quiet {quiet * 1000:.1f}), {counts[0] / seconds:.0f} refused a second, "
            f"server at most {memory} MiB")
    # Ten minutes have a quiet value to hold against; a quarter of a minute on a busy machine has none.
    limit = max(2 * quiet, 0.006) if context.options.long else 0.06
    if loud > limit or memory > 256 * 1.05 + 32 or not moved.value:
        raise Failure(note)
    return note


def move(depot, address, stop, moved, trouble):
    """Downloads, one after another, every byte compared."""
    depot.lab.client.after_fork()
    try:
        while not stop.is_set():
            depot.fetch(address, 64 * MIB, 60)
            moved.value += 64
    except (Failure, OSError) as failure:
        trouble.put(str(failure))


def keystrokes(context, user, origin, seconds):
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        exchange(user, origin, 1, 5)
        times.append(time.monotonic() - began)
        context.sleep(0.005)
    return times


def status_of_streams(path):
    """How many connections the server has to the origin."""
    return sum(line.split()[3] == "01" and line.split()[2].endswith(f":{ORIGIN_PORT:04X}")
               for line in path.server._proc("net/tcp").splitlines()[1:])


def cases():
    for direction in ("up", "down"):
        for splicing in ("always", "never"):
            yield Case(f"load.urgent-{direction}-{splicing}", urgent(direction, splicing), weight=3, drivers="either")
    yield Case("load.one-after-another", read_one_after_another, weight=6, drivers="either")
    yield Case("load.stopped-readers", stopped_readers, weight=8, only_tele=True)
    yield Case("load.idle-sessions", idle_sessions(False), weight=CAPACITY, only_tele=True, only_plain=True, drivers="long")
    yield Case("load.idle-sessions-key", idle_sessions(True), weight=CAPACITY, only_tele=True, only_plain=True, drivers="long")
    yield Case("load.refusals", refusals, weight=8, only_tele=True, drivers="either")
    yield Case("load.outage-memory", outage_within_memory(False), weight=8, only_tele=True, drivers="long")
    yield Case("load.outage-memory-key", outage_within_memory(True), weight=8, only_tele=True, only_plain=True, drivers="long")
    yield Case("load.refusals-unread", refusals_unread, weight=3, only_tele=True, only_plain=True)
    yield Case("load.never-acknowledging", never_acknowledging, weight=CAPACITY, only_tele=True, only_plain=True, drivers="long")
    yield Case("load.crowd-returns", crowd_returns(60, 0.15), weight=CAPACITY, only_tele=True, only_plain=True, drivers="long")
    for name, count, delay in (("large", 500, 0.025), ("far", 200, 0.3)):
        yield Case(f"load.crowd-returns-{name}", crowd_returns(count, delay), weight=CAPACITY, only_tele=True, only_plain=True,
                   drivers="long", short=False)
    yield Case("load.grants", grants, weight=CAPACITY, only_tele=True, only_plain=True, drivers="long", short=False)
    yield Case("load.all-together", all_together, weight=CAPACITY, only_tele=True, only_plain=True, drivers="long")
