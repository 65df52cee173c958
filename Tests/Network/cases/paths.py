"""A client's host with two ways to the server: when one goes silent, sessions continue over the other at once."""

import json
import subprocess
import time

from ends import Switchboard, call, exchange
from lab import ip
from path import binary
from process import Failure
from runner import Case

from .recovery import Flow

ORIGIN_PORT = 7650
#: The longest gap that a silent path may cause here, where a round trip is nothing: 50 ms until an answer is late, and what busy hosts need.
LIMIT = 0.4
SECOND = "10.213.3"


class TwoWays:
    """The client's second link, to the same router."""

    def __init__(self, lab):
        self.lab, self.made = lab, False

    def add(self):
        lab = self.lab
        ip("link", "add", "eth1", "netns", lab.client.name, "type", "veth", "peer", "name", "client1", "netns", lab.router.name)
        ip("-n", lab.router.name, "address", "add", f"{SECOND}.1/24", "dev", "client1")
        ip("-n", lab.router.name, "link", "set", "client1", "up")
        ip("-n", lab.client.name, "address", "add", f"{SECOND}.2/24", "dev", "eth1")
        ip("-n", lab.client.name, "link", "set", "eth1", "up")
        ip("-n", lab.client.name, "route", "add", "default", "via", f"{SECOND}.1", "dev", "eth1", "metric", "100")

    def remove(self):
        ip("-n", self.lab.client.name, "link", "del", "eth1")

    def silence(self, *links):
        """The router drops what comes from, and goes to, these links of the client; none: all pass."""
        self.lab.forward(*(f"{side} {link} drop" for link in links for side in ("iifname", "oifname")))


def carrier_of(lab, control):
    """(interface of the carrier, interface of the standby), as `tele status` knows them."""
    run = subprocess.run([binary(), "status", "-json", f"-control={control}"], capture_output=True, text=True, timeout=10)
    if run.returncode:
        raise Failure(f"tele status: {run.stderr.strip()}")
    session = json.loads(run.stdout)["sessions"][0]
    return session.get("interface"), session.get("standby")


def says(control, words):
    """`tele status` says it to people, too."""
    run = subprocess.run([binary(), "status", f"-control={control}"], capture_output=True, text=True, timeout=10)
    if words not in run.stdout:
        raise Failure(f"tele status does not say “{words}”: {run.stdout}")


def wait_for(context, lab, control, wanted, seconds=5):
    if not context.until(seconds, lambda: carrier_of(lab, control) == wanted):
        raise Failure(f"after {seconds} s carrier and standby are on {carrier_of(lab, control)}, not on {wanted}")


def silent(direction):
    """Records flow; one way goes silent, later the other one, and in long runs three times each."""
    def story(context):
        lab = context.lab()
        control = f"{lab.directory}/client.sock"
        ways = TwoWays(lab)
        ways.add()
        path = context.path(lab, ORIGIN_PORT, client_flags=[f"-control={control}"])
        with Switchboard(lab, ORIGIN_PORT) as switchboard:
            idle = call(lab, path, switchboard)
            user, origin = call(lab, path, switchboard)
            wait_for(context, lab, control, ("eth0", "eth1"))
            flow = Flow(*((user, origin) if direction == "up" else (origin, user)))
            gaps = []
            for link, other in (("client0", ("eth1", "eth0")), ("client1", ("eth0", "eth1"))) * (3 if context.options.long else 1):
                context.sleep(1.5)
                began = time.monotonic()
                ways.silence(link)
                context.sleep(3)
                ways.silence()
                gaps.append(flow.longest_gap(began))
                wait_for(context, lab, control, other, 10)
            flow.stop()
            exchange(*idle)
            note = "gaps of " + ", ".join(f"{gap * 1000:.0f}" for gap in gaps) + " ms"
            if max(gaps) > LIMIT:
                raise Failure(note)
        return note
    return story


def come_and_go(context):
    """A second way is added, and used within 2 s; the first one is taken away, and comes back; both are silent, and one of them comes back."""
    lab = context.lab()
    control = f"{lab.directory}/client.sock"
    ways = TwoWays(lab)
    path = context.path(lab, ORIGIN_PORT, client_flags=[f"-control={control}"])
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, path, switchboard)
        flow = Flow(user, origin)
        context.sleep(1)
        if carrier_of(lab, control)[1] is not None:
            raise Failure("a standby without a second way")
        ways.add()
        wait_for(context, lab, control, ("eth0", "eth1"), 2)
        says(control, "uses eth0 (")
        says(control, "; eth1 stands by (")
        began = time.monotonic()
        lab.link(False)
        context.sleep(2)
        gaps = [flow.longest_gap(began)]
        if carrier_of(lab, control)[0] != "eth1":
            raise Failure(f"eth0 is down, and the carrier is on {carrier_of(lab, control)}")
        lab.link(True)
        wait_for(context, lab, control, ("eth1", "eth0"), 10)
        # Neither works; later only the one that did not carry.
        ways.silence("client0", "client1")
        context.sleep(4)
        ways.silence("client1")
        healed = time.monotonic()
        if not context.until(5, lambda: flow.recovery(healed)[1]):
            raise Failure("nothing comes by the way that is there again")
        recovered = flow.recovery(healed)[0]
        ways.silence()
        wait_for(context, lab, control, ("eth0", "eth1"), 10)
        # The server ends in order: what stands by ends, too.
        flow.stop()
        note = f"a gap of {gaps[0] * 1000:.0f} ms; after an outage of both, new bytes after {recovered * 1000:.0f} ms"
        if gaps[0] > LIMIT or recovered > 1:
            raise Failure(note)
    return note


def returns(context):
    """The preferred way is used again when it has been there for ten seconds, without a gap."""
    lab = context.lab()
    control = f"{lab.directory}/client.sock"
    ways = TwoWays(lab)
    ways.add()
    path = context.path(lab, ORIGIN_PORT, client_flags=[f"-control={control}"])
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        flow = Flow(*call(lab, path, switchboard))
        wait_for(context, lab, control, ("eth0", "eth1"))
        ways.silence("client0")
        context.sleep(1)
        ways.silence()
        wait_for(context, lab, control, ("eth1", "eth0"), 10)
        ready = time.monotonic()
        wait_for(context, lab, control, ("eth0", "eth1"), 20)
        took, gap = time.monotonic() - ready, flow.longest_gap(ready)
        flow.stop()
        note = f"back after {took:.1f} s, with a gap of {gap * 1000:.0f} ms"
        if took < 8 or gap > LIMIT:
            raise Failure(note)
    return note


def both(context):
    """Two named ways and four carriers: connections are spread over both; one of them goes silent, and all go on over the other."""
    lab = context.lab()
    control = f"{lab.directory}/client.sock"
    ways = TwoWays(lab)
    ways.add()
    path = context.path(lab, ORIGIN_PORT, client_flags=[f"-control={control}", "-paths=eth0,eth1", "-carriers=4"])

    def carriers():
        run = subprocess.run([binary(), "status", "-json", f"-control={control}"], capture_output=True, text=True, timeout=10)
        if run.returncode:
            raise Failure(f"tele status: {run.stderr.strip()}")
        return sorted((session.get("interface") or "-") for session in json.loads(run.stdout)["sessions"] if session["carrier"] == "up")
    if not context.until(5, lambda: carriers() == ["eth0", "eth0", "eth1", "eth1"]):
        raise Failure(f"the carriers are on {carriers()}")
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        pairs = [call(lab, path, switchboard) for _ in range(8)]
        flows = [Flow(*pair) for pair in pairs]
        context.sleep(1.5)
        began = time.monotonic()
        ways.silence("client1")
        context.sleep(2)
        gap = max(flow.longest_gap(began) for flow in flows)
        if carriers() != ["eth0"] * 4:
            raise Failure(f"eth1 is silent, and the carriers are on {carriers()}")
        ways.silence()
        for flow in flows:
            flow.stop()
        if gap > LIMIT:
            raise Failure(f"a gap of {gap * 1000:.0f} ms")
    return f"8 connections over both, then over one, with a gap of at most {gap * 1000:.0f} ms"


def usual(context):
    """`-paths=usual` uses the route only; names of interfaces use these, the first one first, and none that is not named."""
    lab = context.lab()
    ways = TwoWays(lab)
    ways.add()
    control = f"{lab.directory}/client.sock"
    path = context.path(lab, ORIGIN_PORT, start=False)
    path.start_server()
    seen = []
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        for flag, wanted in (("usual", (None, None)), ("eth1,eth0", ("eth1", "eth0")), ("eth1", ("eth1", None)), ("eth1,wlan7", ("eth1", None))):
            if path.client:
                path.client.kill()
                path.client.wait(5)
            path.client_flags = [f"-control={control}", f"-paths={flag}"]
            path.start_client()
            exchange(*call(lab, path, switchboard))
            context.sleep(1.5)
            wait_for(context, lab, control, wanted)
            seen.append(f"{flag}: {carrier_of(lab, control)[0] or 'as routed'}")
        # None of the named ones is there: no other is used; when it comes, it is.
        path.client.kill()
        path.client.wait(5)
        ways.remove()
        path.client_flags = [f"-control={control}", "-paths=eth1"]
        path.start_client()
        if not context.until(3, lambda: "no interface of -paths leads to it" in path.client.errors):
            raise Failure(f"the client does not say that eth1 is missing: {path.client.errors[-300:]}")
        if "carrier up" in path.client.errors.split("no interface of")[1]:
            raise Failure("another interface was used")
        ways.add()
        wait_for(context, lab, control, ("eth1", None))
    return "; ".join(seen)


def cases():
    for direction in ("up", "down"):
        yield Case(f"paths.silent-{direction}", silent(direction), drivers="either", only_tele=True)
    yield Case("paths.come-and-go", come_and_go, drivers="either", only_tele=True)
    yield Case("paths.returns", returns, drivers="either", only_tele=True)
    yield Case("paths.both", both, drivers="either", only_tele=True)
    yield Case("paths.usual", usual, only_tele=True)
