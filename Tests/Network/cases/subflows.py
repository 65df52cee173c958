"""A path that loses packets: the client makes more connections, and all users' bytes go over them together (docs/protocol.md 4.28)."""

import json
import os
import random
import shutil
import subprocess
import threading

from ends import Switchboard, call
from lab import SERVER_ADDRESS
from path import binary
from process import Failure, WrongBytes
from runner import Case

from .upgrade import upgrade

ORIGIN_PORT = 7660
USERS = 6


class Bulk:
    """Random bytes in one direction, as fast as they go; each must arrive as it was sent."""

    def __init__(self, sender, receiver, seed):
        self.sender, self.receiver, self.seed = sender, receiver, seed
        self.trouble, self.received, self.running = None, 0, True
        for end in (sender, receiver):
            end.settimeout(60)
        self.threads = [threading.Thread(target=self._guard, args=(run,), daemon=True) for run in (self._send, self._receive)]
        for thread in self.threads:
            thread.start()

    def _guard(self, run):
        try:
            run()
        except (OSError, Failure) as error:
            self.trouble = self.trouble or error

    def _send(self):
        source = random.Random(self.seed)
        while self.running:
            self.sender.sendall(source.randbytes(20_000))
        self.sender.shutdown(1)

    def _receive(self):
        source, expected, past = random.Random(self.seed), b"", b""
        while data := self.receiver.recv(1 << 16):
            while len(expected) < len(data):
                expected += source.randbytes(20_000)
            if expected[:len(data)] != data:
                raise WrongBytes(self._describe(data, expected + source.randbytes(4_000_000), past))
            past = (past + data)[-4_000_000:]
            expected = expected[len(data):]
            self.received += len(data)

    def _describe(self, data, expected, past):
        """What is wrong: bytes that are missing, bytes that came before, or others."""
        first = next(index for index, byte in enumerate(data) if byte != expected[index])
        piece, place = data[first:first + 32], self.received + first
        if (ahead := expected.find(piece, first)) >= 0:
            return f"{ahead - first} bytes are missing behind {place}"
        past += data[:first]
        if (behind := past.rfind(piece)) >= 0:
            return f"bytes of {place - len(past) + behind} came again behind {place}"
        last = max(index for index, byte in enumerate(data) if byte != expected[index])
        return f"wrong bytes behind {place}, {last - first + 1} of them, up to the end of what came: {last + 1 == len(data)}: {piece.hex()}"

    def join(self):
        self.running = False
        for thread in self.threads:
            thread.join(60)
        if any(thread.is_alive() for thread in self.threads):
            raise Failure("the bytes do not come to their end")
        self.check("at the end")

    def check(self, what):
        if self.trouble:
            raise (WrongBytes if isinstance(self.trouble, WrongBytes) else Failure)(f"{what}: {self.trouble}")


def session_of(control):
    run = subprocess.run([binary(), "status", "-json", f"-control={control}"], capture_output=True, text=True, timeout=10)
    if run.returncode:
        raise Failure(f"tele status: {run.stderr.strip()}")
    return json.loads(run.stdout)["sessions"][0]


def carry(context):
    """Twelve streams of random bytes over a path with 3 % loss: soon several connections carry them; one of these is closed, the path is silent for
    two seconds, both programs are replaced, and every byte arrives."""
    lab = context.lab()
    for host in (lab.client, lab.server):
        host.sysctl("net.ipv4.tcp_congestion_control", "cubic")
    control = f"{lab.directory}/client.sock"
    server_control = f"{lab.directory}/server.sock"
    path = context.path(lab, ORIGIN_PORT, client_flags=[f"-control={control}"], server_flags=[f"-control={server_control}"])
    lab.forward("numgen random mod 100 < 3 drop")

    def subflows():
        paths = session_of(control)["paths"]
        return paths[0]["connections"] if paths else 0

    def wait(what):
        if not context.until(15, lambda: subflows() >= 4):
            raise Failure(f"{what}: {subflows()} connections carry the session: {path.client.errors[-600:]}")

    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        pairs = [call(lab, path, switchboard) for _ in range(USERS)]
        flows = [Bulk(*ends, seed) for seed, pair in enumerate(pairs) for ends in (pair, pair[::-1])]

        def advance(what):
            before = [flow.received for flow in flows]
            if not context.until(20, lambda: all(flow.trouble or flow.received > count for flow, count in zip(flows, before))):
                raise Failure(f"{what}: some streams stand still: {[flow.received - count for flow, count in zip(flows, before)]}")
            for flow in flows:
                flow.check(what)
        wait("loss goes on")
        advance("over several connections")
        for _ in range(3):
            ports = subprocess.run(["ip", "netns", "exec", lab.client.name, "ss", "-Htn", "state", "established", "dst", SERVER_ADDRESS],
                                   capture_output=True, text=True).stdout.split("\n")
            line = random.choice([line for line in ports if line.strip()])
            local = line.split()[2]
            subprocess.run(["ip", "netns", "exec", lab.client.name, "ss", "-K", "src", local], capture_output=True)
            advance("one connection was closed")
            wait("one connection was closed")
        lab.forward("drop")
        context.sleep(2)
        lab.forward("numgen random mod 100 < 3 drop")
        advance("behind an outage")
        wait("behind an outage")
        copy = shutil.copy(binary(), os.path.join(lab.directory, "next"))
        for side in (control, server_control):
            upgrade(side, f"-binary={copy}")
            advance("another program")
            wait("another program")
        for flow in flows:
            flow.running = False
        for flow in flows:
            flow.join()
        if "session lost" in path.client.errors:
            raise Failure("a session was lost")
    return f"{sum(flow.received for flow in flows) >> 20} MiB by {USERS} users both ways, through closed connections, an outage and two upgrades"


def cases():
    yield Case("subflows.carry", carry, drivers="either", only_tele=True)
