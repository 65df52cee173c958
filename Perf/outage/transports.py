"""What carries a connection from the client's host to the server's: nothing but TCP, tele, or any pair of processes."""
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from hosts import SERVER_ADDRESS, Hosts, Trouble

ROOT = Path(__file__).resolve().parent.parent.parent
ORIGIN_PORT, CARRIER_PORT, USER_PORT = 7000, 40300, 17000
MPTCP = 262


class Transport:
    """`commands`: role → words, with placeholders; empty: the user connects to the origin itself."""

    def __init__(self, name: str, commands: dict[str, str] | None = None, protocol: int = 0, prepare=None):
        self.name = name
        self.protocol = protocol
        self._commands = commands or {}
        self._prepare = prepare
        self._hosts: Hosts | None = None
        self._running: dict[str, subprocess.Popen] = {}

    @property
    def has_processes(self) -> bool:
        return bool(self._commands)

    @property
    def address(self) -> tuple[str, int]:
        """Where the user connects to, on the client's host."""
        return ("127.0.0.1", USER_PORT) if self._commands else (SERVER_ADDRESS, ORIGIN_PORT)

    def missing(self) -> str | None:
        """Why it cannot run here, if so."""
        if self.protocol == MPTCP:
            try:
                socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP).close()
            except OSError:
                return "this kernel has no MPTCP"
        for words in self._commands.values():
            program = shlex.split(words)[0]
            if not shutil.which(program):
                return f"{program} is missing"
        return None

    def start(self, hosts: Hosts):
        self._hosts = hosts
        values = {"folder": hosts.folder.name, "carrier_port": CARRIER_PORT}
        if self._prepare:
            self._prepare(hosts.folder.name)
        for role, host, listen, connect in (
                ("server", hosts.server, (SERVER_ADDRESS, CARRIER_PORT), ("127.0.0.1", ORIGIN_PORT)),
                ("client", hosts.client, ("127.0.0.1", USER_PORT), (SERVER_ADDRESS, CARRIER_PORT))):
            if role not in self._commands:
                continue
            words = [word.format(role=role, listen="%s:%d" % listen, connect="%s:%d" % connect, listen_host=listen[0],
                                 listen_port=listen[1], connect_host=connect[0], connect_port=connect[1], **values)
                     for word in shlex.split(self._commands[role])]
            log = open(Path(hosts.folder.name) / f"{self.name}-{role}.log", "ab")
            self._running[role] = subprocess.Popen(host.command(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                   start_new_session=True)
            self._await(host, listen[1], role)

    def _await(self, host, port: int, role: str):
        wanted, until = f":{port:04X} ", time.monotonic() + 10
        while True:
            rows = Path(f"/proc/{host.pid}/net/tcp").read_text() + Path(f"/proc/{host.pid}/net/tcp6").read_text()
            if any(wanted in row and row.split()[3] == "0A" for row in rows.splitlines()[1:]
                   if row.split() and row.split()[1].endswith(wanted.strip())):
                return
            if self._running[role].poll() is not None or time.monotonic() > until:
                raise Trouble(f"{self.name}'s {role} does not listen: {self.last_words(role)}")
            time.sleep(0.01)

    def last_words(self, role: str) -> str:
        lines = (Path(self._hosts.folder.name) / f"{self.name}-{role}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "it said nothing"

    def check(self):
        for role, process in self._running.items():
            if process.poll() is not None:
                raise Trouble(f"{self.name}'s {role} ended: {self.last_words(role)}")

    def said(self, text: str) -> int:
        """How many lines of its client have the text."""
        log = Path(self._hosts.folder.name) / f"{self.name}-client.log"
        return sum(text in line for line in log.read_text(errors="replace").splitlines()) if log.exists() else 0

    def pause(self):
        self._signal("client", signal.SIGSTOP)

    def resume(self):
        self._signal("client", signal.SIGCONT)

    @contextmanager
    def starved(self, rivals: int = 24):
        """Its server, which is nice (10), has the last CPU together with so many processes that never rest and are not."""
        cpu = max(os.sched_getaffinity(0))
        if "server" in self._running:
            group = self._running["server"].pid
            for entry in filter(str.isdigit, os.listdir("/proc")):
                try:
                    if os.getpgid(int(entry)) == group:
                        self._starve(entry, cpu)
                except (ProcessLookupError, FileNotFoundError):
                    pass
        # Each a session of its own: where the kernel shares CPU among sessions first, they count like one process each.
        running = [subprocess.Popen(["taskset", "-c", str(cpu), "sh", "-c", "while :; do :; done"], start_new_session=True)
                   for _ in range(rivals)]
        try:
            yield
        finally:
            for process in running:
                process.kill()
                process.wait()

    @staticmethod
    def _starve(pid: str, cpu: int):
        for thread in map(int, os.listdir(f"/proc/{pid}/task")):
            os.sched_setaffinity(thread, {cpu})
            os.setpriority(os.PRIO_PROCESS, thread, 10)
        try:
            Path(f"/proc/{pid}/autogroup").write_text("10")
        except OSError:
            pass   # This kernel shares CPU among processes only.

    def _signal(self, role: str, number: int):
        try:
            os.killpg(self._running[role].pid, number)
        except ProcessLookupError:
            pass

    def stop(self):
        for role, process in self._running.items():
            self._signal(role, signal.SIGCONT)
            self._signal(role, signal.SIGKILL)
            process.wait()
        self._running.clear()


def tele(driver: str, *flags: str) -> dict[str, str]:
    binary = os.environ.get("TELE") or str(ROOT / ".build/release/tele")
    rest = " ".join((f"-io={driver}", *flags))
    return {"server": f"{binary} -server -in={{connect}} -out={{listen}} {rest}",
            "client": f"{binary} -client -in={{listen}} -out={{connect}} {rest}"}


def make_key(folder: str):
    binary = os.environ.get("TELE") or str(ROOT / ".build/release/tele")
    if not os.path.exists(f"{folder}/key"):
        subprocess.run([binary, "keygen", f"-out={folder}/key"], check=True, capture_output=True)


def make_sshd(folder: str):
    """A server of our own: own host key, own user key, nothing of the machine's configuration."""
    for name in ("host", "user"):
        if not os.path.exists(f"{folder}/{name}"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{folder}/{name}"], check=True)
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    Path(f"{folder}/sshd_config").write_text(
        f"ListenAddress {SERVER_ADDRESS}\nPort {CARRIER_PORT}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n")


SSH = {"server": "/usr/sbin/sshd -D -e -f {folder}/sshd_config",
       "client": "ssh -N -F none -i {folder}/user -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=no "
                 "-o UserKnownHostsFile={folder}/known -o ExitOnForwardFailure=yes -p {connect_port} "
                 f"-L {{listen_port}}:127.0.0.1:{ORIGIN_PORT} root@{{connect_host}}"}
SOCAT = dict.fromkeys(("server", "client"), "socat -b 262144 TCP-LISTEN:{listen_port},fork,reuseaddr,nodelay TCP:{connect},nodelay")

def over_both(kind: str) -> Transport:
    """A tele client that knows of both paths, and has a carrier for each of its first connections."""
    flags = {"tele": ["-paths=path0,path1"], "tele-key": ["-paths=path0,path1"], "four": ["-paths=path0,path1", "-carriers=4"]}[kind]
    commands = tele("auto", *(["-key={folder}/key"] if kind == "tele-key" else []))
    commands["client"] += " " + " ".join(flags)
    return Transport(kind, commands, prepare=make_key if kind == "tele-key" else None)


#: name → a new transport.
KNOWN = {
    "tcp": lambda: Transport("tcp"),
    "mptcp": lambda: Transport("mptcp", protocol=MPTCP),
    "tele": lambda: Transport("tele", tele("auto")),
    "tele-uring": lambda: Transport("tele-uring", tele("uring")),
    "tele-epoll": lambda: Transport("tele-epoll", tele("epoll")),
    "tele-key": lambda: Transport("tele-key", tele("auto", "-key={folder}/key"), prepare=make_key),
    "ssh": lambda: Transport("ssh", SSH, prepare=make_sshd),
    "socat": lambda: Transport("socat", SOCAT),
}


def own(text: str):
    """NAME=COMMAND of the user: the command runs once in each role."""
    name, equals, command = text.partition("=")
    if not equals or not name or not shlex.split(command):
        raise ValueError(f"“{text}” is not NAME=COMMAND")
    return name, lambda: Transport(name, dict.fromkeys(("server", "client"), command))
