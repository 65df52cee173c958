"""Several event loops in one process (-threads): each has sessions of its own, and people see one process."""

import ctypes
import os
import random
import shutil
import signal
import subprocess
import time

from ends import Switchboard, call, exchange
from lab import SERVER_ADDRESS
from path import binary, security_flags, status_of
from process import Failure
from runner import Case

from .mappings import Files, Route
from .subflows import Bulk
from .upgrade import controls, path_with_controls, upgrade

ORIGIN_PORT = 7670
USERS = 12
#: Of the client, and of the server: sessions of the client's loops are spread over the server's.
CLIENT_THREADS, SERVER_THREADS = 2, 3


def close_one_carrier(lab):
    lines = subprocess.run(["ip", "netns", "exec", lab.client.name, "ss", "-Htn", "state", "established", "dst", SERVER_ADDRESS],
                           capture_output=True, text=True).stdout.split("\n")
    line = random.choice([line for line in lines if line.strip()])
    subprocess.run(["ip", "netns", "exec", lab.client.name, "ss", "-K", "src", line.split()[2]], capture_output=True)


def carry(context):
    """Streams of random bytes, both ways, through loops of their own: carriers are closed one by one, the path is silent for two seconds, both programs
    are replaced, and every byte arrives."""
    lab = context.lab()
    path = path_with_controls(context, lab, ORIGIN_PORT, client_flags=[f"-threads={CLIENT_THREADS}"], server_flags=[f"-threads={SERVER_THREADS}"])
    paths = controls(lab)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        pairs = [call(lab, path, switchboard) for _ in range(USERS)]
        flows = [Bulk(*ends, seed) for seed, pair in enumerate(pairs) for ends in (pair, pair[::-1])]

        def advance(what):
            before = [flow.received for flow in flows]
            if not context.until(20, lambda: all(flow.trouble or flow.received > count for flow, count in zip(flows, before))):
                raise Failure(f"{what}: some streams stand still: {[flow.received - count for flow, count in zip(flows, before)]}")
            for flow in flows:
                flow.check(what)

        def check(what):
            for role, count in (("client", CLIENT_THREADS), ("server", SERVER_THREADS)):
                status = status_of(paths[role])
                # A session of an attempt that was given up may be there besides, empty.
                streams = [session["streams"] for session in status["sessions"] if session["streams"]]
                if (status["threads"], status.get("silentThreads")) != (count, 0) or status["connections"] != USERS:
                    raise Failure(f"{what}: the {role} says {status['threads']} threads, {status.get('silentThreads')} silent, "
                                  f"{status['connections']} connections")
                if streams != [USERS // CLIENT_THREADS] * CLIENT_THREADS:
                    raise Failure(f"{what}: the {role}'s sessions have {streams} streams")

        advance("at the start")
        check("at the start")
        for _ in range(6):
            close_one_carrier(lab)
            advance("a carrier was closed")
        lab.forward("drop")
        context.sleep(2)
        lab.forward()
        advance("behind an outage")
        check("behind an outage")
        copy = shutil.copy(binary(), os.path.join(lab.directory, "next"))
        for side in (paths["client"], paths["server"], paths["client"]):
            words = upgrade(side, f"-binary={copy}")
            if f"{USERS} connections kept" not in words:
                raise Failure(f"the upgrade says: {words}")
            advance("another program")
        check("other programs")
        for flow in flows:
            flow.running = False
        for flow in flows:
            flow.join()
        if "session lost" in path.client.errors:
            raise Failure("a session was lost")
    return f"{sum(flow.received for flow in flows) >> 20} MiB by {USERS} users both ways, through closed carriers, an outage and three upgrades"


def files(context):
    """One process for people: a file is read again, its mappings change, users of both ways are served, and a drain waits for all."""
    lab = context.lab()
    path = Files(context, lab, {"one": "127.0.0.1:9701", "gone": "127.0.0.1:9702"}, {"one": "127.0.0.1:7671", "gone": "127.0.0.1:7672"},
                 client=f'threads = {CLIENT_THREADS}\n[client.origins]\nback = "127.0.0.1:7674"\n',
                 server=f'threads = {SERVER_THREADS}\nmetrics = "127.0.0.1:9799"\n[server.listen]\nback = "127.0.0.1:9704"\n')

    def serve(route, origin, ends_of=lab):
        """More users than there are loops."""
        for _ in range(2 * SERVER_THREADS):
            ends = call(ends_of, route, origin)
            exchange(*ends)
            for end in ends:
                end.close()

    class Swapped:
        client, server = lab.server, lab.client

    def reload(role):
        process = getattr(path, role)
        count = process.errors.count("notice reloaded")
        process.signal(signal.SIGHUP)
        if not context.until(5, lambda: process.errors.count("notice reloaded") > count):
            raise Failure(f"the {role} did not reload: {process.errors[-300:]}")

    with Switchboard(lab, 7671) as one, Switchboard(lab, 7672) as gone, Switchboard(lab, 7673) as new, Switchboard(Swapped, 7674) as back:
        serve(Route(9701), one)
        serve(Route(9702), gone)
        kept = call(lab, Route(9702), gone)
        if not context.until(10, lambda: "serving users of the server" in path.client.errors):
            raise Failure("the client does not serve the reverse mapping")
        serve(Route(9704), back, Swapped)

        path.write("server", f'out = ":40300"\nthreads = {SERVER_THREADS}\nmetrics = "127.0.0.1:9799"\n[server.listen]\nback = "127.0.0.1:9704"\n',
                   "origins", {"one": "127.0.0.1:7671", "new": "127.0.0.1:7673"})
        path.write("client", f'out = "{SERVER_ADDRESS}:40300"\nthreads = {CLIENT_THREADS}\n[client.origins]\nback = "127.0.0.1:7674"\n',
                   "listen", {"one": "127.0.0.1:9701", "new": "127.0.0.1:9703"})
        reload("server")
        reload("client")
        if not context.until(5, lambda: "mapping=new" in path.client.errors):
            raise Failure("the client does not listen for the new mapping")
        serve(Route(9703), new)
        serve(Route(9701), one)
        exchange(*kept)

        def ask(what):
            return subprocess.run(["ip", "netns", "exec", lab.server.name, "curl", "-sS", f"http://127.0.0.1:9799/{what}"],
                                  capture_output=True, text=True, timeout=10).stdout

        page = ask("metrics")
        numbers = dict(line.rsplit(" ", 1) for line in page.splitlines() if line and not line.startswith("#"))
        served = 2 * SERVER_THREADS
        if float(numbers['tele_mapping_opened_total{mapping="one"}']) != 2 * served or float(numbers["tele_sessions"]) != CLIENT_THREADS:
            raise Failure(f"the metrics do not count all loops: {[line for line in page.splitlines() if 'mapping' in line][:20]}")
        if ask("readyz").strip() != "ready":
            raise Failure("the server is not ready")

        context.paths.remove(path)
        words = subprocess.run([binary(), "drain", f"-control={path.control('client')}"], capture_output=True, text=True, timeout=10).stdout
        if not words.startswith("draining the client of"):
            raise Failure(f"tele drain says: {words}")
        context.sleep(0.5)
        exchange(*kept)
        if not path.client.running:
            raise Failure("the client does not wait for an open connection")
        for end in kept:
            end.close()
        if not context.until(5, lambda: not path.client.running):
            raise Failure("the client drains for ever")
    return "mappings added, removed and reversed by a reload, counted as one process, drained as one"


PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000


class Held:
    """One thread of a process stands still, as in a call that does not return; the others do not."""

    def __init__(self, pid, thread):
        self.thread = thread
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        if thread not in map(int, os.listdir(f"/proc/{pid}/task")):
            raise Failure(f"process {pid} has no thread {thread}")

    def __enter__(self):
        for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
            if self.libc.ptrace(request, self.thread, None, None):
                raise Failure(f"ptrace: {os.strerror(ctypes.get_errno())}")
        os.waitpid(self.thread, WALL)
        return self

    def __exit__(self, *_):
        if self.libc.ptrace(PTRACE_DETACH, self.thread, None, None):
            # Its process has ended, which nobody sees before this.
            os.waitpid(self.thread, WALL)


def further_loops(process):
    """The threads of all loops but the first: those that wait in a ring, or in epoll, as the first one does."""
    def place(thread):
        with open(f"/proc/{process.pid}/task/{thread}/syscall", encoding="ascii") as file:
            return file.read().split()[0]
    threads = sorted(map(int, os.listdir(f"/proc/{process.pid}/task")))
    return [thread for thread in threads[1:] if place(thread) == place(process.pid)]


def has_ended(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"


def hung(context):
    """One loop of the client stands still, then one of the server: the users of the others go on, people see it, and when it turns again nothing is
    lost. A process of which a loop hangs ends when it is told to twice."""
    lab = context.lab()
    path = path_with_controls(context, lab, ORIGIN_PORT, client_flags=["-threads=3"], server_flags=["-threads=3"])
    paths = controls(lab)
    waits = []
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        pairs = [call(lab, path, switchboard) for _ in range(6)]
        for role in ("client", "server"):
            process = getattr(path, role)
            context.sleep(0.3)
            loops = further_loops(process)
            if len(loops) != 2:
                raise Failure(f"the {role} has {len(loops)} further loops that wait")
            with Held(process.pid, loops[0]):
                began = time.monotonic()
                status = status_of(paths[role])
                waits.append(time.monotonic() - began)
                if (status["threads"], status["silentThreads"]) != (3, 1) or waits[-1] > 2:
                    raise Failure(f"the {role} says after {waits[-1]:.1f} s: {status['threads']} threads, {status['silentThreads']} silent")
                words = subprocess.run([binary(), "status", f"-control={paths[role]}"], capture_output=True, text=True, timeout=10).stdout
                if "1 of which does not answer" not in words:
                    raise Failure(f"tele status does not say that a loop hangs: {words[:300]}")
                served = 0
                for user, origin in pairs:
                    user.sendall(b"held")
                    origin.settimeout(0.5)
                    try:
                        served += origin.recv(4) == b"held"
                    except TimeoutError:
                        pass
                if not 2 <= served < len(pairs):
                    raise Failure(f"while one of three loops of the {role} hangs, {served} of {len(pairs)} users are served")
                context.sleep(1)
                if role == "client":
                    # The first may be given to the loop that hangs; who comes a second later is served by the others.
                    first = lab.client.connect(path.address)
                    context.sleep(1.2)
                    fresh = [call(lab, path, switchboard, 5) for _ in range(6)]
                    for pair in fresh:
                        exchange(*pair)
                    first.close()
            if not context.until(5, lambda role=role: status_of(paths[role])["silentThreads"] == 0):
                raise Failure(f"the {role} says that a loop hangs which does not")
            for user, origin in pairs:
                # Those that were not served are now.
                origin.settimeout(10)
                user.sendall(b"last")
                data = b""
                while not data.endswith(b"last"):
                    data += origin.recv(8)
                if data not in (b"last", b"heldlast"):
                    raise Failure(f"bytes behind a loop that hung came out as {data}")
                exchange(user, origin)
            exchange(*call(lab, path, switchboard))
        with Held(path.client.pid, further_loops(path.client)[0]):
            path.client.signal(signal.SIGTERM)
            context.sleep(0.5)
            path.client.signal(signal.SIGTERM)
            if not context.until(15, lambda: has_ended(path.client.pid)):
                raise Failure("a client of which a loop hangs does not end when it is told to")
        if path.client.wait(5) != 0:
            raise Failure(f"a client of which a loop hangs ended with status {path.client.status}")
        path.client = None
    return f"people were told after {waits[0]:.1f} and {waits[1]:.1f} s"


def settings(context):
    """Eight loops of an ordinary user; a process that ends when it is idle; an upgrade to another number of threads is refused, with a sentence."""
    lab = context.lab()
    ordinary = ["prlimit", "--memlock=8388608:8388608", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    path = context.path(lab, ORIGIN_PORT, client_flags=["-threads=8", "-control=none"], server_flags=["-threads=8", "-control=none", "-idle-exit=2s"],
                        client_limits=ordinary, server_limits=ordinary)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        pairs = [call(lab, path, switchboard) for _ in range(24)]
        for pair in pairs:
            exchange(*pair)
        resident = {role: getattr(path, role).memory() >> 20 for role in ("client", "server")}
        for pair in pairs:
            for end in pair:
                end.close()
        context.sleep(3)
        if not path.server.running:
            raise Failure("a server with clients ended as idle")
        path.client.signal(signal.SIGTERM)
        if path.client.wait(10) != 0 or path.server.wait(10) != 0:
            raise Failure(f"client and server ended with {path.client.status} and {path.server.status}: {path.server.errors[-300:]}")
    path.client = path.server = None
    files = Files(context, lab, {"one": "127.0.0.1:9711"}, {"one": f"127.0.0.1:{ORIGIN_PORT}"}, client="threads = 2\n", server="threads = 3\n")
    files.client.wait_for_port(9711)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        pairs = [call(lab, Route(9711), switchboard) for _ in range(4)]
        for role, before, after in (("client", 2, 1), ("server", 3, 4)):
            with open(files.file(role), encoding="utf-8") as file:
                text = file.read()
            with open(files.file(role), "w", encoding="utf-8") as file:
                file.write(text.replace(f"threads = {before}", f"threads = {after}"))
            run = subprocess.run([binary(), "upgrade", f"-control={files.control(role)}"], capture_output=True, text=True, timeout=30)
            if run.returncode == 0 or "another number of threads" not in run.stderr:
                raise Failure(f"an upgrade of the {role} to {after} threads: status {run.returncode}, {run.stdout}{run.stderr}")
            for pair in pairs:
                exchange(*pair)
            with open(files.file(role), "w", encoding="utf-8") as file:
                file.write(text)
            upgrade(files.control(role))
            for pair in pairs:
                exchange(*pair)
        run = subprocess.run(["ip", "netns", "exec", lab.client.name, binary(), "connect", f"-config={files.file('client')}", "-threads=2",
                              f"-out={SERVER_ADDRESS}:40300", "one"], capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
        if "threads" not in run.stderr:
            raise Failure(f"tele connect -threads=2 says: {run.stderr}")
    return f"eight loops of nobody: {resident['client']} and {resident['server']} MiB resident"


def quota(context):
    """A client may have so many streams at a time, over all loops: also after an upgrade, and after a reload that changes the number."""
    lab = context.lab()
    key = os.path.join(lab.directory, "boss.key")
    subprocess.run([binary(), "keygen", f"-out={key}", "-name=boss"], check=True, capture_output=True)

    def server(most):
        return f'key = "{key}"\nthreads = 2\n[server.clients.boss]\nstreams = {most}\n'
    path = Files(context, lab, {"one": "127.0.0.1:9716"}, {"one": f"127.0.0.1:{ORIGIN_PORT}"}, client=f'key = "{key}"\nthreads = 2\n', server=server(4))
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        open_ends = []

        def fill(most, what):
            """Exactly so many are served in all."""
            for _ in range(most - len(open_ends) + 1):
                try:
                    open_ends.append(call(lab, Route(9716), switchboard, 1))
                except (OSError, Failure):
                    pass
            if len(open_ends) != most:
                raise Failure(f"{what}: {len(open_ends)} streams of at most {most}")
            for pair in open_ends:
                exchange(*pair)
        fill(4, "at the start")
        for role in ("server", "client"):
            upgrade(path.control(role))
            fill(4, f"after an upgrade of the {role}")
        for end in open_ends.pop():
            end.close()
        context.sleep(0.3)
        fill(4, "after one has ended")
        count = path.server.errors.count("notice reloaded")
        path.write("server", f'out = ":40300"\n{server(6)}', "origins", {"one": f"127.0.0.1:{ORIGIN_PORT}"})
        path.server.signal(signal.SIGHUP)
        if not context.until(5, lambda: path.server.errors.count("notice reloaded") > count):
            raise Failure("the server did not reload")
        fill(6, "after a reload")
        loops = sorted(session["streams"] for session in path.status("server")["sessions"] if session["streams"])
    return f"four, then six, over loops that have {loops}"


def crowd(context):
    """Clients by the dozen against several loops: the server is killed and started again, and all are served, spread over its loops."""
    lab = context.lab()
    count = 120 if context.options.long else 40
    path = path_with_controls(context, lab, ORIGIN_PORT, server_flags=["-threads=4"])
    clients = [lab.start(f"tele-{number}", [binary(), "-client", f"-in=127.0.0.1:{9720 + number}", f"-out={SERVER_ADDRESS}:40300", "-control=none",
                                           *security_flags("client")], host=lab.client) for number in range(count)]
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        routes = [Route(9720 + number) for number in range(count)]
        for route, client in zip(routes, clients):
            client.wait_for_port(route.address[1])
            exchange(*call(lab, route, switchboard))
        path.server.kill()
        context.sleep(1)
        path.start_server()
        began = time.monotonic()
        if not context.until(15, lambda: len(status_of(controls(lab)["server"])["sessions"]) > count):
            raise Failure(f"{len(status_of(controls(lab)['server'])['sessions'])} sessions of {count + 1} clients came back in 15 s")
        back = time.monotonic() - began
        for route in routes:
            exchange(*call(lab, route, switchboard))
    return f"{count + 1} clients were back after {back:.1f} s"


def cases():
    yield Case("threads.carry", carry, drivers="either", only_tele=True)
    yield Case("threads.files", files, drivers="either", only_tele=True)
    yield Case("threads.hung", hung, drivers="either", only_tele=True)
    yield Case("threads.settings", settings, drivers="either", only_tele=True, only_plain=True)
    yield Case("threads.quota", quota, drivers="either", only_tele=True, only_plain=True)
    yield Case("threads.crowd", crowd, drivers="either", only_tele=True)
