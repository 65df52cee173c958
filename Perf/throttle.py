"""A part of a core for each thread of the relays, by the kernel's CPU controller (cgroup v1: there threads have groups of their own).

So a machine with few cores shows what more threads give: the load has cores to spare, and every loop has as much as every other."""
import os
import time
from pathlib import Path

from processes import Program, Trouble

ROOT = Path("/sys/fs/cgroup/cpu")
PERIOD_US = 10_000


class Throttle:
    """`share`: of a core, for each thread of the programs. Used with `with`."""

    def __init__(self, programs: list[Program], share: float):
        self._programs, self._share = programs, share
        self._groups: list[Path] = []

    def __enter__(self):
        if not (ROOT / "cpu.cfs_quota_us").exists():
            raise Trouble("threads cannot be throttled: there is no CPU controller of cgroup v1")
        for program in self._programs:
            children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
            for thread in [thread for pid in [program.pid, *children] for thread in os.listdir(f"/proc/{pid}/task")]:
                group = ROOT / f"tele-perf-{thread}"
                group.mkdir()
                self._groups.append(group)
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(int(PERIOD_US * self._share)))
                (group / "tasks").write_text(thread)
        return self

    def __exit__(self, *_):
        for group in self._groups:
            for thread in (group / "tasks").read_text().split():
                (ROOT / "tasks").write_text(thread)
            for _ in range(50):
                try:
                    group.rmdir()
                    break
                except OSError:  # A thread is on its way out.
                    time.sleep(0.01)
