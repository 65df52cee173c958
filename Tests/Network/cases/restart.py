"""The restart matrix: the origin is recycled, tele killed, stopped or forgotten.

What are old connections told, and how soon do new ones work?
"""

import signal
import time

from ends import Switchboard, call, exchange, observe, require_reset
from path import binary, security_flags
from process import Failure
from runner import Case

ORIGIN_PORT = 7700
COUNT = 10
CROWD = 100
#: "At once" for a new connection: it may wait for one dial.
AT_ONCE = 2
HOLD = 3
DRAIN = 2


def several(lab, path, switchboard):
    pairs = [call(lab, path, switchboard) for _ in range(COUNT)]
    for user, origin in pairs:
        exchange(user, origin)
    return pairs


def new_connection(context, lab, path, switchboard):
    """How long until a new connection works. One that came before the client knew of the loss may be reset
    with the old ones; the next one works.
    """
    began = time.monotonic()
    while True:
        try:
            user, origin = call(lab, path, switchboard, seconds=0.5)
            exchange(user, origin, seconds=0.5)
            return time.monotonic() - began
        except (Failure, OSError) as error:
            if time.monotonic() - began > AT_ONCE:
                raise Failure(f"after {AT_ONCE} s a new connection still fails ({error})") from None
            context.sleep(0.02)


def origin_recycled(context):
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        pairs = several(lab, path, switchboard)
    for user, origin in pairs:
        origin.close()
        data, seen = observe(user, time.monotonic() + 2)
        if seen != "eof" or data:
            raise Failure(f"the user of an origin that closed saw “{seen}”")
    try:
        gone = lab.client.connect(path.address)
        require_reset(gone, 1, "the user of an origin that is away")
    except (ConnectionRefusedError, ConnectionResetError):
        pass    # told before the call to connect returned
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        return f"new connection after {new_connection(context, lab, path, switchboard) * 1000:.0f} ms"


def server_killed(context):
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        pairs = several(lab, path, switchboard)
        # Bytes under way when the server dies are lost: a clean end would hide that.
        for user, origin in pairs[::2]:
            user.sendall(b"u" * 50_000)
            origin.sendall(b"o" * 50_000)
        path.server.kill()
        for _, origin in pairs:
            _, seen = observe(origin, time.monotonic() + 2)
            if seen == "nothing":
                raise Failure("an origin's connection outlived the killed server")
        context.sleep(1.5)
        for user, _ in pairs:
            _, seen = observe(user, time.monotonic() + 0.01)
            if seen == "eof":
                raise Failure("a user saw a clean end when the server was killed")
        path.start_server()
        began = time.monotonic()
        fresh = new_connection(context, lab, path, switchboard)
        for user, _ in pairs:
            _, seen = observe(user, max(began + 1, time.monotonic() + 0.01))
            if seen != "reset":
                raise Failure(f"within a second after the restart a user saw “{seen}”, not a reset")
        return (f"{COUNT} users reset within {time.monotonic() - began:.2f} s of the restart, "
                f"new connection after {fresh * 1000:.0f} ms")


def client_killed(context):
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT, server_flags=[f"-hold={HOLD}s"])
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        pairs = several(lab, path, switchboard)
        killed = time.monotonic()
        path.client.kill()
        for user, _ in pairs:
            _, seen = observe(user, time.monotonic() + 1)
            if seen == "nothing":
                raise Failure("a user's connection outlived the killed client")
        path.start_client()
        fresh = new_connection(context, lab, path, switchboard)
        # The old session is held, since its client might have been cut off only.
        _, seen = observe(pairs[0][1], killed + HOLD - 1)
        if seen != "nothing":
            raise Failure(f"an origin saw “{seen}” before the {HOLD} s of -hold were over")
        for _, origin in pairs:
            _, seen = observe(origin, max(killed + HOLD + 2, time.monotonic() + 0.01))
            if seen != "reset":
                raise Failure(f"when -hold was over an origin saw “{seen}”, not a reset")
        took = time.monotonic() - killed
        new_connection(context, lab, path, switchboard)
        return f"new connection after {fresh * 1000:.0f} ms, the old forgotten with resets after {took:.1f} s"


def client_stopped(context):
    """SIGTERM drains; the second one ends at once. Either way the session is closed, not held."""
    lab = context.lab()
    notes = []
    path = context.path(lab, ORIGIN_PORT, client_flags=[f"-drain={DRAIN}s"])
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        for signals, limit in ((2, 1), (1, DRAIN + 1)):
            pairs = several(lab, path, switchboard)
            began = time.monotonic()
            for _ in range(signals):
                path.client.signal(signal.SIGTERM)
                context.sleep(0.1)
            for user, origin in pairs:
                for end, who in ((user, "a user"), (origin, "an origin")):
                    _, seen = observe(end, max(began + limit, time.monotonic() + 0.01))
                    if seen != "reset":
                        raise Failure(f"{who} saw “{seen}”, not a reset, within {limit} s after "
                                      f"{signals} × SIGTERM")
            notes.append(f"{time.monotonic() - began:.1f} s after {signals} × SIGTERM")
            status = path.client.wait(limit)
            if status < 0 or (signals == 1 and status != 0):
                raise Failure(f"the client that was stopped {signals} times ended with status {status}")
            path.start_client()
            new_connection(context, lab, path, switchboard)
    return "origins reset " + ", ".join(notes)


def client_drains(context):
    """A stream that is at work when SIGTERM comes may finish; new ones are not taken."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, path, switchboard)
        exchange(user, origin)
        path.client.signal(signal.SIGTERM)
        context.sleep(0.5)
        try:
            lab.client.connect(path.address, seconds=1).close()
            raise Failure("the client still listens half a second after SIGTERM")
        except (ConnectionRefusedError, ConnectionResetError):
            pass
        exchange(user, origin)
        user.close()
        _, seen = observe(origin, time.monotonic() + 2)
        if seen != "eof":
            raise Failure(f"a stream that finished during the drain showed its origin “{seen}”")
        origin.close()
        if path.client.wait(3) != 0:
            raise Failure(f"the drained client ended with status {path.client.status}")
        path.start_client()
        new_connection(context, lab, path, switchboard)
    return "the last stream finished, then the client ended"


def hundred_clients(context):
    """A server with a hundred clients is killed and started again: all are back within 5 s, and nobody knocks like mad."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT)
    flags = [f"-out={path.carrier_host}:{path.carrier_port}", f"-io={path.driver}", "-control=none", *security_flags("client")]
    clients = [lab.start(f"tele-client-{number}", [binary(), "-client", f"-in=127.0.0.1:{20000 + number}", *flags],
                         host=lab.client) for number in range(CROWD)]

    def up(times):
        return sum(client.errors.count("carrier up") >= times for client in clients)

    if not context.until(20, lambda: up(1) == CROWD):
        raise Failure(f"{up(1)} of {CROWD} clients have a carrier")
    path.server.kill()
    context.sleep(2)
    path.start_server()
    began = time.monotonic()
    if not context.until(5, lambda: up(2) == CROWD):
        raise Failure(f"after 5 s {up(2)} of {CROWD} clients are back")
    took = time.monotonic() - began
    context.sleep(1)
    carriers = path.server.errors.count("session opened")
    # The path has a client too; and a machine that answers later than the pace of attempts gets another one.
    if carriers > 3 * (CROWD + 1):
        raise Failure(f"{CROWD} clients made {carriers} carriers")
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        for number in range(0, CROWD, 10):
            exchange(*call(lab, Crowd(20000 + number), switchboard))
    return f"{CROWD} clients back in {took:.2f} s, {carriers} carriers"


class Crowd:
    def __init__(self, port):
        self.address = ("127.0.0.1", port)


def cases():
    for story in (origin_recycled, server_killed, client_killed, client_stopped, client_drains):
        name = story.__name__.replace("_", "-")
        yield Case(f"restart.{name}", story, only_tele=story is not origin_recycled, drivers="either")
    yield Case("restart.hundred-clients", hundred_clients, weight=3, only_tele=True, drivers="either")
