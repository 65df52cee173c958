"""What the machine refuses: descriptors that run out, and dials that fail. tele goes on, and recovers."""

import time

from ends import NAME, Switchboard, call, exchange, observe, receive_exactly
from faults import FAULTS
from lab import SERVER_ADDRESS
from path import CARRIER_PORT
from process import Failure
from runner import Case

ORIGIN_PORT = 7800
DESCRIPTORS, WANTED = 64, 100
#: Of one processor, while there is nothing to do but to wait for descriptors.
IDLE_CPU = 0.10
NAME_OF_SERVER = "tele-server.test"


def descriptors(role):
    """With 64 descriptors a hundred users come: who got through goes on, others wait or are reset."""
    def story(context):
        lab = context.lab()
        path = context.path(lab, ORIGIN_PORT,
                            **{f"{role}_limits": ["prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"]})
        process = getattr(path, role)
        with Switchboard(lab, ORIGIN_PORT) as switchboard:
            call_and_close(lab, path, switchboard)
            context.sleep(0.3)
            idle = process.descriptors()
            users = []
            for _ in range(WANTED):
                name = switchboard.name()
                try:
                    user = lab.client.connect(path.address)
                    user.sendall(NAME.pack(name))
                except ConnectionResetError:
                    continue  # One of those whom the limit turns away.
                users.append((name, user))
            context.sleep(2)
            pairs = [(user, switchboard.accepted(name, 1))
                     for name, user in users if name in switchboard.arrived]
            if not 10 <= len(pairs) < WANTED:
                raise Failure(f"{len(pairs)} of {WANTED} users got through with {DESCRIPTORS} descriptors")
            for user, origin in pairs:
                exchange(user, origin)
            before = process.cpu_seconds()
            context.sleep(3)
            load = (process.cpu_seconds() - before) / 3
            if load > IDLE_CPU:
                raise Failure(f"{process.name} takes {load:.0%} of a processor while descriptors are short")
            # The carrier comes back although every descriptor is wanted by somebody.
            FAULTS["reset"].inflict(lab, path)
            for user, _ in pairs:
                user.sendall(b"meanwhile")  # Where nothing is sent nothing is reset.
            context.sleep(1)
            FAULTS["reset"].heal(lab, path)
            for user, origin in pairs:
                if receive_exactly(origin, 9) != b"meanwhile":
                    raise Failure("something else arrived")
                exchange(user, origin)
            if "carrier lost" not in path.client.errors:
                raise Failure("the carrier was never lost: the case shows nothing")
            through = len(pairs)
            for _, user in users:
                user.close()
            for _, origin in pairs:
                origin.close()
            def again():
                switchboard.drop_unclaimed()
                call_and_close(lab, path, switchboard)
            took = retry(context, 3, again)
            def settled():
                # Users who waited for a descriptor reach the origin only now, after they gave up.
                switchboard.drop_unclaimed()
                return process.descriptors() <= idle + 2
            if not context.until(3, settled):
                raise Failure(f"{process.name} keeps {process.descriptors()} descriptors, {idle} before")
            return (f"{through} of {WANTED} got through, {load:.1%} of a processor, "
                    f"new connection after {took:.1f} s")
    return story


def crowded_by_strangers(context):
    """Strangers who say nothing hold all the places that the server has for them, a quarter of its descriptors; a good client still gets
    its carrier back."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT, server_limits=["prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"])
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, path, switchboard)
        exchange(user, origin)
        strangers = []
        try:
            idle, places = path.server.descriptors(), DESCRIPTORS // 4
            for _ in range(2 * DESCRIPTORS):
                strangers.append(lab.server.connect(("127.0.0.1", CARRIER_PORT)))
            if not context.until(3, lambda: path.server.descriptors() >= idle + places - 1):
                raise Failure(f"strangers hold {path.server.descriptors() - idle} descriptors of the server: the case shows nothing")
            # Those whom a turn has just accepted, or turned away, are closed soon.
            if not context.until(2, lambda: path.server.descriptors() <= idle + places + 2):
                raise Failure(f"strangers hold {path.server.descriptors() - idle} descriptors of the server, of {DESCRIPTORS}")
            FAULTS["reset"].inflict(lab, path)
            user.sendall(b"meanwhile")  # Where nothing is sent nothing is reset.
            context.sleep(1)
            FAULTS["reset"].heal(lab, path)
            # Those who wait before it are accepted first, fifty a second.
            began = time.monotonic()
            origin.settimeout(5)
            if receive_exactly(origin, 9) != b"meanwhile" or "carrier lost" not in path.client.errors:
                raise Failure("the carrier was never lost: the case shows nothing")
            exchange(user, origin, seconds=5)
            took = time.monotonic() - began
        finally:
            for stranger in strangers:
                stranger.close()
        retry(context, 3, lambda: call_and_close(lab, path, switchboard))
    return f"{len(strangers)} strangers, back after {took:.1f} s"


def call_and_close(lab, path, switchboard):
    user, origin = call(lab, path, switchboard, seconds=1)
    exchange(user, origin, seconds=1)
    user.close()
    observe(origin, time.monotonic() + 1)
    origin.close()


def retry(context, seconds, action):
    """How long until the action succeeds; it must within so many seconds."""
    began = time.monotonic()
    while True:
        try:
            action()
            return time.monotonic() - began
        except (Failure, OSError) as error:
            if time.monotonic() - began > seconds:
                raise Failure(f"after {seconds} s a new connection still fails ({error})") from None
            context.sleep(0.1)


class Dials:
    """The ways in which a dial fails; each also ends the carrier that is there."""

    def __init__(self, lab):
        self.lab = lab
        self.name(True)

    def name(self, known):
        # No name server either: 127.0.0.1 in this namespace has none.
        self.lab.client.write_etc("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        self.lab.client.write_etc("hosts", "127.0.0.1 localhost\n"
                                  + (f"{SERVER_ADDRESS} {NAME_OF_SERVER}\n" if known else ""))

    def refused(self, broken):
        self.lab.forward(*["meta l4proto tcp reject with tcp reset", "drop"] if broken else [])

    def unreachable(self, broken):
        self.lab.forward(*["reject with icmpx type host-unreachable"] if broken else [])

    def no_route(self, broken):
        self.lab.default_route(not broken)

    def no_name(self, broken):
        self.name(not broken)
        # Last good addresses are remembered, so they must fail too for the name to matter.
        self.refused(broken)

    def timeout(self, broken):
        self.lab.forward(*["drop"] if broken else [])

    ways = ("refused", "unreachable", "no_route", "no_name", "timeout")


def dials_of_a_session(way):
    """The carrier breaks and every dial fails in this way for some seconds; the same connections go on."""
    def story(context):
        lab = context.lab()
        dials = Dials(lab)
        path = context.path(lab, ORIGIN_PORT, start=False)
        path.carrier_host = NAME_OF_SERVER
        path.start()
        with Switchboard(lab, ORIGIN_PORT) as switchboard:
            pairs = [call(lab, path, switchboard) for _ in range(5)]
            for user, origin in pairs:
                exchange(user, origin)
            getattr(dials, way)(True)
            for user, origin in pairs:
                user.sendall(b"u" * 1000)
                origin.sendall(b"o" * 1000)
            context.sleep(30 if context.options.long else 6)
            path.check_alive()
            # A user who comes now waits, and is served after the heal.
            waiting = switchboard.name()
            late = lab.client.connect(path.address)
            late.sendall(NAME.pack(waiting))
            context.sleep(0.5)
            getattr(dials, way)(False)
            healed = time.monotonic()
            for user, origin in pairs:
                for end, text in ((user, b"o"), (origin, b"u")):
                    end.settimeout(5)
                    if receive_exactly(end, 1000) != text * 1000:
                        raise Failure("wrong bytes arrived after the heal")
            took = time.monotonic() - healed
            for user, origin in [*pairs, (late, switchboard.accepted(waiting, 5))]:
                exchange(user, origin)
            if took > 5:
                raise Failure(f"it took {took:.1f} s until the connections went on")
            return f"went on {took:.2f} s after the heal"
    return story


def dials_at_the_start(context):
    """A client that starts before there is a network serves its users when there is one."""
    lab = context.lab()
    notes = []
    for way in Dials.ways:
        dials = Dials(lab)
        path = context.path(lab, ORIGIN_PORT, start=False)
        path.carrier_host = NAME_OF_SERVER
        getattr(dials, way)(True)
        path.start()
        with Switchboard(lab, ORIGIN_PORT) as switchboard:
            name = switchboard.name()
            user = lab.client.connect(path.address)
            user.sendall(NAME.pack(name))
            context.sleep(1.5)
            path.check_alive()
            getattr(dials, way)(False)
            healed = time.monotonic()
            exchange(user, switchboard.accepted(name, 5))
            notes.append(f"{way} {time.monotonic() - healed:.2f} s")
            user.close()
        for process in (path.client, path.server):
            process.kill()
        context.paths.remove(path)
    return "served after the heal: " + ", ".join(notes)


def server_away(context):
    """Nobody listens at the server's address yet: the user waits and is served when the server starts."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT, start=False)
    path.start_client()
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        name = switchboard.name()
        user = lab.client.connect(path.address)
        user.sendall(NAME.pack(name))
        context.sleep(2)
        path.start_server()
        began = time.monotonic()
        exchange(user, switchboard.accepted(name, 5))
    return f"served {time.monotonic() - began:.2f} s after the server's start"


def cases():
    for role in ("server", "client"):
        yield Case(f"robust.descriptors-{role}", descriptors(role), needs=("prlimit",), only_tele=True,
                   drivers="either")
    yield Case("robust.crowded-by-strangers", crowded_by_strangers, needs=("prlimit",), only_tele=True, drivers="either")
    for way in Dials.ways:
        yield Case(f"robust.dial-{way.replace('_', '-')}", dials_of_a_session(way), only_tele=True)
    yield Case("robust.dial-at-start", dials_at_the_start, only_tele=True)
    yield Case("robust.server-away", server_away, only_tele=True)
