"""Who is compared: a pair of each, client side relay -> server side relay, all on loopback.

A candidate is a value; starting it makes a `Pair`. A new peer is one more entry in `candidates()`.
"""
import os
import random
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from machine import descriptor_limit
from processes import Memory, Program, Trouble

ROOT = Path(__file__).resolve().parent.parent
READY_SECONDS = 10
SPARE_DESCRIPTORS = 500  # of each process, beside those of its connections


@dataclass(frozen=True)
class Ports:
    """The user connects to `user`, `between` joins the two relays, the origin listens on `origin`."""
    user: int
    between: int
    origin: int


@dataclass(frozen=True)
class Candidate:
    name: str
    title: str
    program: str | None = None  # what must be installed; None: nothing runs in between
    hint: str = ""              # how to install it
    # (role, argv) of both relays; the path is a folder for their configuration.
    commands: Callable[[Ports, Path], list[tuple[str, list[str]]]] = lambda ports, scratch: []
    # What bounds the number of idle connections: descriptors that the hungriest process needs for each, and
    # a number beyond which only the machine would be measured.
    descriptors_each: int = 1
    on_request: bool = False  # only when named by --only
    idle_maximum: int = 1 << 30

    @property
    def available(self) -> bool:
        return self.program is None or shutil.which(self.program) is not None

    def idle_count(self, wanted: int) -> int:
        reachable = (descriptor_limit() - SPARE_DESCRIPTORS) // self.descriptors_each
        return min(wanted, self.idle_maximum, reachable)


class Pair:
    """A running candidate, ready: one byte has gone through and come back. Used with `with`."""

    def __init__(self, candidate: Candidate, origin: int, scratch: Path, guard, probe: tuple[bytes, bytes],
                 cores: set[int] | None = None):
        """`probe`: what the origin is asked, and the first byte of its answer. `cores`: where the relays may run."""
        self._probe = probe
        self.programs: list[Program] = []
        ports = Ports(free_port(), free_port(), origin) if candidate.program else Ports(origin, 0, origin)
        self.port = ports.user
        try:
            for role, argv in candidate.commands(ports, scratch):
                self.programs.append(Program(role, argv, scratch, guard, cores))
            self._wait_until_ready()
        except BaseException:
            self._stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop()

    def cpu_seconds(self) -> float:
        return sum(program.cpu_seconds() for program in self.programs)

    def memory(self) -> dict[str, Memory]:
        return {program.role: program.memory() for program in self.programs}

    def check(self):
        for program in self.programs:
            program.check()

    def _wait_until_ready(self):
        deadline = time.monotonic() + READY_SECONDS
        while True:
            self.check()
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                    probe.sendall(self._probe[0])
                    if probe.recv(1) == self._probe[1]:
                        return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise Trouble(f"no byte came back within {READY_SECONDS} s of the start")
            time.sleep(0.02)

    def _stop(self):
        for program in self.programs:
            program.stop()


_used_ports: set[int] = set()


def free_port() -> int:
    """A port below the kernel's own range, so no outgoing connection can take it; never the same one twice,
    so nobody inherits another's connections in TIME_WAIT."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(1000):
        port = random.randrange(max(1024, low - 16000), low)
        if port in _used_ports:
            continue
        with socket.socket() as attempt:
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
        _used_ports.add(port)
        return port
    raise Trouble("no free port on loopback")


def _socat(ports: Ports, scratch: Path):
    def relay(listen: int, to: int) -> list[str]:
        # The default backlog of 5 would drop SYNs under 16 concurrent users and measure their retransmission.
        return ["socat", "-b", "262144",
                f"TCP-LISTEN:{listen},bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=1024",
                f"TCP:127.0.0.1:{to},nodelay"]
    return [("server", relay(ports.between, ports.origin)),
            ("client", relay(ports.user, ports.between))]


# Chosen by measurement, see README.md.
HAPROXY_BUFFER_BYTES = 524288
HAPROXY_PIPE_BYTES = 1048576


def _haproxy(*splicing: str):
    """`splicing`: the options that let it move bytes from socket to socket inside the kernel."""
    tuning = [f"tune.bufsize {HAPROXY_BUFFER_BYTES}"]
    if splicing:
        tuning += [f"tune.pipesize {HAPROXY_PIPE_BYTES}", "maxpipes 64"]

    def commands(ports: Ports, scratch: Path):
        def relay(role: str, listen: int, to: int) -> list[str]:
            connections = (descriptor_limit() - SPARE_DESCRIPTORS + 100) // 2
            lines = ["global", "nbthread 1", f"maxconn {min(connections, 30000)}", *tuning,
                     "defaults", "mode tcp", "backlog 4096", *splicing,
                     "timeout connect 10s", "timeout client 1h", "timeout server 1h",
                     "listen relay", f"bind 127.0.0.1:{listen}", f"server next 127.0.0.1:{to}"]
            file = scratch / f"{role}.cfg"
            file.write_text("\n".join(lines) + "\n")
            return ["haproxy", "-db", "-f", str(file)]
        return [("server", relay("server", ports.between, ports.origin)),
                ("client", relay("client", ports.user, ports.between))]
    return commands


def _stunnel(ports: Ports, scratch: Path):
    """TLS 1.3 with a pre-shared key, the suite that tele uses."""
    (scratch / "psk").write_text("perf:" + "5a" * 32 + "\n")
    (scratch / "psk").chmod(0o600)
    def relay(role: str, listen: int, to: int) -> list[str]:
        lines = ["foreground = quiet", "syslog = no", "pid =", "[relay]", f"client = {'yes' if role == 'client' else 'no'}",
                 f"accept = 127.0.0.1:{listen}", f"connect = 127.0.0.1:{to}", f"PSKsecrets = {scratch}/psk",
                 "sslVersionMin = TLSv1.3", "ciphersuites = TLS_AES_128_GCM_SHA256",
                 "socket = l:TCP_NODELAY=1", "socket = r:TCP_NODELAY=1"]
        file = scratch / f"{role}.conf"
        file.write_text("\n".join(lines) + "\n")
        return ["stunnel", str(file)]
    return [("server", relay("server", ports.between, ports.origin)),
            ("client", relay("client", ports.user, ports.between))]


def tele_path() -> str:
    return os.environ.get("TELE") or str(ROOT / ".build/release/tele")


def before_path() -> str:
    """Another build of tele, to compare with."""
    return os.environ.get("TELE_BEFORE") or "the binary that TELE_BEFORE names"


def _tele(driver: str, keyed: bool = False, path=tele_path, flags: tuple = ()):
    def commands(ports: Ports, scratch: Path):
        carrier = [f"-out=127.0.0.1:{ports.between}", f"-io={driver}", *flags]
        if keyed:
            subprocess.run([tele_path(), "keygen", f"-out={scratch}/key"], check=True, timeout=10)
            carrier.append(f"-key={scratch}/key")
        def relay(role: str, port: int) -> list[str]:
            return [path(), f"-{role}", f"-in=127.0.0.1:{port}", *carrier]
        return [("server", relay("server", ports.origin)), ("client", relay("client", ports.user))]
    return commands


SCRAPE = """
import sys, time, urllib.request
while True:
    for port in sys.argv[1:]:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read()
        except OSError:
            pass
    time.sleep(1)
"""


def _watched(ports: Ports, scratch: Path):
    """Somebody looks on: both processes are scraped each second, and a `tele top` is open on each."""
    watchers = []
    relays = []
    for role, argv in _tele("uring")(ports, scratch):
        metrics, control = free_port(), scratch / f"{role}.sock"
        relays.append((role, [*argv, f"-metrics=127.0.0.1:{metrics}", f"-control={control}"]))
        watchers.append((f"scraper-{role}", ["python3", "-c", SCRAPE, str(metrics)]))
        top = f"until {tele_path()} status -control={control} > /dev/null 2>&1; do sleep 0.1; done; exec {tele_path()} top -control={control}"
        watchers.append((f"top-{role}", ["sh", "-c", top]))
    return relays + watchers


def candidates() -> list[Candidate]:
    build = "swift build -c release --product tele, or name another binary in TELE"

    def haproxy(name: str, title: str, *splicing: str) -> Candidate:
        return Candidate(name, title, "haproxy", "apt-get install haproxy", _haproxy(*splicing),
                         descriptors_each=2)

    return [
        Candidate("direct", "direct, nothing in between"),
        Candidate("socat", "socat pair, 256 KiB", "socat", "apt-get install socat", _socat, idle_maximum=250),
        haproxy("haproxy", "HAProxy pair, 512 KiB"),
        haproxy("haproxy-splice", "HAProxy pair, splice-auto", "option splice-auto"),
        haproxy("haproxy-splice-always", "HAProxy pair, splice always",
                "option splice-request", "option splice-response"),
        Candidate("tele-uring", "tele, io_uring", tele_path(), build, _tele("uring")),
        Candidate("tele-epoll", "tele, epoll", tele_path(), build, _tele("epoll")),
        Candidate("tele-memory", "tele, io_uring, no splicing", tele_path(), build, _tele("uring", flags=("-splice=never",)),
                  on_request=True),
        *[Candidate(f"tele-{count}-threads{'-key' if keyed else '-epoll' if driver == 'epoll' else ''}",
                    f"tele, {count} threads, {'key' if keyed else driver}", tele_path(), build,
                    _tele(driver, keyed=keyed, flags=(f"-threads={count}",)), on_request=True)
          for count in (1, 2, 4) for driver, keyed in (("uring", False), ("epoll", False), ("uring", True))],
        Candidate("tele-watched", "tele, io_uring, watched", tele_path(), build, _watched, on_request=True),
        Candidate("before-uring", "tele before, io_uring", before_path(), "set TELE_BEFORE to its path",
                  _tele("uring", path=before_path), on_request=True),
        Candidate("before-epoll", "tele before, epoll", before_path(), "set TELE_BEFORE to its path",
                  _tele("epoll", path=before_path), on_request=True),
        Candidate("stunnel", "stunnel pair, TLS 1.3 PSK", "stunnel", "apt-get install stunnel4", _stunnel,
                  idle_maximum=250, on_request=True),
        Candidate("before-key", "tele before, with a key, io_uring", before_path(), "set TELE_BEFORE to its path",
                  _tele("uring", keyed=True, path=before_path), on_request=True),
        Candidate("tele-key", "tele with a key, io_uring", tele_path(), build, _tele("uring", keyed=True), on_request=True),
        Candidate("tele-key-epoll", "tele with a key, epoll", tele_path(), build, _tele("epoll", keyed=True), on_request=True),
    ]


def versions() -> dict[str, str]:
    """The first telling line of each program that is installed."""
    asked = {"socat": ["socat", "-V"], "haproxy": ["haproxy", "-v"], "tele": [tele_path(), "--version"]}
    found = {}
    for name, argv in asked.items():
        try:
            lines = subprocess.run(argv, capture_output=True, text=True, timeout=10).stdout.splitlines()
        except (OSError, subprocess.TimeoutExpired):
            continue
        found[name] = next((line.strip() for line in lines if any(c.isdigit() for c in line)), "unknown")
    return found
