"""tele dies while it works, again and again, and its keeper starts the next process: nobody loses a connection, a byte, or the way it ends.

What dies is the worker, the keeper's only child. A kill strikes at any instruction; the next process finds out from what the dead one
had recorded, and from the kernel, how far it had come.
"""

import contextlib
import fcntl
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import termios
import threading
import time

from ends import Switchboard, call, exchange, observe, receive_exactly, require_reset, reset
from groups import join, memory_group, process_group, set_process_maximum
from path import binary, status_of
from process import Failure
from runner import Case

from . import chaos, upgrade
from .mappings import Files, Route

ORIGIN_PORT = 8760
KEEPER = {"server_flags": ["-keeper=always"], "client_flags": ["-keeper=always"]}
#: From a death until bytes flow again, with no round trip to speak of.
MEDIAN_PAUSE = 0.15


def worker_of(keeper):
    """The process that serves, or None in the moment between two of them."""
    try:
        with open(f"/proc/{keeper.pid}/task/{keeper.pid}/children", encoding="ascii") as file:
            children = file.read().split()
    except FileNotFoundError:
        raise Failure(f"{keeper.name}: the keeper is gone") from None
    return int(children[0]) if children else None


def end_worker(keeper, number=signal.SIGKILL):
    """True when there was one."""
    worker = worker_of(keeper)
    if worker is None:
        return False
    try:
        os.kill(worker, number)
    except ProcessLookupError:
        return False
    return True


def recoveries_of(process):
    return process.errors.count("warning recovered ")


class Deaths:
    """One worker after the other is ended, of both sides, until `stop`."""

    def __init__(self, path, chance, shortest, longest, numbers=(signal.SIGKILL,)):
        self.path, self.chance, self.between, self.numbers = path, chance, (shortest, longest), numbers
        self.count, self.fault = 0, None
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            while not self.end.wait(self.chance.uniform(*self.between)):
                keeper = self.chance.choice((self.path.server, self.path.client))
                self.count += end_worker(keeper, self.chance.choice(self.numbers))
        except Failure as fault:
            self.fault = fault

    def stop(self, least):
        self.end.set()
        self.thread.join()
        if self.fault:
            raise self.fault
        if self.count < least:
            raise Failure(f"{self.count} processes died: too few to say anything")
        pauses = [int(ms) for process in (self.path.server, self.path.client) for ms in re.findall(r"recovered .*pause=(\d+)ms", process.errors)]
        for process in (self.path.server, self.path.client):
            if "cannot use the state" in process.errors:
                raise Failure(f"{process.name} could not go on: {[line for line in process.errors.splitlines() if 'cannot use' in line][0]}")
        return f"{self.count} deaths, pauses {statistics.median(pauses):.0f} ms (worst {max(pauses)})"


def under_chaos(context):
    """Random bytes both ways, half-closes and short connections, while both sides die several times a second."""
    deaths = []
    note = chaos.story(context, context.options.seconds or 20, with_faults=False,
                       meanwhile=lambda path: deaths.append(Deaths(path, context.random, 0.02, 0.3)), **KEEPER)
    return f"{note}, {deaths[0].stop(60)}"


def upgrades_under_chaos(context):
    """As upgrade.chaos: another program takes over a process that has a keeper, again and again."""
    return upgrade.under_chaos(context, **KEEPER)


def upgrades_of_kinds(context):
    """As upgrade.kinds, with a keeper."""
    return upgrade.kinds(context, keeper=True)


def in_outages(context):
    """The same, while the network fails besides."""
    deaths = []
    note = chaos.story(context, context.options.seconds or 20, with_faults=True,
                       meanwhile=lambda path: deaths.append(Deaths(path, context.random, 0.1, 0.9)), **KEEPER)
    return f"{note}, {deaths[0].stop(20)}"


def short(context):
    """Connections that are made, used and ended as fast as six users can, while both sides die every 30 ms."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT, **KEEPER)
    listener = lab.server.listen(ORIGIN_PORT)
    over, faults, pauses = threading.Event(), [], []

    def echo(end):
        # A connect that was under way at a death is made again: the first one is reset.
        with end, contextlib.suppress(ConnectionResetError):
            while part := end.recv(65536):
                end.sendall(part)

    def serve():
        # Until it is closed: users who are under way when the time is over are served, too.
        while True:
            try:
                threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
            except OSError:
                return

    def use(chance):
        while not over.is_set():
            began = time.monotonic()
            data = chance.randbytes(chance.choice((4, 100, 3000, 20_000)))
            try:
                with lab.client.connect(path.address) as end:
                    end.settimeout(10)
                    end.sendall(data)
                    end.shutdown(socket.SHUT_WR)
                    if receive_exactly(end, len(data)) != data or end.recv(1) != b"":
                        raise Failure("what came back is not what was sent")
            except (Failure, OSError) as fault:
                faults.append(f"after {time.monotonic() - began:.3f} s, {len(data)} bytes: {fault}")
                return
            pauses.append(time.monotonic() - began)

    threading.Thread(target=serve, daemon=True).start()
    users = [threading.Thread(target=use, args=(random.Random(context.random.getrandbits(32)),), daemon=True) for _ in range(6)]
    for user in users:
        user.start()
    deaths = Deaths(path, context.random, 0, 0.06)
    context.sleep(context.options.seconds or 10)
    over.set()
    for user in users:
        user.join(15)
    said = deaths.stop(50)
    listener.close()
    if faults:
        raise Failure(f"a connection was lost: {faults[0]} ({len(faults)} in all)")
    return f"{len(pauses)} connections, the longest took {max(pauses) * 1000:.0f} ms, {said}"


class Bulk:
    """A stream of random bytes from a user to the origin, as fast as it goes, hashed at both ends."""

    def __init__(self, pair, chance):
        self.user, self.origin = pair
        self.hashes, self.count, self.faults = [hashlib.sha256(), hashlib.sha256()], 0, []
        self.over = threading.Event()
        self.piece = chance.randbytes(1 << 20)
        for end in pair:
            end.settimeout(20)
        self.threads = [threading.Thread(target=self._run, args=(body,), daemon=True) for body in (self._send, self._receive)]
        for thread in self.threads:
            thread.start()

    def _run(self, body):
        try:
            body()
        except OSError as fault:
            self.faults.append(fault)

    def _send(self):
        turn = 0
        while not self.over.is_set():
            # A piece that is lost, doubled or moved changes the hash.
            piece = turn.to_bytes(8, "big") + self.piece
            self.user.sendall(piece)
            self.hashes[0].update(piece)
            turn += 1
        self.user.shutdown(socket.SHUT_WR)

    def _receive(self):
        while part := self.origin.recv(1 << 18):
            self.hashes[1].update(part)
            self.count += len(part)

    def finish(self):
        """The number of bytes that arrived."""
        self.over.set()
        for thread in self.threads:
            thread.join(40)
        if self.faults or any(thread.is_alive() for thread in self.threads):
            raise Failure(f"the bulk stream stopped after {self.count} bytes ({self.faults})")
        if self.hashes[0].digest() != self.hashes[1].digest():
            raise Failure(f"of {self.count} bytes some are wrong")
        return self.count


def crowd(context):
    """Many idle connections and one bulk stream, while both sides die: each of them is there afterwards."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT, **KEEPER)
    with Switchboard(lab, ORIGIN_PORT) as switchboard, contextlib.ExitStack() as stack:
        pairs = [call(lab, path, switchboard) for _ in range(4000 if context.options.long else 1500)]
        for pair in pairs:
            for end in pair:
                stack.enter_context(end)
        bulk = Bulk(pairs[0], context.random)
        deaths = Deaths(path, context.random, 0.05, 0.6)
        context.sleep(context.options.seconds or 10)
        said = deaths.stop(10)
        count = bulk.finish()
        for pair in pairs[1:]:
            exchange(*pair, count=10)
    return f"{len(pairs) - 1} idle connections and {count >> 20} MiB in one, {said}"


def spliced(context):
    """A bulk stream each way that goes past memory, in pipes, while both sides die and are upgraded: equal, and still counted as spliced."""
    lab = context.lab()
    controls = {role: f"{lab.directory}/{role}.sock" for role in ("client", "server")}
    flags = {f"{role}_flags": ["-splice=always", f"-control={controls[role]}", "-keeper=always"] for role in controls}
    path = context.path(lab, ORIGIN_PORT, **flags)
    with Switchboard(lab, ORIGIN_PORT) as switchboard, contextlib.ExitStack() as stack:
        up, down = call(lab, path, switchboard), call(lab, path, switchboard)
        for end in (*up, *down):
            stack.enter_context(end)
        streams = [Bulk(up, context.random), Bulk(down[::-1], context.random)]
        context.sleep(1.5)
        counted = {role: counts_of(controls[role]) for role in controls}
        if not all(count > 1 << 20 for counts in counted.values() for count in counts):
            raise Failure(f"little is spliced: {counted}")
        deaths = Deaths(path, context.random, 0.05, 0.5)
        for _ in range(3):
            context.sleep((context.options.seconds or 10) / 3)
            context.random.choice((path.server, path.client)).signal(signal.SIGUSR2)
        said = deaths.stop(10)
        bytes_there = sum(stream.finish() for stream in streams)
        for role in controls:
            if any(now < before for now, before in zip(counts_of(controls[role]), counted[role], strict=True)):
                raise Failure(f"the {role} counts from the beginning again: {counts_of(controls[role])} after {counted[role]}")
    return f"{bytes_there >> 20} MiB both ways, {said}"


def counts_of(control):
    status = status_of(control)
    return status["splicedBytes"], status["passedBytes"]


def ends(context):
    """Every state in which a connection can be when its process dies, and how it ends afterwards."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT, **KEEPER)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        for keeper in (path.server, path.client):
            idle, half, mirrored, full, dying = (call(lab, path, switchboard) for _ in range(5))
            for user, origin in (idle, half, mirrored, full, dying):
                exchange(user, origin)
            # The user's end has gone, and the origin's.
            half[0].sendall(b"last")
            half[0].shutdown(socket.SHUT_WR)
            mirrored[1].sendall(b"last")
            mirrored[1].shutdown(socket.SHUT_WR)
            # What nobody reads yet waits in both processes, and in both kernels.
            big = os.urandom(24 << 20)
            sender = threading.Thread(target=full[0].sendall, args=(big,), daemon=True)
            sender.start()
            context.sleep(0.5)
            before = recoveries_of(keeper)
            end_worker(keeper)
            # The origin resets at the moment of the death.
            reset(dying[1])
            fresh = call(lab, path, switchboard)
            exchange(*fresh)
            exchange(*idle)
            until = time.monotonic() + 2
            while recoveries_of(keeper) == before and time.monotonic() < until:
                context.sleep(0.02)
            if recoveries_of(keeper) != before + 1:
                raise Failure(f"{keeper.name} does not say that it recovered")
            require_reset(dying[0], 2, "the user of an origin that reset as the process died")
            if receive_exactly(half[1], 4) != b"last" or observe(half[1], time.monotonic() + 2)[1] != "eof":
                raise Failure("the end of a user's bytes was lost")
            half[1].sendall(b"answer")
            half[1].close()
            if receive_exactly(half[0], 6) != b"answer" or observe(half[0], time.monotonic() + 2)[1] != "eof":
                raise Failure("the answer to a user who had ended was lost")
            if receive_exactly(mirrored[0], 4) != b"last" or observe(mirrored[0], time.monotonic() + 2)[1] != "eof":
                raise Failure("the end of an origin's bytes was lost")
            mirrored[0].sendall(b"answer")
            mirrored[0].close()
            if receive_exactly(mirrored[1], 6) != b"answer":
                raise Failure("the answer to an origin that had ended was lost")
            if receive_exactly(full[1], len(big)) != big:
                raise Failure("bytes that waited during the death came out wrong")
            sender.join(10)
    return "idle, half-closed, full, reset and fresh connections, a death of either side"


def faults(context):
    """What ends a process besides a kill: a crash, and standing still. Who crashes again and again is not started any more."""
    lab = context.lab()
    # Swift's handler would print a backtrace and let a process live that only got the signal of a crash.
    plain = ["env", "SWIFT_BACKTRACE=enable=no"]
    path = context.path(lab, ORIGIN_PORT, server_limits=plain, client_limits=plain, **KEEPER)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        pair = call(lab, path, switchboard)
        exchange(*pair)
        for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGBUS):
            end_worker(path.client, number)
            exchange(*pair)
            exchange(*call(lab, path, switchboard))
        began = time.monotonic()
        end_worker(path.server, signal.SIGSTOP)
        exchange(*pair, seconds=30)
        stood = time.monotonic() - began
        # Signals go to the keeper, which passes them on: what is sent to the worker alone is not meant.
        end_worker(path.server, signal.SIGTERM)
        exchange(*pair)
        end_worker(path.client, signal.SIGSEGV)
        if path.client.wait(10) != 1 or "crashed 5 times within a minute" not in path.client.errors:
            raise Failure(f"a client that crashed five times ended with status {path.client.status}, and the words {path.client.errors[-200:]}")
        require_reset(pair[0], 5, "the user of a client that crashed five times")
        path.client = None
    return f"four crashes and a hang of {stood:.0f} s survived, the fifth crash in a minute was the last"


#: Takes memory, a little at a time, until it is ended.
GREEDY = """
import time
taken = []
while True:
    taken.append(bytearray(1 << 20))
    time.sleep(0.005)
"""


def out_of_memory(context):
    """A host, or a container, runs out of memory, and the kernel ends tele's worker: whoever took the memory is ended soon after."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT, **KEEPER)
    with Switchboard(lab, ORIGIN_PORT) as switchboard, memory_group(lab, 64 << 20) as group:
        pair = call(lab, path, switchboard)
        exchange(*pair)
        for keeper in (path.server, path.client):
            worker = worker_of(keeper)
            for pid in (keeper.pid, worker):
                join(group, pid)
            # The next worker has the keeper's own.
            with open(f"/proc/{worker}/oom_score_adj", "w", encoding="ascii") as file:
                file.write("1000")
            greedy = lab.start("greedy", [sys.executable, "-c", GREEDY])
            join(group, greedy.pid)
            if not context.until(20, lambda keeper=keeper, worker=worker: worker_of(keeper) != worker):
                raise Failure("memory was never short")
            greedy.kill()
            greedy.wait(5)
            exchange(*pair)
            exchange(*call(lab, path, switchboard))
        said = [recoveries_of(keeper) for keeper in (path.server, path.client)]
        for keeper in (path.server, path.client):
            keeper.kill()
            keeper.wait(5)
        path.client = path.server = None
    return f"a server and a client that the kernel ended went on, after {said[0]} and {said[1]} deaths"


def beginnings(context):
    """A worker died, and the next one has a hard beginning: it is killed too early again and again, the configuration or the key cannot be read just
    now, or there may be no further process. Connections wait, and a process that is told to end meanwhile ends."""
    lab = context.lab()
    keys = {role: os.path.join(lab.directory, f"{role}.key") for role in ("client", "server")}
    subprocess.run([binary(), "keygen", f"-out={keys['client']}"], check=True, capture_output=True)
    shutil.copy(keys["client"], keys["server"])
    path = Files(context, lab, {"one": "127.0.0.1:9801"}, {"one": f"127.0.0.1:{ORIGIN_PORT}"},
                 **{role: f'keeper = "always"\nkey = "{key}"\n' for role, key in keys.items()})
    with Switchboard(lab, ORIGIN_PORT) as switchboard, process_group(lab, 20) as group:
        pair = call(lab, Route(9801), switchboard)
        exchange(*pair)

        def require_unbegun(what):
            """For a second there is nobody who serves."""
            pair[0].sendall(b"waits")
            pair[1].settimeout(1)
            try:
                raise Failure(f"{what}: {pair[1].recv(5)} arrived, although nobody can serve")
            except TimeoutError:
                pass

        def require_begun(what):
            pair[1].settimeout(20)
            if receive_exactly(pair[1], 5) != b"waits":
                raise Failure(f"{what}: what was sent meanwhile came out wrong")
            exchange(*pair)
            exchange(*call(lab, Route(9801), switchboard))

        for role, keeper in (("client", path.client), ("server", path.server)):
            kills, until, last = 0, time.monotonic() + 4, None
            while time.monotonic() < until:
                worker = worker_of(keeper)
                if worker != last:
                    kills += end_worker(keeper)
                    last = worker
            if kills < 11:
                raise Failure(f"{role}: {kills} workers were killed: too few to say anything")
            pair[0].sendall(b"waits")
            require_begun(f"the {role}, killed {kills} times in a row")

            # A mapping that was added by a reload is there after a death, too.
            with open(path.file(role), "a", encoding="utf-8") as file:
                file.write('two = "127.0.0.1:9802"\n' if role == "client" else f'two = "127.0.0.1:{ORIGIN_PORT}"\n')
            keeper.signal(signal.SIGHUP)
            if not context.until(5, lambda keeper=keeper: "notice reloaded" in keeper.errors):
                raise Failure(f"the {role} did not reload")

            with open(path.file(role), encoding="utf-8") as file:
                text = file.read()
            with open(path.file(role), "w", encoding="utf-8") as file:
                file.write("half a li")
            # What it said before holds.
            pair[0].sendall(b"waits")
            end_worker(keeper)
            require_begun(f"the {role}'s file is broken")
            if not context.until(5, lambda keeper=keeper: "continuing with what it said before" in keeper.errors):
                raise Failure(f"the {role} does not say that its file is broken")
            with open(path.file(role), "w", encoding="utf-8") as file:
                file.write(text)

            os.rename(keys[role], f"{keys[role]}.away")
            end_worker(keeper)
            require_unbegun(f"the {role}'s key is away")
            os.rename(f"{keys[role]}.away", keys[role])
            require_begun(f"the {role}'s key is there again")

            join(group, keeper.pid)
            set_process_maximum(group, 1)
            end_worker(keeper)
            require_unbegun(f"the {role} may have no process")
            set_process_maximum(group, 20)
            require_begun(f"the {role} may have processes again")

        exchange(*call(lab, Route(9802), switchboard))

        set_process_maximum(group, 2)
        end_worker(path.server)
        context.sleep(0.3)
        path.server.signal(signal.SIGTERM)
        if path.server.wait(5) != 0:
            raise Failure(f"a server without a worker that was told to end: status {path.server.status}")
        path.client.kill()
        context.paths.remove(path)
    return "killed too early, a broken file, no key, no process to be had, on both sides; and a stop meanwhile"


def upgrades(context):
    """Another program takes over a process that has a keeper: the process that everybody knows stays, and the next death is survived, too."""
    lab = context.lab()
    controls = {role: f"{lab.directory}/{role}.sock" for role in ("server", "client")}
    flags = {f"{role}_flags": [f"-control={controls[role]}", "-keeper=always"] for role in controls}
    path = context.path(lab, ORIGIN_PORT, **flags)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        pair = call(lab, path, switchboard)
        exchange(*pair)
        for _ in range(3):
            for role, keeper in (("server", path.server), ("client", path.client)):
                run = subprocess.run([binary(), "upgrade", f"-control={controls[role]}"], capture_output=True, text=True, timeout=30)
                if run.returncode or "upgraded from" not in run.stdout:
                    raise Failure(f"tele upgrade: {run.stdout} {run.stderr}")
                exchange(*pair)
                end_worker(keeper)
                exchange(*pair)
                exchange(*call(lab, path, switchboard))
                seen = status_of(controls[role])
                if seen["recoveries"] != 1 or not 0 < seen["recoveryPauseSeconds"] < 1:
                    raise Failure(f"the {role} counts {seen['recoveries']} deaths, pause {seen['recoveryPauseSeconds']} s")
        for keeper in (path.client, path.server):
            keeper.signal(signal.SIGTERM)
            # Streams are open: a second one ends them.
            context.sleep(0.3)
            keeper.signal(signal.SIGTERM)
            if keeper.wait(15) != 0:
                raise Failure(f"{keeper.name} ended with status {keeper.status}")
        path.client = path.server = None
    return "six upgrades, each with a death behind it; both ended as they were told"


def notices(context):
    """A service manager that hears only the process that it started (NotifyAccess=main) hears all that the worker has to say, and of the next worker,
    too."""
    lab = context.lab()
    name = os.path.join(lab.directory, "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        server = lab.start("manager", [binary(), "-server", f"-in=127.0.0.1:{ORIGIN_PORT}", "-out=127.0.0.1:0", "-control=none", "-keeper=always"],
                           environment={"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "400000"})

        def hear(words, seconds=10):
            """What is said until then, each word by the process itself."""
            until, said = time.monotonic() + seconds, []
            while words not in said:
                manager.settimeout(max(0.01, until - time.monotonic()))
                try:
                    text, control, _, _ = manager.recvmsg(4096, socket.CMSG_SPACE(12))
                except TimeoutError:
                    raise Failure(f"the service manager did not hear {words}, but {said}") from None
                speaker = int.from_bytes(control[0][2][:4], sys.byteorder)
                if speaker != server.pid:
                    raise Failure(f"{text} was said by {speaker}, and the service manager hears {server.pid} only")
                said.append(text.decode())
            return said

        hear("READY=1")
        for _ in range(3):
            hear("WATCHDOG=1")
            end_worker(server)
            hear("READY=1")
        server.signal(signal.SIGTERM)
        hear("STOPPING=1")
        if server.wait(15) != 0:
            raise Failure(f"it ended with status {server.status}")
    return "READY, WATCHDOG and STOPPING of four workers, all said by their keeper"


def stops(context):
    """Who stops the process that was started, by SIGSTOP or in a terminal, stops what serves; and lets it go on."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT, **KEEPER)

    def state(pid):
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0]

    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        pair = call(lab, path, switchboard)
        exchange(*pair)
        for keeper in (path.client, path.server):
            worker = worker_of(keeper)
            keeper.stop()
            if not context.until(5, lambda worker=worker: state(worker) == "T"):
                raise Failure(f"{keeper.name}: the worker goes on, five seconds after its keeper was stopped")
            # Longer than a worker may be silent.
            context.sleep(6)
            keeper.resume()
            exchange(*pair)
            if worker_of(keeper) != worker:
                raise Failure(f"{keeper.name}: it was stopped for a while, and replaced")
    # A service manager that tells all processes of a service to stop: they stop, each time.
    for number in range(20):
        server = lab.start(f"group{number}", [binary(), "-server", f"-in=127.0.0.1:{ORIGIN_PORT}", "-out=127.0.0.1:0", "-control=none", "-keeper=always"])
        if not context.until(5, lambda server=server: "listening for carriers" in server.errors):
            raise Failure("it does not listen")
        os.killpg(server.pid, signal.SIGTERM)
        if server.wait(10) != 0:
            raise Failure(f"it ended with status {server.status} when the group was told to end")
    terminal, other = os.openpty()
    process = subprocess.Popen([binary(), "-server", f"-in=127.0.0.1:{ORIGIN_PORT}", "-out=127.0.0.1:0", "-control=none", "-keeper=always"], stdin=other,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                               preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    try:
        def worker():
            with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as file:
                return int(file.read() or 0)

        if not context.until(5, lambda: worker() and process.poll() is None):
            raise Failure("nothing runs in the terminal")
        context.sleep(0.5)
        os.write(terminal, b"\x03")
        if process.wait(15) != 0:
            raise Failure(f"it ended with status {process.returncode} when the terminal interrupted it")
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(other)
    return "both stopped with their keepers for six seconds, and went on; a signal for the group and a terminal's interrupt end it"


def cases():
    yield Case("outlive.chaos", under_chaos, weight=2, only_tele=True, drivers="both")
    yield Case("outlive.outages", in_outages, weight=2, only_tele=True, drivers="both")
    yield Case("outlive.upgrade-chaos", upgrades_under_chaos, weight=2, only_tele=True, drivers="either")
    yield Case("outlive.upgrade-kinds", upgrades_of_kinds, only_tele=True, drivers="either")
    yield Case("outlive.short", short, weight=2, only_tele=True, drivers="both")
    yield Case("outlive.crowd", crowd, weight=4, only_tele=True, drivers="both")
    yield Case("outlive.spliced", spliced, weight=2, only_tele=True, only_plain=True, drivers="both")
    yield Case("outlive.memory", out_of_memory, only_tele=True, drivers="both")
    yield Case("outlive.faults", faults, only_tele=True, drivers="both")
    yield Case("outlive.beginnings", beginnings, only_tele=True, only_plain=True, drivers="both")
    yield Case("outlive.upgrades", upgrades, only_tele=True, drivers="both")
    yield Case("outlive.ends", ends, weight=2, only_tele=True, drivers="both")
    yield Case("outlive.notices", notices, only_tele=True, only_plain=True, drivers="either")
    yield Case("outlive.stops", stops, only_tele=True, only_plain=True, drivers="either")
