"""Control groups with little memory."""

import contextlib
import os
import time

from runner import Skip


@contextlib.contextmanager
def memory_group(lab, byte_count):
    """The folder of a group whose processes may have so much memory. They must have ended when it is left.

    It lies outside of the laboratory's namespaces, which hide the control groups.
    """
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        groups = [line.strip().split(":", 2) for line in file]
    version1 = [path for _, controllers, path in groups if "memory" in controllers.split(",")]
    version2 = [path for number, _, path in groups if number == "0"]
    parent = f"/sys/fs/cgroup/memory{version1[0]}" if version1 else f"/sys/fs/cgroup{version2[0]}"
    group = f"{parent}/tele-{os.getpid()}-{lab.number}"
    try:
        os.mkdir(group)
        limit = "memory.limit_in_bytes" if version1 else "memory.max"
        with open(f"{group}/{limit}", "w", encoding="utf-8") as file:
            file.write(str(byte_count))
    except OSError as error:
        raise Skip(f"no memory limit can be set here ({error})") from None
    try:
        yield group
    finally:
        for _ in range(50):
            try:
                os.rmdir(group)
                break
            except OSError:
                time.sleep(0.1)


def join(group, pid):
    """The process, and those that it starts from now on."""
    with open(f"{group}/cgroup.procs", "w", encoding="ascii") as file:
        file.write(str(pid))
