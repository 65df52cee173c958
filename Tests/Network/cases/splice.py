"""Bytes that go past memory, in pipes of the kernel: whole through everything, and by memory where there are no pipes."""

import json
import os
import sys

from faults import FAULTS
from lab import SERVER_ADDRESS
from path import CARRIER_PORT, HERE, status_of
from process import Failure, last_line
from runner import Case

ORIGIN_PORT = 7950
CUTTER_PORT = 40333
MIB = 1 << 20
#: What a process may take beside its buffer: itself, slabs of the arena that stay committed, a bit of chance.
OWN_MEMORY = 96 * MIB
#: The user that has no pipes left, and one more for each laboratory.
NOBODY = 64000


class Bulk:
    """A path whose tele processes splice whatever they can, with an origin that hashes, and users that do."""

    def __init__(self, context, lab=None, **options):
        self.context, self.lab = context, lab or context.lab()
        flags = {role: ["-splice=always", f"-control={self._control(role)}"] for role in ("client", "server")}
        self.path = context.path(self.lab, ORIGIN_PORT, client_flags=flags["client"], server_flags=flags["server"], **options)
        self.origin = self._start("origin", self.lab.server, "origin", ORIGIN_PORT)
        self.origin.wait_for_port(ORIGIN_PORT)

    def _control(self, role):
        return f"{self.lab.directory}/{role}.sock"

    def _start(self, name, host, *arguments):
        return self.lab.start(f"bulk-{name}", [sys.executable, os.path.join(HERE, "workers", "bulk.py"), *map(str, arguments)], host=host)

    def user(self, up, down, pause=0, name="user"):
        return self._start(name, self.lab.client, "user", *self.path.address, up, down, pause)

    def status(self, role):
        return status_of(self._control(role))

    def compare(self, user, up, down):
        """Both ends saw the same, whole and ended in order. Returns the user's seconds."""
        self.context.until(10, lambda: self.origin.output.count("\n") > 0)
        mine, theirs = result(user, 0), result(self.origin, 0)
        for name, end in (("user", mine), ("origin", theirs)):
            if end["end"] != "fin" or "failed" in end:
                raise Failure(f"the {name}'s connection ended with “{end['end']}” {end.get('failed', '')}")
        if (mine["sent"], theirs["sent"]) != (theirs["received"], mine["received"]):
            raise Failure(f"misplaced: the user sent {mine['sent']} and received {mine['received']}, "
                          f"the origin received {theirs['received']} and sent {theirs['sent']}")
        if (mine["sent"][0], mine["received"][0]) != (up, down):
            raise Failure(f"only {mine['sent'][0]} and {mine['received'][0]} bytes went")
        return mine["seconds"]

    def shares(self):
        """Of the bytes both ways: which went past memory at their start, and at their end. 0…1."""
        client, server = self.status("client"), self.status("server")
        read = client["readBytes"] + server["readBytes"]
        return ((client["splicedBytes"] + server["splicedBytes"]) / read, (client["passedBytes"] + server["passedBytes"]) / read)

    def shown(self, least_spliced, least_passed):
        """In words; a failure when it was so little that the case shows nothing."""
        spliced, passed = self.shares()
        if spliced < least_spliced or passed < least_passed:
            raise Failure(f"only {spliced:.0%} were spliced and {passed:.0%} passed on: the case shows nothing")
        return f"{spliced:.0%} spliced, {passed:.0%} passed on"


def result(process, line):
    try:
        return json.loads(process.output.splitlines()[line])
    except (IndexError, json.JSONDecodeError):
        raise Failure(f"{process.name} gave no result: {last_line(process.errors)}") from None


def through_faults(context):
    """Both ways at once, a fault every second."""
    bulk = Bulk(context)
    count = (10 << 30) if context.options.long else (3 << 30)
    user = bulk.user(count, count)
    faults = 0
    while user.running:
        context.sleep(context.random.uniform(0.4, 0.9))
        fault = context.random.choice([fault for fault in FAULTS.values() if fault.applies(bulk.path)])
        fault.inflict(bulk.lab, bulk.path)
        context.sleep(context.random.uniform(0.05, 0.3))
        fault.heal(bulk.lab, bulk.path)
        faults += 1
        if faults > (1500 if context.options.long else 150):
            raise Failure(f"not through after {faults} faults")
    seconds = bulk.compare(user, count, count)
    return f"{2 * count >> 20} MiB equal in {seconds:.0f} s, {faults} faults, {bulk.shown(0.3, 0.1)}"


def cut_anywhere(context):
    """The carrier dies at any byte of a spliced frame, again and again."""
    lab = context.lab()
    bulk = Bulk(context, lab, start=False)
    seed = context.random.getrandbits(30)
    cutter = lab.start("cutter", [sys.executable, os.path.join(HERE, "workers", "cutter.py"), str(CUTTER_PORT), SERVER_ADDRESS,
                                  str(CARRIER_PORT), str(16 * MIB), str(24 * MIB), str(seed)], host=lab.client)
    cutter.wait_for_port(CUTTER_PORT)
    bulk.path.carrier_host, bulk.path.carrier_port = "127.0.0.1", CUTTER_PORT
    bulk.path.start_server()
    bulk.path.start_client()
    count = (8 << 30) if context.options.long else (1 << 30)
    user = bulk.user(count, count)
    user.wait(600 if context.options.long else 120)
    bulk.compare(user, count, count)
    cuts = cutter.output.count("cut\n")
    shown = bulk.shown(0.15, 0)
    if cuts < 30:
        raise Failure(f"only {cuts} cuts")
    return f"{cuts} cuts, {shown}, {2 * count >> 20} MiB equal"


def slow_user(context):
    """A user who stops reading in the middle of a spliced frame holds nobody up, and memory stays within its bounds."""
    bulk = Bulk(context)
    count = 512 * MIB
    slow = bulk.user(0, count, 4)
    context.sleep(2)
    if not context.until(3, lambda: slow.running):
        raise Failure("the slow user did not stop in the middle")
    quick = bulk.user(64 * MIB, 64 * MIB, name="quick")
    context.sleep(1.5)
    if quick.running:
        raise Failure("the other connection waits for the slow user")
    for process in (bulk.path.client, bulk.path.server):
        if process.memory("VmHWM") > 64 * MIB + OWN_MEMORY:
            raise Failure(f"{process.name} took {process.memory('VmHWM') >> 20} MiB")
    slow.wait(60)
    mine = result(slow, 0)
    context.until(10, lambda: bulk.origin.output.count("\n") > 1)
    theirs = next(end for end in map(json.loads, bulk.origin.output.splitlines()) if end["sent"][0] == count)
    if mine["received"] != theirs["sent"] or mine["end"] != "fin":
        raise Failure(f"misplaced: {theirs['sent']} were sent, {mine['received']} received, {mine['end']}")
    return f"{count >> 20} MiB whole; {bulk.path.client.memory('VmHWM') >> 20} and {bulk.path.server.memory('VmHWM') >> 20} MiB at most"


def many_users(context):
    """More users than pipes, some of whom stop in the middle: theirs lie in memory and in pipes by turns, in order."""
    bulk = Bulk(context)
    users = {}
    for number in range(48):
        count = 24 * MIB + number * 4096   # Its own, to know the origin's end of it.
        users[count] = bulk.user(count, count, number % 3, name=f"user-{number}")
    faults = 0
    while any(user.running for user in users.values()):
        context.sleep(1)
        fault = FAULTS["reset"]
        fault.inflict(bulk.lab, bulk.path)
        context.sleep(0.1)
        fault.heal(bulk.lab, bulk.path)
        faults += 1
        if faults > 100:
            raise Failure(f"not through after {faults} faults")
    context.until(10, lambda: bulk.origin.output.count("\n") == len(users))
    ends = {end["sent"][0]: end for end in map(json.loads, bulk.origin.output.splitlines())}
    for count, user in users.items():
        mine, theirs = result(user, 0), ends.get(count)
        if not theirs or mine["end"] != "fin" or (mine["sent"], mine["received"]) != (theirs["received"], theirs["sent"]):
            raise Failure(f"misplaced: {user.name} has {mine}, the origin {theirs}")
    return f"{len(users)} users equal, {faults} faults, {bulk.shown(0.05, 0.1)}"


def network(context):
    """Eight streams on a fast network go past memory, too, beside iperf3's control connection."""
    lab = context.lab()
    control = f"{lab.directory}/client.sock"
    path = context.path(lab, ORIGIN_PORT, client_flags=[f"-control={control}"])
    lab.start("iperf3", ["iperf3", "-s", "-1", "-p", str(ORIGIN_PORT)], host=lab.server).wait_for_port(ORIGIN_PORT)
    host, port = path.address
    user = lab.start("user", ["iperf3", "-c", host, "-p", str(port), "-P", "8", "-t", "3", "-J"], host=lab.client)
    user.wait(20)
    rate = json.loads(user.output)["end"]["sum_received"]["bits_per_second"] / 1e9
    status = status_of(control)
    spliced = status["splicedBytes"] / status["readBytes"]
    if spliced < 0.5:
        raise Failure(f"{spliced:.0%} were spliced at {rate:.1f} Gbit/s")
    return f"{rate:.1f} Gbit/s, {spliced:.0%} spliced"


def no_pipes(context):
    """Where the system gives no pipes, bytes are copied."""
    lab = context.lab()
    nobody = NOBODY + lab.number
    as_nobody = ["setpriv", f"--reuid={nobody}", f"--regid={nobody}", "--clear-groups", "--"]
    hog = ("import fcntl, os, time\nends = [os.pipe() for _ in range(64)]\n"
           "for _, end in ends: fcntl.fcntl(end, 1031, 1 << 20)\nprint('full', flush=True)\ntime.sleep(600)")
    full = lab.start("hog", [*as_nobody, sys.executable, "-c", hog], host=lab.client)
    if not context.until(10, lambda: "full" in full.output):
        raise Failure(f"the other process of this user took no pipes: {last_line(full.errors)}")
    os.chmod(lab.directory, 0o777)
    bulk = Bulk(context, lab, client_limits=as_nobody, server_limits=as_nobody)
    count = 256 * MIB
    user = bulk.user(count, count)
    user.wait(60)
    bulk.compare(user, count, count)
    spliced, passed = bulk.shares()
    if spliced or passed:
        raise Failure(f"{spliced:.0%} were spliced, so this user had pipes left: the case shows nothing")
    return f"{2 * count >> 20} MiB equal, all copied"


def cases():
    yield Case("splice.faults", through_faults, weight=8, drivers="long", only_tele=True, only_plain=True)
    yield Case("splice.cuts", cut_anywhere, weight=8, drivers="long", only_tele=True, only_plain=True)
    yield Case("splice.slow-user", slow_user, weight=8, drivers="long", only_tele=True, only_plain=True)
    yield Case("splice.many-users", many_users, weight=9, drivers="long", only_tele=True, only_plain=True)
    yield Case("splice.network", network, weight=8, needs=("iperf3",), drivers="both", only_tele=True, only_plain=True)
    yield Case("splice.no-pipes", no_pipes, weight=3, needs=("setpriv",), drivers="both", only_tele=True, only_plain=True)
