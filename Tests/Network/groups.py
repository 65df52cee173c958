"""Control groups with little memory, or few processes."""

import contextlib
import os
import time

from runner import Skip


def memory_group(lab, byte_count):
    """The folder of a group whose processes may have so much memory. They must have ended when it is left."""
    return _group(lab, "memory", "memory.limit_in_bytes", "memory.max", byte_count)


def process_group(lab, count):
    """The same, for so many processes and threads."""
    return _group(lab, "pids", "pids.max", "pids.max", count)


def set_process_maximum(group, count):
    """For a group of processes that has begun."""
    with open(f"{group}/pids.max", "w", encoding="ascii") as file:
        file.write(str(count))


@contextlib.contextmanager
def _group(lab, controller, limit1, limit2, value):
    """It lies outside of the laboratory's namespaces, which hide the control groups. The limit's file is another one in version 1 and 2."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        groups = [line.strip().split(":", 2) for line in file]
    version1 = [path for _, controllers, path in groups if controller in controllers.split(",")]
    version2 = [path for number, _, path in groups if number == "0"]
    parent = f"/sys/fs/cgroup/{controller}{version1[0]}" if version1 else f"/sys/fs/cgroup{version2[0]}"
    group = f"{parent}/tele-{os.getpid()}-{lab.number}"
    try:
        os.mkdir(group)
        with open(f"{group}/{limit1 if version1 else limit2}", "w", encoding="utf-8") as file:
            file.write(str(value))
    except OSError as error:
        raise Skip(f"no limit of {controller} can be set here ({error})") from None
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
