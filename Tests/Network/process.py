"""A child process in a network namespace: started by us, watched through /proc, ended by its pid.

Its stdout and stderr are files, so that nobody has to read them for it to go on.
"""

import os
import signal
import subprocess
import time

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class Failure(Exception):
    """What a case found to be wrong, as one sentence."""


class WrongBytes(Failure):
    """Bytes arrived that nobody sent, or not all, or twice: this is never tried again."""


class Process:
    def __init__(self, name, argv, directory, namespace=None, environment=None, pass_fds=(), stdin=None):
        self.name = name
        self.stdout_path = os.path.join(directory, f"{name}.out")
        self.stderr_path = os.path.join(directory, f"{name}.err")
        if namespace:
            # `ip netns exec` replaces itself by the program, so the pid we hold is the program's.
            argv = ["ip", "netns", "exec", namespace, *argv]
        with open(self.stdout_path, "ab") as out, open(self.stderr_path, "ab") as err:
            self.child = subprocess.Popen(
                argv, stdin=subprocess.PIPE if stdin == "pipe" else subprocess.DEVNULL, stdout=out,
                stderr=err, env={**os.environ, **(environment or {})}, pass_fds=pass_fds,
                start_new_session=True)
        self.pid = self.child.pid

    # Life and end

    @property
    def running(self):
        return self.child.poll() is None

    @property
    def status(self):
        return self.child.poll()

    def wait(self, seconds):
        """The exit status; a process that does not end in time is a Failure."""
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} did not end within {seconds:.0f} s") from None

    def signal(self, number):
        if self.running:
            self.child.send_signal(number)

    def stop(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def kill(self):
        """At once and for good; a stopped process too."""
        self.signal(signal.SIGKILL)
        self.child.wait()
        if self.child.stdin:
            try:
                self.child.stdin.close()
            except BrokenPipeError:
                pass

    def tell(self, line):
        self.child.stdin.write(line.encode() + b"\n")
        self.child.stdin.flush()

    # What it wrote

    @property
    def output(self):
        with open(self.stdout_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    @property
    def errors(self):
        with open(self.stderr_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    @property
    def crash(self):
        """What Swift says of a crash: the first lines, with the stack of the thread. Empty: it has not crashed."""
        lines = [line for line in self.errors.splitlines() if line.strip()]
        first = next((index for index, line in enumerate(lines) if "*** Signal" in line or "Fatal error:" in line or "💣" in line), None)
        return [] if first is None else lines[max(0, first - 2):first + 60]

    # What it uses

    def _proc(self, file, pid=None):
        with open(f"/proc/{pid or self.pid}/{file}", encoding="utf-8") as opened:
            return opened.read()

    @property
    def all_pids(self):
        """The process, and those that it has started and not yet collected: a keeper and its worker."""
        return [self.pid, *map(int, self._proc(f"task/{self.pid}/children").split())]

    def memory(self, field="VmRSS"):
        """Bytes resident now (VmRSS, shared mappings included) or at most so far (VmHWM); of a keeper and its worker together."""
        lines = [line for pid in self.all_pids for line in self._proc("status", pid).splitlines() if line.startswith(field + ":")]
        if not lines:
            raise Failure(f"{self.name} is gone, so its memory cannot be read")
        return sum(int(line.split()[1]) for line in lines) * 1024

    def cpu_seconds(self):
        """Of a keeper and its workers together."""
        fields = [self._proc("stat", pid).rpartition(")")[2].split() for pid in self.all_pids]
        return sum(int(ticks) for row in fields for ticks in row[11:15]) / CLOCK_TICKS

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def wait_for_port(self, port, seconds=10):
        """Until this process's namespace has a listener at `port`, without connecting to it."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            if not self.running:
                raise Failure(f"{self.name} ended with status {self.status}: {last_line(self.errors)}")
            try:
                if any(port in listening_ports(self._proc(f"net/{table}")) for table in ("tcp", "tcp6")):
                    return
            except FileNotFoundError:
                pass
            time.sleep(0.02)
        raise Failure(f"{self.name} did not listen at port {port} within {seconds} s")


def listening_ports(table):
    listen_state = "0A"
    for line in table.splitlines()[1:]:
        fields = line.split()
        if fields[3] == listen_state:
            yield int(fields[1].rpartition(":")[2], 16)


def last_line(text):
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "(nothing written)"
