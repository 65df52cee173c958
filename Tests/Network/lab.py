"""The laboratory: a client host, a router and a server host as network namespaces, and what breaks them.

    client 10.213.1.2 ── veth ── 10.213.1.1 router 10.213.2.1 ── veth ── 10.213.2.2 server

No namespace is connected to the machine's own network, so every laboratory uses the same addresses. Silence
and refusals are made in the router's forward hook: a drop in a host's own output hook would tell the sender
(EPERM). Names carry the pid and start time of the run that made them: two runs never collide, and `sweep`
knows the dead ones.
"""

import concurrent.futures
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

from process import Failure, Process

PREFIX = "telelab"
CLIENT_NETWORK, CLIENT_GATEWAY = "10.213.1", "10.213.1.1"
SERVER_ADDRESS, SERVER_GATEWAY = "10.213.2.2", "10.213.2.1"
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def ip(*arguments):
    run = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if run.returncode:
        raise Failure(f"ip {' '.join(arguments)}: {run.stderr.strip()}")
    return run.stdout


class Listener(socket.socket):
    """Listens no more once it is closed. A child that another thread has just forked holds a copy until it runs its program, and the kernel
    would go on accepting for it."""

    def close(self):
        try:
            self.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        super().close()


class Namespace:
    """One host. Sockets of this process can live in it: a socket stays where the thread that made it was."""

    def __init__(self, name):
        self.name = name
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
        self.maker = concurrent.futures.ThreadPoolExecutor(1, initializer=self._enter)

    def after_fork(self):
        """For the child: the thread that made sockets stayed with the parent, and whoever asked it would wait for ever."""
        self.maker = concurrent.futures.ThreadPoolExecutor(1, initializer=self._enter)

    def _enter(self):
        descriptor = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            if libc.setns(descriptor, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns {self.name}")
        finally:
            os.close(descriptor)

    def socket(self, kind=socket.socket):
        return self.maker.submit(kind, socket.AF_INET, socket.SOCK_STREAM).result()

    def connect(self, address, seconds=5):
        connection = self.socket()
        connection.settimeout(seconds)
        try:
            connection.connect(address)
        except BaseException:
            connection.close()
            raise
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def listen(self, port, backlog=4096):
        listener = self.socket(Listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port))
        listener.listen(backlog)
        return listener

    def sysctl(self, key, value):
        subprocess.run(["ip", "netns", "exec", self.name, "sysctl", "-qw", f"{key}={value}"],
                       capture_output=True, check=False)

    def write_etc(self, file, text):
        """A file of this host's own /etc, for processes started from now on; they see later writes."""
        directory = f"/etc/netns/{self.name}"
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, file), "w", encoding="utf-8") as opened:
            opened.write(text)

    def remove(self):
        self.maker.shutdown(wait=True)
        remove_namespace(self.name)


def remove_namespace(name):
    pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
    for pid in pids.stdout.split():
        if int(pid) != os.getpid():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    shutil.rmtree(f"/etc/netns/{name}", ignore_errors=True)


class Lab:
    live = {}
    lock = threading.Lock()
    count = 0

    def __init__(self):
        with Lab.lock:
            Lab.count += 1
            self.number = Lab.count
            Lab.live[self.number] = self
        self.processes = []
        #: Of those that had crashed when it was closed.
        self.crashes = []
        self.hosts = []
        self.closed = False
        self.host_octet = 2
        # Other users (postgres) must pass through.
        self.directory = tempfile.mkdtemp(prefix=f"{run_name()}-{self.number}-")
        os.chmod(self.directory, 0o755)
        try:
            self.client, self.router, self.server = (self._host(role) for role in "crs")
            self._wire(self.client, "client0", CLIENT_GATEWAY)
            self._wire(self.server, "server0", SERVER_GATEWAY)
            ip("-n", self.server.name, "address", "add", f"{SERVER_ADDRESS}/24", "dev", "eth0")
            ip("-n", self.server.name, "route", "add", "default", "via", SERVER_GATEWAY)
            self._client_address()
            self.router.sysctl("net.ipv4.ip_forward", 1)
            # Every refused packet gets its ICMP answer, not one a second.
            self.router.sysctl("net.ipv4.icmp_ratelimit", 0)
            self.nft("add table inet lab\n"
                     "add chain inet lab faults { type filter hook forward priority 0; policy accept; }\n")
        except BaseException:
            self.close()
            raise

    def _host(self, role):
        host = Namespace(f"{run_name()}-{self.number}-{role}")
        self.hosts.append(host)
        return host

    def _wire(self, host, router_end, gateway):
        ip("link", "add", "eth0", "netns", host.name, "type", "veth",
           "peer", "name", router_end, "netns", self.router.name)
        ip("-n", self.router.name, "address", "add", f"{gateway}/24", "dev", router_end)
        ip("-n", self.router.name, "link", "set", router_end, "up")
        ip("-n", host.name, "link", "set", "eth0", "up")

    # Processes

    def start(self, name, argv, host=None, **options):
        """A process in a host, killed at the latest when the laboratory closes."""
        process = Process(name, argv, self.directory, namespace=host.name if host else None, **options)
        self.processes.append(process)
        if self.closed:
            process.kill()
            raise Failure("the laboratory is closed")
        return process

    # The network between

    def nft(self, text):
        run = subprocess.run(["ip", "netns", "exec", self.router.name, "nft", "-f", "-"],
                             input=text, capture_output=True, text=True)
        if run.returncode:
            raise Failure(f"nft: {run.stderr.strip()}")

    def forward(self, *rules):
        """What the router does to what it forwards; no rule at all: it forwards."""
        added = "".join(f"add rule inet lab faults {rule}\n" for rule in rules)
        self.nft("flush chain inet lab faults\n" + added)

    def link(self, up):
        ip("-n", self.client.name, "link", "set", "eth0", "up" if up else "down")
        if up:
            ip("-n", self.client.name, "route", "replace", "default", "via", CLIENT_GATEWAY)

    def default_route(self, present):
        """The client's way to everywhere; without it a dial fails with "network unreachable" at once."""
        if present:
            ip("-n", self.client.name, "route", "replace", "default", "via", CLIENT_GATEWAY)
        else:
            ip("-n", self.client.name, "route", "del", "default")

    def take_address(self):
        ip("-n", self.client.name, "address", "flush", "dev", "eth0")

    def give_address(self):
        """Another address than before, as when a notebook changes its network."""
        self.host_octet = 2 + (self.host_octet - 1) % 200
        self._client_address()

    def _client_address(self):
        ip("-n", self.client.name, "address", "add", f"{CLIENT_NETWORK}.{self.host_octet}/24", "dev", "eth0")
        ip("-n", self.client.name, "route", "replace", "default", "via", CLIENT_GATEWAY)

    # End

    @property
    def tele(self):
        return [process for process in self.processes if process.name.startswith("tele-")]

    def look_for_crashes(self):
        return [f"{process.name}: {line}" for process in self.tele for line in process.crash]

    def close(self):
        self.closed = True
        for process in reversed(self.processes):
            process.kill()
        if os.path.exists(self.directory):
            self.crashes = self.look_for_crashes()
        for host in self.hosts:
            host.remove()
        shutil.rmtree(self.directory, ignore_errors=True)
        with Lab.lock:
            Lab.live.pop(self.number, None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def close_all():
    with Lab.lock:
        labs = list(Lab.live.values())
    for lab in labs:
        lab.close()


# Names and leftovers

def start_time(pid):
    """The start of a process in clock ticks since boot, or None: with the pid it names one process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None


def run_name():
    return f"{PREFIX}-{os.getpid()}-{start_time(os.getpid())}"


def sweep():
    """Remove what dead runs left behind; live runs keep theirs. Returns how many things were removed."""
    removed = 0
    names = os.listdir("/run/netns") if os.path.isdir("/run/netns") else []
    folders = [name for name in os.listdir(tempfile.gettempdir())]
    for name in {*names, *folders}:
        parts = name.split("-")
        if len(parts) < 4 or parts[0] != PREFIX or start_time(parts[1]) == parts[2]:
            continue
        if name in names:
            remove_namespace(name)
        else:
            shutil.rmtree(os.path.join(tempfile.gettempdir(), name), ignore_errors=True)
        removed += 1
    return removed


def obstacle():
    """Why no laboratory can be built here, or None."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    for program in ("ip", "nft"):
        if not shutil.which(program):
            return f"needs the program {program}"
    name = f"{run_name()}-0-probe"
    probe = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if probe.returncode:
        return f"cannot make a network namespace ({probe.stderr.strip()})"
    rules = subprocess.run(["ip", "netns", "exec", name, "nft", "add table inet lab"],
                           capture_output=True, text=True)
    remove_namespace(name)
    return f"cannot use nftables ({rules.stderr.strip()})" if rules.returncode else None
