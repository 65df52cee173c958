"""tele is taken over by another program while it works: nobody loses a connection, a byte, or the way it ends.

The new program is a copy of the same one, at another path: what changes is all that an upgrade can change.
"""

import os
import shutil
import signal
import socket
import statistics
import subprocess
import threading
import time

import programs
from ends import Switchboard, call, exchange, observe, receive_exactly, require_reset, reset, wait_unread
from lab import SERVER_ADDRESS
from path import binary, security_flags, status_of
from process import Failure
from runner import CAPACITY, Case

from . import chaos
from .mappings import CARRIER, Files, Route

ORIGIN_PORT = 8700
METRICS_PORT = 9140
#: A process that was told to stand still for this long is suspected by nobody's users.
WORST_PAUSE = 0.5


def controls(lab):
    return {role: f"{lab.directory}/{role}.sock" for role in ("server", "client")}


def path_with_controls(context, lab, origin_port=ORIGIN_PORT, **options):
    paths = controls(lab)
    flags = {f"{role}_flags": [f"-control={paths[role]}", *options.pop(f"{role}_flags", [])] for role in paths}
    return context.path(lab, origin_port, **flags, **options)


def upgrade(control, *flags):
    """Another program takes the process over. Returns what it says."""
    run = subprocess.run([binary(), "upgrade", f"-control={control}", *flags], capture_output=True, text=True, timeout=30)
    if run.returncode:
        raise Failure(f"tele upgrade: {run.stderr.strip()}")
    return run.stdout.strip()


def upgrades_of(process):
    return process.errors.count("notice upgraded ")


def firewall(lab, text):
    """Of the server's host."""
    subprocess.run(["ip", "netns", "exec", lab.server.name, "nft", text], check=True, capture_output=True)


class Upgrades:
    """One process after the other is taken over, by signal, until `stop`; each has `every` seconds to itself."""

    def __init__(self, path, every):
        self.path, self.every = path, every
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        turn = 0
        while not self.end.wait(self.every):
            process = (self.path.server, self.path.client)[turn % 2]
            before = upgrades_of(process)
            process.signal(signal.SIGUSR2)
            while upgrades_of(process) == before and process.running and not self.end.wait(0.02):
                pass
            turn += 1

    def stop(self, least):
        self.end.set()
        self.thread.join()
        counts = [upgrades_of(process) for process in (self.path.server, self.path.client)]
        if min(counts) < least:
            raise Failure(f"the server was taken over {counts[0]} times, the client {counts[1]} times: too seldom to say anything")
        return sum(counts)


def under_chaos(context, **flags):
    """Random bytes both ways, half-closes and short connections, and some fifty upgrades of each side."""
    upgrades = []
    note = chaos.story(context, 25, with_faults=False, meanwhile=lambda path: upgrades.append(Upgrades(path, 0.22)), **flags)
    return f"{note}, {upgrades[0].stop(30)} upgrades"


def in_outages(context):
    """The same, while the network fails besides."""
    upgrades = []
    note = chaos.story(context, 20, with_faults=True, meanwhile=lambda path: upgrades.append(Upgrades(path, 0.7)))
    return f"{note}, {upgrades[0].stop(4)} upgrades"


def program(kind):
    def story(context):
        lab = context.lab()
        works = kind(context, lab)
        path = context.path(lab, works.origin_port, user_port=works.user_port)
        works.prepare(path)
        user = works.start(path)
        context.sleep(works.fault_after)
        upgrades = Upgrades(path, 0.4)
        user.wait(works.patience)
        count = upgrades.stop(1)
        return f"{works.check(user)}, {count} upgrades"
    return story


def ends(context):
    """Every state in which a connection can be when its process is taken over, and how it ends afterwards."""
    lab = context.lab()
    path = path_with_controls(context, lab)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        for role, control in controls(lab).items():
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
            # The origin resets at the moment of the upgrade.
            said = []
            asking = threading.Thread(target=lambda c=control, s=said: s.append(upgrade(c)), daemon=True)
            asking.start()
            context.sleep(0.01)
            reset(dying[1])
            fresh = call(lab, path, switchboard)
            asking.join(20)
            if not said or "upgraded from" not in said[0]:
                raise Failure(f"tele upgrade says {said}")
            exchange(*fresh)
            exchange(*idle)
            require_reset(dying[0], 2, "the user of an origin that reset during the upgrade")
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
                raise Failure("bytes that waited during the upgrade came out wrong")
            sender.join(10)
            # A user that resets after its end is noticed by the new program.
            watched = call(lab, path, switchboard)
            exchange(*watched)
            watched[0].shutdown(socket.SHUT_WR)
            observe(watched[1], time.monotonic() + 0.3)
            upgrade(control)
            reset(watched[0])
            require_broken(watched[1], "the origin of a user that reset after its end")
            # Bytes wait for a user whose stream is gone.
            flushing = call(lab, path, switchboard)
            exchange(*flushing)
            flushing[1].sendall(b"f" * 300_000)
            flushing[1].close()
            wait_unread(flushing[0], 1)
            upgrade(control)
            if receive_exactly(flushing[0], 300_000) != b"f" * 300_000 or observe(flushing[0], time.monotonic() + 2)[1] != "eof":
                raise Failure("the rest for a user whose origin had ended was lost")
            if status_of(control)["upgrades"] < 3:
                raise Failure(f"the {role} does not count its upgrades")
        exchange(*idle)
    return "idle, half closed, ended, full, reset, flushing and new: as without an upgrade"


def require_broken(end, who):
    """It cannot send any more: its end was seen before."""
    limit = time.monotonic() + 3
    while time.monotonic() < limit:
        try:
            end.sendall(b"x")
        except (BrokenPipeError, ConnectionResetError):
            return
        time.sleep(0.05)
    raise Failure(f"{who} still takes bytes after 3 s")


def silent_origin(context):
    """Connects that are under way begin again in the new program; an origin that is not there is told as ever."""
    lab = context.lab()
    path = path_with_controls(context, lab)
    firewall(lab, f"add table inet silent; add chain inet silent out {{ type filter hook output priority 0; }}; "
                  f"add rule inet silent out tcp dport {ORIGIN_PORT} drop")
    user = lab.client.connect(path.address)
    user.sendall(b"\0" * 7 + b"\1")
    context.sleep(0.5)
    upgrade(controls(lab)["server"])
    context.sleep(0.3)
    firewall(lab, "delete table inet silent")
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        origin = switchboard.accepted(1, 8)
        exchange(user, origin)
    return "an origin's connect went on as another one"


def unix_connection(lab, listener, path):
    """A connection by a Unix-domain socket of tele, to one of the origin's: both ends."""
    user = socket.socket(socket.AF_UNIX)
    user.settimeout(5)
    user.connect(path)
    origin, _ = listener.accept()
    return user, origin


def numbers(lab):
    """The server's metrics, by name and labels."""
    with lab.server.connect(("127.0.0.1", METRICS_PORT)) as end:
        end.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        page = b""
        while part := end.recv(1 << 16):
            page += part
    lines = [line for line in page.decode().splitlines() if line and not line.startswith("#") and line.startswith(("tele_", "process_"))]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def kinds(context, keeper=False):
    """Unix-domain sockets on both sides, a PROXY header, a listener of the service manager's, metrics, a server that is not there."""
    lab = context.lab()
    folder = lab.directory
    listener = socket.socket(socket.AF_UNIX)
    listener.settimeout(5)
    listener.bind(f"{folder}/origin")
    listener.listen(100)
    user = ORIGIN_PORT + 10000
    kept = 'keeper = "always"\n' if keeper else ""
    path = Files(context, lab, {"u": f"unix:{folder}/user", "p": f'{{ address = "127.0.0.1:{user}", proxy-protocol = true }}'},
                 {"u": f"unix:{folder}/origin", "p": f"127.0.0.1:{ORIGIN_PORT}"}, client=kept, server=f'{kept}metrics = "127.0.0.1:{METRICS_PORT}"')
    roles = ("server", "client", "server", "client")
    pair = unix_connection(lab, listener, f"{folder}/user")
    exchange(*pair)
    before = numbers(lab)
    for role in roles:
        pair[0].sendall(b"across")
        upgrade(path.control(role))
        if receive_exactly(pair[1], 6) != b"across":
            raise Failure("bytes of a Unix-domain socket came out wrong")
        exchange(*pair)
        exchange(*unix_connection(lab, listener, f"{folder}/user"))
    after = numbers(lab)
    fallen = [name for name, value in before.items() if name.partition("{")[0].endswith(("_total", "_count", "_bucket")) and after.get(name, 0) < value]
    if fallen or after["tele_upgrades_total"] != 2 or abs(after["process_start_time_seconds"] - before["process_start_time_seconds"]) > 0.1:
        raise Failure(f"after upgrades {fallen or after} fell, or the start time moved")
    # The PROXY header of a connection that comes during the upgrade is whole, and the user's address is in it.
    with lab.server.listen(ORIGIN_PORT) as origins:
        origins.settimeout(10)
        asking = threading.Thread(target=upgrade, args=(path.control("client"),), daemon=True)
        asking.start()
        ends = [lab.client.connect(("127.0.0.1", user)) for _ in range(20)]
        asking.join(20)
        ports = {end.getsockname()[1] for end in ends}
        seen = set()
        for _ in ends:
            origin, _ = origins.accept()
            origin.settimeout(5)
            header = receive_exactly(origin, 28)
            if header[:12] != b"\r\n\r\n\0\r\nQUIT\n" or header[12:16] != b"\x21\x11\0\x0c":
                raise Failure(f"the PROXY header is {header.hex()}")
            seen.add(int.from_bytes(header[24:26], "big"))
        if seen != ports:
            raise Failure("a PROXY header names another user")
    # A client upgraded before it has ever reached its server keeps its users.
    adopted = lab.client.listen(9200)
    argv = ["bash", "-c", f'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&{adopted.fileno()}', "bash",
            binary(), "-client", "-in=127.0.0.1:9201", f"-out={SERVER_ADDRESS}:{CARRIER + 7}", f"-control={folder}/late.sock", *security_flags("client"),
            *(["-keeper=always"] if keeper else [])]
    late = lab.start("tele-late", argv, host=lab.client, pass_fds=(adopted.fileno(),))
    if not context.until(5, lambda: "listening" in late.errors):
        raise Failure("the client with a listener of the service manager's does not start")
    early = lab.client.connect(("127.0.0.1", 9200))
    early.sendall(b"early")
    context.sleep(0.2)
    for _ in range(2):
        upgrade(f"{folder}/late.sock")
    with lab.server.listen(ORIGIN_PORT) as origins:
        origins.settimeout(10)
        lab.start("tele-late-server", [binary(), "-server", f"-in=127.0.0.1:{ORIGIN_PORT}", f"-out=:{CARRIER + 7}", "-control=none",
                                       *security_flags("server")], host=lab.server)
        origin, _ = origins.accept()
        origin.settimeout(5)
        if receive_exactly(origin, 5) != b"early":
            raise Failure("what a user wrote before there was a server came out wrong")
        upgrade(f"{folder}/late.sock")
        exchange(early, origin)
        second = lab.client.connect(("127.0.0.1", 9200))
        exchange(second, origins.accept()[0])
    return "Unix-domain sockets, PROXY headers, an adopted listener, counters, and a client that has no server yet"


def crowd(context):
    """As many connections as a process may have, a tenth of them busy, and keystrokes beside them."""
    count = 9000 if context.options.long else 2500
    lab = context.lab()
    path = path_with_controls(context, lab)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        pairs = [call(lab, path, switchboard) for _ in range(count)]
        keys = call(lab, path, switchboard)
        stop, slowest, faults = threading.Event(), [0.0], []

        def type_keys():
            while not stop.is_set():
                began = time.monotonic()
                try:
                    exchange(*keys, count=8)
                except (Failure, OSError) as error:
                    faults.append(str(error))
                    return
                slowest[0] = max(slowest[0], time.monotonic() - began)
                time.sleep(0.002)

        def be_busy():
            turn = 0
            while not stop.is_set():
                turn += 1
                try:
                    exchange(*pairs[turn * 10 % count], count=2000)
                except (Failure, OSError) as error:
                    faults.append(str(error))
                    return

        threads = [threading.Thread(target=each, daemon=True) for each in (type_keys, be_busy)]
        for thread in threads:
            thread.start()
        pauses = []
        for turn in range(20 if context.options.long else 8):
            slowest[0] = 0.0
            upgrade(controls(lab)[("server", "client")[turn % 2]])
            context.sleep(0.4)
            pauses.append(slowest[0])
        stop.set()
        for thread in threads:
            thread.join(20)
        if faults:
            raise Failure(f"a connection broke: {faults[0]}")
        for pair in pairs:
            exchange(*pair, count=1)
    worst = max(pauses)
    if worst > WORST_PAUSE:
        raise Failure(f"a keystroke took {worst * 1000:.0f} ms")
    return (f"{count} connections, {len(pauses)} upgrades, keystrokes paused for {statistics.median(pauses) * 1000:.0f} ms (median), "
            f"{worst * 1000:.0f} ms at most")


def refused(context):
    """A program that cannot take over does not: the old one says why, and its connections do not notice."""
    lab = context.lab()
    path = path_with_controls(context, lab)
    folder = lab.directory
    candidates = {
        "older": "#!/bin/sh\necho 'error: there is no flag --reads-state' >&2; exit 64\n",
        "hanging": "#!/bin/sh\nexec sleep 60\n",
        "dying": "#!/bin/sh\nkill -SEGV $$\n",
    }
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        pair = call(lab, path, switchboard)
        for role, control in controls(lab).items():
            for name, text in candidates.items():
                program = os.path.join(folder, name)
                with open(program, "w", encoding="utf-8") as file:
                    file.write(text)
                os.chmod(program, 0o755)
            for program, words in (("older", "no flag"), ("hanging", "does not answer"), ("dying", "failed its check"), ("missing", "cannot run")):
                run = subprocess.run([binary(), "upgrade", f"-control={control}", f"-binary={folder}/{program}"], capture_output=True, text=True)
                if run.returncode == 0 or words not in run.stderr or "the running program continues" not in run.stderr:
                    raise Failure(f"an upgrade to a {program} program: {run.returncode}, “{run.stderr.strip()}”")
                exchange(*pair)
            if status_of(control)["upgrades"] != 0:
                raise Failure(f"the {role} was taken over by a program that cannot")
            # The next one is as good as ever.
            good = shutil.copy(binary(), os.path.join(folder, f"a new {role}"))
            upgrade(control, f"-binary={good}")
            exchange(*pair)
    return "older, hanging, dying and missing programs were refused, and said why"


def changed(context):
    """`tele restart`: what a reload leaves out takes effect, and connections go on; one of a mapping that is gone, too."""
    lab = context.lab()
    context.job.driver = "epoll"
    user = ORIGIN_PORT + 10000
    with Switchboard(lab, ORIGIN_PORT) as switchboard, Switchboard(lab, ORIGIN_PORT + 1):
        address = f"127.0.0.1:{ORIGIN_PORT}"
        files = Files(context, lab, {"a": f"127.0.0.1:{user}", "b": f"127.0.0.1:{user + 1}"},
                      {"a": address, "b": f"127.0.0.1:{ORIGIN_PORT + 1}"}, client='buffer = "8MiB"', server='buffer = "8MiB"')
        pair = call(lab, Route(user), switchboard)
        exchange(*pair)
        pids = {role: files.status(role)["pid"] for role in ("server", "client")}
        # Another driver, more memory; the mapping that is in use is gone, and a new one is there.
        files.driver = "uring"
        files.write("server", f'out = ":{CARRIER}"\nbuffer = "32MiB"', "origins", {"b": f"127.0.0.1:{ORIGIN_PORT + 1}", "c": address})
        files.write("client", f'out = "{SERVER_ADDRESS}:{CARRIER}"\nbuffer = "32MiB"', "listen",
                    {"b": f"127.0.0.1:{user + 1}", "c": f"127.0.0.1:{user + 2}"})
        for role in ("server", "client"):
            restart(files.control(role))
            exchange(*pair, count=100_000)
            status = files.status(role)
            if status["driver"] != "io_uring" or status["sessionBytesMaximum"] != 32 << 20 or status["pid"] != pids[role]:
                raise Failure(f"after the restart the {role} is {status['driver']}, {status['sessionBytesMaximum']}, {status['pid']}")
        exchange(*call(lab, Route(user + 2), switchboard))
        try:
            lab.client.connect(("127.0.0.1", user))
            raise Failure("a mapping that is gone is listened for")
        except ConnectionRefusedError:
            pass
        # A mistake in the file changes nothing.
        files.write("client", f'out = "{SERVER_ADDRESS}:{CARRIER}"\nbuffer = "nonsense"', "listen", {"b": f"127.0.0.1:{user + 1}"})
        try:
            restart(files.control("client"))
        except Failure as failure:
            if "buffer" not in str(failure):
                raise
        else:
            raise Failure("a restart with a mistake in the file did not say so")
        exchange(*pair)
        # Addresses that cannot be had are told; everything else goes on, the server at its old address.
        with lab.client.listen(user + 5):
            files.write("client", f'out = "{SERVER_ADDRESS}:{CARRIER}"', "listen",
                        {"b": f"127.0.0.1:{user + 1}", "c": f"127.0.0.1:{user + 2}", "d": f"127.0.0.1:{user + 5}"})
            restart(files.control("client"))
            exchange(*pair)
            exchange(*call(lab, Route(user + 2), switchboard))
        blocker = lab.server.listen(CARRIER + 1)
        files.write("server", f'out = ":{CARRIER + 1}"', "origins", {"b": address, "c": address})
        restart(files.control("server"))
        exchange(*pair)
        exchange(*call(lab, Route(user + 2), switchboard))
        blocker.close()
        for role in ("client", "server"):
            with open(os.path.join(lab.directory, f"tele-{role}.err"), encoding="utf-8") as log:
                if "in use" not in log.read():
                    raise Failure(f"the {role} does not say which address it could not have")
    return "another driver, another buffer, mappings gone, new and impossible; the old connection went on"


def restart(control):
    run = subprocess.run([binary(), "restart", f"-control={control}"], capture_output=True, text=True, timeout=30)
    if run.returncode:
        raise Failure(f"tele restart: {run.stderr.strip()}")


def cases():
    yield Case("upgrade.chaos", under_chaos, weight=2, only_tele=True, drivers="both")
    yield Case("upgrade.outages", in_outages, weight=2, only_tele=True, drivers="both")
    yield Case("upgrade.ends", ends, weight=2, only_tele=True, drivers="both")
    yield Case("upgrade.kinds", kinds, only_tele=True, drivers="both")
    yield Case("upgrade.silent-origin", silent_origin, only_tele=True)
    yield Case("upgrade.refused", refused, only_tele=True)
    yield Case("upgrade.restart", changed, only_tele=True, only_plain=True)
    yield Case("upgrade.crowd", crowd, weight=CAPACITY, only_tele=True, drivers="both")
    for kind in programs.ALL:
        yield Case(f"upgrade.{kind.name}", program(kind), weight=kind.weight, needs=kind.needs, only_tele=True)
