"""What the comparison changes on the machine, and how it is undone whatever happens.

Two things must not outlive a run: the congestion control that all candidates share, and the processes that
were started. Both are in the care of a guard, a child that only waits for its parent's end of a pipe to
close. The end of the run, an exception and SIGKILL all look the same to it, so there is one way of cleaning
up and it is always the one that is used.
"""
import os
import platform
import resource
import signal
import socket
from pathlib import Path

CONGESTION_CONTROL = Path("/proc/sys/net/ipv4/tcp_congestion_control")
SHARED = "cubic"


class Guard:
    """Restores the congestion control and kills what is left, as soon as the parent is gone or closes."""

    def __init__(self, original: str | None):
        """`original` is written back at the end; None: there is nothing to restore."""
        receiver, self._sender = os.pipe()
        self._process = os.fork()
        if self._process == 0:
            try:
                self._wait(receiver, original)
            finally:
                os._exit(0)
        os.close(receiver)

    def add(self, group: int):
        os.write(self._sender, f"+{group}\n".encode())

    def remove(self, group: int):
        os.write(self._sender, f"-{group}\n".encode())

    def close(self):
        """Returns when everything is undone."""
        os.close(self._sender)
        os.waitpid(self._process, 0)

    @staticmethod
    def _wait(receiver: int, original: str | None):
        os.setsid()  # a Ctrl-C at the terminal is for the parent
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        # Whatever else was inherited (a lock, a pipe) must end with the parent, not with the guard.
        os.closerange(3, receiver)
        os.closerange(receiver + 1, 4096)
        groups = set()
        with os.fdopen(receiver) as lines:
            for line in lines:
                (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
        for group in groups:
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if original:
            CONGESTION_CONTROL.write_text(original)  # where it could not be changed, this fails as harmlessly


class Machine:
    """Used with `with`: one comparison at a time, the same congestion control for everyone, clean afterwards.

    `fair` is False when the congestion control could not be shared; `remarks` says what was done.
    """

    def __init__(self):
        self.remarks = []
        self.fair = True

    def __enter__(self):
        # The name lives in the network namespace, as the setting does that it protects.
        self._only = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._only.bind("\0tele-perf")
        except OSError:
            raise SystemExit(complain("another comparison is running on this machine",
                                      "two at once would measure each other; wait for it to end", 69)) from None
        original = CONGESTION_CONTROL.read_text().strip()
        # First the one who restores, then the change.
        self.guard = Guard(original if original != SHARED else None)
        if original != SHARED:
            self._share(original)
        return self

    def _share(self, original: str):
        try:
            CONGESTION_CONTROL.write_text(SHARED)
        except OSError as error:
            self.fair = False
            self.remarks.append(
                f"congestion control stayed {original} ({error.strerror}) while tele sets {SHARED} on its "
                f"loopback sockets: not a fair comparison, run it as root in the initial network namespace")
            return
        self.remarks.append(f"congestion control was {SHARED} for everyone for the duration, "
                            f"and is {original} again")

    def __exit__(self, *_):
        self.guard.close()
        self._only.close()


def complain(sentence: str, hint: str, status: int) -> int:
    """One sentence and one hint on stderr; returns the exit status to leave with."""
    os.write(2, f"perf: error: {sentence}\nperf: hint: {hint}\n".encode())
    return status


def descriptor_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_descriptor_limit(wanted: int):
    """Raises RLIMIT_NOFILE of this process and its children to `wanted`, or as near as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def description() -> dict:
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "kernel": platform.release(),
            "load_average_before": round(os.getloadavg()[0], 2)}
