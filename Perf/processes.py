"""A started program with everything it forks: one session of the kernel's, so it can be counted and ended."""
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Trouble(Exception):
    """A candidate or the load did not do what it was started for; the text says who and how."""


def busy_seconds() -> float:
    """CPU time that the whole machine has spent on anything, time stolen by the hypervisor included."""
    user, nice, system, _idle, _iowait, *rest = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + sum(rest)) / TICKS_PER_SECOND


@dataclass(frozen=True)
class Memory:
    """Bytes of a program's processes. Forked ones share most pages, which only the PSS counts once."""
    processes: int
    rss: int
    pss: int

    def grown_since(self, before: "Memory") -> int:
        return self.rss - before.rss if self.processes == 1 else self.pss - before.pss


class Program:
    """`role` is "client" or "server" (or "origin"); output goes to a file whose end explains a failure."""

    def __init__(self, role: str, argv: list[str], scratch: Path, guard, cores: set[int] | None = None):
        """`cores`: where it and its children may run; None: anywhere."""
        self.role = role
        self._name = Path(argv[0]).name
        self._guard = guard
        self._log = scratch / f"{role}.log"
        with open(self._log, "wb") as log:
            try:
                self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                 start_new_session=True, preexec_fn=confined(cores))
            except OSError as error:
                raise Trouble(f"{self._name} cannot be started ({error.strerror})") from error
        self.pid = self._process.pid
        guard.add(self.pid)

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def check(self):
        """Raises Trouble when the program has ended by itself."""
        status = self._process.poll()
        if status is not None:
            last = self.output().strip().splitlines()[-1:] or ["it said nothing"]
            raise Trouble(f"{self._name} ({self.role}) ended with status {status}: {last[0][:300]}")

    def cpu_seconds(self) -> float:
        """User and system time since the start, of the living and of all children already waited for."""
        return sum(sum(map(int, fields[11:15])) for _, fields in self._members()) / TICKS_PER_SECOND

    def memory(self) -> "Memory":
        found = [sizes for pid, _ in self._members() if (sizes := _smaps_rollup(pid))]
        return Memory(len(found), sum(sizes["Rss"] for sizes in found), sum(sizes["Pss"] for sizes in found))

    def stop(self):
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            self._process.poll()
            if not any(fields[0] != "Z" for _, fields in self._members()):
                break
            time.sleep(0.01)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._guard.remove(self.pid)

    def _signal(self, number: int):
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass

    def _members(self):
        """(pid, fields of /proc/PID/stat from the state on) of each process of the session."""
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                text = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue  # it ended meanwhile
            fields = text[text.rindex(")") + 2:].split()
            if int(fields[3]) == self.pid:
                yield int(entry), fields


def confined(cores: set[int] | None):
    """What a child does before it runs its program, so that all of its threads and children stay on these cores."""
    return (lambda: os.sched_setaffinity(0, cores)) if cores else None


def _smaps_rollup(pid: int) -> dict[str, int] | None:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    words = (line.split() for line in lines[1:])
    return {name.rstrip(":"): int(count) * 1024 for name, count, *_ in words if name in ("Rss:", "Pss:")}
