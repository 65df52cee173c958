"""Two hosts and the path between them: network namespaces that live and die with this process."""
import ctypes
import os
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CLIENT_NETWORK, SERVER_ADDRESS, SECOND_NETWORK = "10.9.1", "10.9.1.1", "10.9.2"
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


class Trouble(Exception):
    """Something that the laboratory needs did not work; the text says what."""


@dataclass(frozen=True)
class Line:
    """What the path is like, each way. rate: bits a second, 0 for as fast as it goes. delay: seconds, one way. queue: seconds that
    a packet may wait. loss: share of packets. uplink: the rate from the client to the server, where that is another."""
    rate: float = 0
    delay: float = 0.0002
    queue: float = 0.2
    loss: float = 0.0
    mtu: int = 1500
    uplink: float | None = None

    def words(self, is_up: bool = False) -> str:
        rate = self.uplink if is_up and self.uplink is not None else self.rate
        return f"{rate:.0f} {self.delay * 1e6:.0f} {self.queue * 1e6:.0f} {self.loss * 1e6:.0f}"


def unshared(command: list[str]) -> subprocess.Popen:
    """A process in a network namespace of its own, once it is there."""
    process = subprocess.Popen(["unshare", "--net", *command], stdin=subprocess.DEVNULL)
    own, until = os.readlink("/proc/self/ns/net"), time.monotonic() + 5
    while os.readlink(f"/proc/{process.pid}/ns/net") == own:
        if process.poll() is not None or time.monotonic() > until:
            raise Trouble("no network namespace can be made here")
        time.sleep(0.005)
    return process


class Host:
    def __init__(self, name: str):
        self.name = name
        self._keeper = unshared(["sleep", "infinity"])
        self.pid = self._keeper.pid
        self.ip("link", "set", "lo", "up")

    def command(self, *words) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *map(str, words)]

    def run(self, *words, text: str | None = None) -> str:
        done = subprocess.run(self.command(*words), input=text, capture_output=True, text=True)
        if done.returncode:
            raise Trouble(f"{words[0]} failed on the {self.name}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def ip(self, *words):
        self.run("ip", *words)

    def sysctl(self, key: str, value):
        self.run("sysctl", "-qw", f"{key}={value}")

    @contextmanager
    def entered(self):
        """This thread, in the host's network. A socket stays where it was made."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        try:
            if libc.setns(there, CLONE_NEWNET):
                raise Trouble(f"cannot enter the {self.name}: {os.strerror(ctypes.get_errno())}")
            yield
        finally:
            libc.setns(home, CLONE_NEWNET)
            os.close(home)
            os.close(there)

    def socket(self, protocol: int = 0) -> socket.socket:
        with self.entered():
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def ports_towards(self, address: str) -> list[int]:
        """Local ports of TCP connections to an address, whatever their state."""
        wanted = "".join(f"{int(part):02X}" for part in reversed(address.split(".")))
        rows = Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]
        return sorted({int(row.split()[1].split(":")[1], 16) for row in rows if row.split()[2].startswith(wanted)})

    def close(self):
        self._keeper.kill()
        self._keeper.wait()


class Hosts:
    """A client and a server. Close it, or end the process: nothing remains."""

    def __init__(self, link: Path, line: Line, congestion: str | None = None):
        self.folder = tempfile.TemporaryDirectory(prefix="outage-")
        self._lock = threading.Lock()
        self.number = 2
        self.client, self.server = Host("client"), Host("server")
        self._links = [self._connect(link, "path0")]
        for host in (self.client, self.server):
            host.ip("link", "set", "path0", "mtu", line.mtu, "txqueuelen", 2000)
            host.ip("link", "set", "path0", "up")
            if congestion:
                host.sysctl("net.ipv4.tcp_congestion_control", congestion)
            host.sysctl("net.ipv4.tcp_rmem", "4096 131072 67108864")
            host.sysctl("net.ipv4.tcp_wmem", "4096 65536 67108864")
        self.server.ip("address", "add", f"{SERVER_ADDRESS}/24", "dev", "path0")
        self.client.ip("address", "add", f"{CLIENT_NETWORK}.{self.number}/24", "dev", "path0")
        self.shape(line)

    def _connect(self, link: Path, device: str) -> subprocess.Popen:
        process = subprocess.Popen([str(link), str(self.client.pid), str(self.server.pid), device], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True, bufsize=1)
        if process.stdout.readline() != "ready\n":
            raise Trouble("the path cannot be made; is /dev/net/tun there?")
        return process

    def add_path(self, link: Path):
        """A second path, path1, over which the same address of the server can be reached."""
        self._links.append(self._connect(link, "path1"))
        for host, number in ((self.client, 2), (self.server, 1)):
            host.ip("link", "set", "path1", "mtu", self.line.mtu, "txqueuelen", 2000)
            host.ip("link", "set", "path1", "up")
            host.ip("address", "add", f"{SECOND_NETWORK}.{number}/24", "dev", "path1")
            host.sysctl("net.ipv4.conf.all.rp_filter", 0)
            host.sysctl("net.ipv4.conf.path1.rp_filter", 0)
        self.client.ip("route", "add", f"{SERVER_ADDRESS}/32", "via", f"{SECOND_NETWORK}.1", "dev", "path1", "metric", 100)
        # The longer route of path1 would be preferred.
        self.client.ip("route", "add", f"{SERVER_ADDRESS}/32", "dev", "path0", "metric", 1)
        self.shape(self.line, 1)

    def tell(self, words: str, path: int = 0):
        with self._lock:
            link = self._links[path]
            link.stdin.write(words + "\n")
            if link.stdout.readline() != "ok\n":
                raise Trouble(f"the path does not understand “{words}”")

    def shape(self, line: Line, path: int = 0):
        self.line = line
        self.tell(f"up {line.words(is_up=True)}", path)
        self.tell(f"down {line.words()}", path)

    def new_address(self):
        self.number = 2 + (self.number - 1) % 200
        self.client.ip("address", "add", f"{CLIENT_NETWORK}.{self.number}/24", "dev", "path0")

    def close(self):
        for link in self._links:
            link.stdin.close()
            link.wait()
        self.client.close()
        self.server.close()
        self.folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
