"""As many connections in one session as descriptors allow: opening costs the same from the first to the last, and each is whole."""

import resource
import threading
import time

from faults import FAULTS
from process import Failure
from runner import CAPACITY, Case

from cases.mappings import Files

#: A host has 28 000 ports towards one address and port, so there are several mappings.
MAPPINGS = 5
FLAT = 2.5


class Door:
    """An origin that takes everybody in and keeps them, in order."""

    def __init__(self, lab, port):
        self.listener = lab.server.listen(port)
        self.ends = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                self.ends.append(self.listener.accept()[0])
            except OSError:
                return


def crowd(context):
    # Both ends of each are in this process.
    wanted, hard = 250_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        wanted = hard
    count = min(100_000, (wanted - 1000) // 20 * 10)
    lab = context.lab()
    for host in (lab.client, lab.server):
        host.sysctl("net.core.somaxconn", 4096)
    path = Files(context, lab, {f"m{index}": f"127.0.0.1:{9101 + index}" for index in range(MAPPINGS)},
                 {f"m{index}": f"127.0.0.1:{8101 + index}" for index in range(MAPPINGS)}, client="max-streams = 200000",
                 server="max-streams = 200000")
    doors = [Door(lab, 8101 + index) for index in range(MAPPINGS)]
    idle = [process.memory() for process in (path.client, path.server)]
    users, blocks = [], []
    step = count // 10
    try:
        while len(users) < count:
            began = time.monotonic()
            for index in range(step):
                user = lab.client.connect(("127.0.0.1", 9101 + index % MAPPINGS), 20)
                user.sendall(b"x")
                users.append(user)
            if not context.until(30, lambda: sum(len(door.ends) for door in doors) == len(users)):
                raise Failure(f"{sum(len(door.ends) for door in doors)} of {len(users)} connections reached their origin")
            blocks.append(time.monotonic() - began)
        each = [(process.memory() - before) / count for process, before in zip((path.client, path.server), idle)]
        FAULTS["reset"].inflict(lab, path)
        context.sleep(1)
        for user in users:
            user.sendall(b"y")
        FAULTS["reset"].heal(lab, path)
        began = time.monotonic()
        for door in doors:
            for end in door.ends:
                end.settimeout(20)
                got = end.recv(2)
                if got == b"x":
                    got += end.recv(1)
                if got != b"xy":
                    raise Failure(f"an origin got {got!r}")
        took = time.monotonic() - began
    finally:
        for user in users:
            user.close()
        for door in doors:
            door.listener.close()
            for end in door.ends:
                end.close()
    if not context.until(60, lambda: path.status("client")["connections"] == 0):
        raise Failure(f"{path.status('client')['connections']} connections remain")
    if blocks[-1] > FLAT * blocks[0] + 0.2:
        raise Failure(f"opening grows dearer: {blocks[0]:.2f} s for the first tenth, {blocks[-1]:.2f} for the last")
    return (f"{count} opened, the first tenth in {blocks[0]:.2f} s, the last in {blocks[-1]:.2f}; {each[0] / 1024:.2f} and "
            f"{each[1] / 1024:.2f} KiB each; after an outage all had theirs when {took:.2f} s had gone into reading them")


def cases():
    return [Case("crowd", crowd, weight=CAPACITY, only_tele=True, short=False)]
