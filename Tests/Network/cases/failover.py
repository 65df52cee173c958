"""A client with several servers, by a list or by a name with several addresses: who is waited for, where new users go, whose word counts."""

import os
import shutil
import signal
import subprocess
import time

from ends import NAME, Switchboard, exchange, observe
from lab import SERVER_ADDRESS
from path import binary, secrets, security_flags, status_of
from process import Failure
from runner import Case

from .upgrade import upgrade

ORIGIN, CARRIER, USERS, BALANCER = 8301, 40310, 9300, 40390
FAILOVER = 3


class Servers:
    """So many servers on the server's host, each with an origin of its own, and a client that knows them all."""

    def __init__(self, context, count, *, by_name=False, flags=(), out=None, server_flags=(), start=True):
        self.context, self.lab, self.by_name = context, context.lab(), by_name
        self.driver = context.job.driver or "auto"
        self.boards = [Switchboard(self.lab, ORIGIN + place) for place in range(count)]
        self.server_flags, self.names = server_flags, 0
        if by_name:
            for place in range(count):
                subprocess.run(["ip", "-n", self.lab.server.name, "address", "add", f"{self.address(place)}/24", "dev", "eth0"], check=True)
            lines = "".join(f"{self.address(place)} tele-server.test\n" for place in range(count))
            self.lab.client.write_etc("hosts", f"127.0.0.1 localhost\n{lines}")
        self.servers = [None] * count
        for place in range(count):
            self.start_server(place)
        self.out = out or (f"tele-server.test:{CARRIER}" if by_name else ",".join(f"{SERVER_ADDRESS}:{self.port(place)}" for place in range(count)))
        self.flags, self.control = flags, f"{self.lab.directory}/client.sock"
        if start:
            self.start_client()

    def address(self, place):
        return f"10.213.2.{10 + place}" if self.by_name else SERVER_ADDRESS

    def port(self, place):
        return CARRIER if self.by_name else CARRIER + place

    def start_server(self, place):
        listen = f"{self.address(place)}:{self.port(place)}" if self.by_name else f":{self.port(place)}"
        before = self.servers[place].errors.count("listening for carriers") if self.servers[place] else 0
        self.servers[place] = self.lab.start(
            f"server{place}", [binary(), "-server", f"-in=127.0.0.1:{ORIGIN + place}", f"-out={listen}", f"-io={self.driver}", "-control=none",
                               *security_flags("server"), *self.server_flags], host=self.lab.server)
        if not self.context.until(10, lambda: self.servers[place].errors.count("listening for carriers") > before):
            raise Failure(f"server {place} does not listen: {self.servers[place].errors}")

    def start_client(self):
        self.client = self.lab.start(
            "client", [binary(), "-client", f"-in=127.0.0.1:{USERS}", f"-out={self.out}", f"-failover={FAILOVER}s", f"-io={self.driver}",
                       f"-control={self.control}", *security_flags("client"), *self.flags], host=self.lab.client)
        self.client.wait_for_port(USERS)

    def begin(self):
        """A user that says its name at once. Returns its end and the name."""
        self.names += 1
        user = self.lab.client.connect(("127.0.0.1", USERS))
        user.sendall(NAME.pack(self.names))
        return user, self.names

    def where(self, name, seconds):
        """The place of the server that has brought this user to its origin, and the origin's end."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for place, board in enumerate(self.boards):
                with board.changed:
                    if name in board.arrived:
                        return place, board.arrived.pop(name)
            time.sleep(0.005)
        raise Failure(f"a user reached no server within {seconds} s: {self.client.errors[-600:]}")

    def call(self, at=None, seconds=10):
        """Returns the user's end, the origin's end, and the server's place."""
        user, name = self.begin()
        place, origin = self.where(name, seconds)
        if at is not None and place != at:
            raise Failure(f"a new user went to server {place}, not to {at}: {self.client.errors[-600:]}")
        return user, origin, place

    def cut(self, *places):
        """Silence between the client and these servers; none: everything passes."""
        self.lab.forward(*(f"ip {way}addr {self.address(place)} tcp {way}port {self.port(place)} drop" for place in places for way in "ds"))

    def close(self):
        for board in self.boards:
            board.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def pause(context):
    """The server in use is away for five seconds, and comes back before the others are asked: a pause, no reset. `-failover` is 3 s here, so
    new users go to the other one meanwhile; what is open stays."""
    with Servers(context, 2) as path:
        open_ones = [path.call(at=0) for _ in range(5)]
        path.cut(0)
        # The server may have been told of this one, and of no byte of it: it waits to hear something first, as ssh's users do.
        silent = path.lab.client.connect(("127.0.0.1", USERS))
        context.sleep(1.5)
        # Its server is silent, and has not seen it: it may go elsewhere.
        began = time.monotonic()
        user, name = path.begin()
        place, origin = path.where(name, FAILOVER + 1)
        took = time.monotonic() - began
        if place != 1:
            raise Failure("a new user waits for the silent server")
        exchange(user, origin)
        late = (user, origin, place)
        path.names += 1
        silent.sendall(NAME.pack(path.names))
        place, origin = path.where(path.names, 2)
        if place != 1:
            raise Failure("a user of whom no byte was sent waits for the silent server")
        exchange(silent, origin)
        for end in (silent, origin):
            end.close()
        context.sleep(1.5)
        path.cut()
        for user, origin, _ in open_ones:
            exchange(user, origin)
        # The first of the list is preferred; who is with the second stays there.
        if not context.until(5, lambda: path.client.errors.count("new connections go to another server") == 2):
            raise Failure(f"the first server is not taken again: {path.client.errors[-600:]}")
        path.call(at=0)
        exchange(*late[:2])
        # When nobody needs it any more, the second session ends.
        if len(sessions(path)) != 2:
            raise Failure(f"sessions: {sessions(path)}")
        for end in late[:2]:
            end.close()
        if not context.until(5, lambda: len(sessions(path)) == 1):
            raise Failure(f"a session that nobody needs stays: {sessions(path)}")
    return f"5 connections had a pause; a new one went elsewhere after {took:.1f} s"


def ending(end, seconds):
    return observe(end, time.monotonic() + seconds)[1]


def sessions(path):
    return status_of(path.control)["sessions"]


def killed(context):
    """The server in use is killed: new users go to the other one within `-failover` and a second; those of the dead one are reset when it is
    there again, and not before."""
    with Servers(context, 2) as path:
        user, origin, _ = path.call(at=0)
        path.servers[0].kill()
        # What goes to a server before its end is noticed stays with it.
        context.sleep(0.3)
        began = time.monotonic()
        late, name = path.begin()
        place, end = path.where(name, FAILOVER + 1)
        took = time.monotonic() - began
        if place != 1 or took < FAILOVER - 1.5:
            raise Failure(f"server {place} after {took:.1f} s")
        exchange(late, end)
        for _ in range(20):
            path.call(at=1)
        user.settimeout(1)
        try:
            raise Failure(f"the open one ended before its server was there again: {user.recv(1)!r}")
        except TimeoutError:
            pass
        path.start_server(0)
        if ending(user, 5) != "reset":
            raise Failure("the server knows nothing of the connection, and it is not reset")
        if not context.until(5, lambda: reaches(path, 0)):
            raise Failure("the first server is there again, and not taken")
        exchange(late, end)
        # And once more: the second outage after the first.
        path.servers[0].kill()
        context.sleep(0.2)
        path.call(at=1, seconds=FAILOVER + 1)
        exchange(late, end)
    return f"new users served after {took:.1f} s"


def dead_at_the_start(context):
    """The first servers of the list are not there when the client starts; nobody waits for `-failover`. The best one is taken when it comes."""
    with Servers(context, 4, start=False) as path:
        for place in (0, 1):
            path.servers[place].kill()
        path.cut(2)
        path.start_client()
        began = time.monotonic()
        pair = path.call(at=3, seconds=5)
        took = time.monotonic() - began
        path.cut()
        if not context.until(5, lambda: reaches(path, 2)):
            raise Failure("the third server is better than the fourth, and not taken")
        path.start_server(0)
        if not context.until(5, lambda: reaches(path, 0)):
            raise Failure("the first server is there, and not taken")
        exchange(*pair[:2])
    return f"served after {took:.1f} s by the fourth"


def reaches(path, place):
    user, origin, found = path.call()
    user.close()
    origin.close()
    return found == place


def replicas(context):
    """Ten servers of one name: each outage is a pause for the users of that server, whatever the nine others say; and when it lasts, new ones go
    elsewhere."""
    with Servers(context, 10, by_name=True) as path:
        pairs = []
        homes = set()
        for _ in range(3):
            user, origin, home = path.call()
            pairs.append((user, origin, home))
            homes.add(home)
            path.cut(*homes)
            context.sleep(2 + FAILOVER)
            user, origin, other = path.call(seconds=2 * FAILOVER)
            if other in homes:
                raise Failure("a new user reached a server that is cut off")
            pairs.append((user, origin, other))
            homes = {other}
            path.cut()
            for user, origin, _ in pairs:
                exchange(user, origin)
        path.cut(*range(10))
        context.sleep(4)
        path.cut()
        for user, origin, _ in pairs:
            exchange(user, origin)
        if "session lost" in path.client.errors:
            raise Failure("a stranger's word ended a session")
    return f"{len(pairs)} connections on {len({place for _, _, place in pairs})} of ten servers"


def addresses_of_one(context):
    """Two addresses of a name lead to one server: after an outage of one of them there is one session, with the same server."""
    with Servers(context, 2, by_name=True, start=False) as path:
        for server in path.servers:
            server.kill()
        path.servers[0] = path.lab.start(
            "both", [binary(), "-server", f"-in=127.0.0.1:{ORIGIN}", f"-out=:{CARRIER}", f"-io={path.driver}", "-control=none",
                     *security_flags("server")], host=path.lab.server)
        path.servers[0].wait_for_port(CARRIER)
        path.start_client()
        user, origin, _ = path.call(at=0)
        path.cut(0, 1)
        context.sleep(FAILOVER + 2)
        path.cut()
        exchange(user, origin)
        path.call(at=0)
        if not context.until(5, lambda: len(sessions(path)) == 1):
            raise Failure(f"two sessions with one server: {sessions(path)}")
        exchange(user, origin)
    return "one session"


def upgraded(context):
    """The client is upgraded while it has connections on three servers, one of which is silent; then the servers are."""
    with Servers(context, 3) as path:
        pairs = [path.call(at=0)]
        path.cut(0)
        context.sleep(FAILOVER + 1)
        pairs.append(path.call(at=1, seconds=FAILOVER))
        path.cut(0, 1)
        context.sleep(FAILOVER + 1)
        pairs.append(path.call(at=2, seconds=FAILOVER))
        path.cut(0)
        copy = shutil.copy(binary(), os.path.join(path.lab.directory, "next"))
        upgrade(path.control, f"-binary={copy}")
        for user, origin, _ in pairs[1:]:
            exchange(user, origin)
        path.call(at=1)
        path.cut()
        exchange(*pairs[0][:2])
        if not context.until(5, lambda: reaches(path, 0)):
            raise Failure("the first server is there again, and not taken")
        for server in path.servers:
            server.signal(signal.SIGUSR2)
        for user, origin, _ in pairs:
            exchange(user, origin)
        if "session lost" in path.client.errors:
            raise Failure(f"a session was lost: {path.client.errors[-500:]}")
    return f"{len(pairs)} connections on three servers kept"


def balancer(context):
    """Two servers behind one address of HAProxy, which takes turns: a resume tries until it has reached its own, and no other's word ends the
    session. With a stick table it gets there at once (docs/guides/failover.md)."""
    lines = []
    for sticky in (False, True):
        with Servers(context, 2, out=f"{SERVER_ADDRESS}:{BALANCER}", flags=["-failover=1h"]) as path:
            config = os.path.join(path.lab.directory, "haproxy.cfg")
            table = "  stick-table type ip size 1m expire 7d\n  stick on src\n" if sticky else ""
            with open(config, "w", encoding="utf-8") as file:
                file.write("defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
                           f"listen tele\n  bind :{BALANCER}\n  balance roundrobin\n{table}"
                           f"  server a 127.0.0.1:{CARRIER}\n  server b 127.0.0.1:{CARRIER + 1}\n")
            proxy = path.lab.start("haproxy", [shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", config], host=path.lab.server)
            proxy.wait_for_port(BALANCER)
            pair = path.call()
            longest = 0.0
            for number in range(6):
                # Now a cut that both sides see, now a silence.
                if number % 2:
                    path.lab.forward(f"tcp dport {BALANCER} drop", f"tcp sport {BALANCER} drop")
                    context.sleep(1.5)
                    path.lab.forward()
                else:
                    path.lab.forward(f"tcp dport {BALANCER} reject with tcp reset")
                    context.sleep(0.3)
                    path.lab.forward()
                began = time.monotonic()
                exchange(*pair[:2])
                longest = max(longest, time.monotonic() - began)
            if "session lost" in path.client.errors:
                raise Failure(f"another server's word ended the session: {path.client.errors[-600:]}")
            # A server that was started anew is believed at once, also here.
            home = pair[2]
            path.servers[home].kill()
            path.start_server(home)
            if ending(pair[0], 10) != "reset":
                raise Failure("its server was started anew, and the connection is not reset")
            lines.append(f"{'with a stick table' if sticky else 'in turns'} {longest:.2f} s")
    return "longest pause " + ", ".join(lines)


def carriers(context):
    """Four carriers to one server: users are spread over them, an outage and lost carriers are pauses, an upgrade keeps them, and a failover makes
    four to the other server."""
    with Servers(context, 2, flags=["-carriers=4"]) as path:
        if not context.until(5, lambda: [session["carrier"] for session in sessions(path)] == ["up"] * 4):
            raise Failure(f"there are not four carriers: {sessions(path)}")
        pairs = [path.call(at=0) for _ in range(8)]
        spread = [session["streams"] for session in sessions(path)]
        if spread != [2, 2, 2, 2]:
            raise Failure(f"8 users are spread {spread}")

        def exchange_all():
            for user, origin, _ in pairs:
                exchange(user, origin, 20_000)
        exchange_all()
        path.lab.forward("drop")
        context.sleep(2)
        path.lab.forward()
        exchange_all()
        # All are closed under the server's hands.
        closed = subprocess.run(["ip", "netns", "exec", path.lab.server.name, "ss", "-HKtn", "sport", f":{path.port(0)}"], capture_output=True, text=True)
        if closed.stdout.count("ESTAB") != 4:
            raise Failure(f"the server's carriers: {closed.stdout}")
        exchange_all()
        copy = shutil.copy(binary(), os.path.join(path.lab.directory, "next"))
        upgrade(path.control, f"-binary={copy}")
        exchange_all()
        if not context.until(5, lambda: len(sessions(path)) == 4):
            raise Failure(f"after an upgrade there are {len(sessions(path))} sessions")
        # Its server is gone: new users go to the other one, which gets four carriers, too.
        path.cut(0)
        context.sleep(FAILOVER + 2)
        late = path.call(at=1, seconds=FAILOVER + 1)
        if not context.until(5, lambda: sum(session["carrier"] == "up" for session in sessions(path)) == 4):
            raise Failure(f"the other server has not four carriers: {sessions(path)}")
        path.cut()
        exchange_all()
        exchange(*late[:2])
        for pair in [*pairs, late]:
            for end in pair[:2]:
                end.close()
        if not context.until(8, lambda: len(sessions(path)) == 4):
            raise Failure(f"sessions that nobody needs stay: {sessions(path)}")
        if "session lost" in path.client.errors:
            raise Failure("a session was lost")
    return "8 users on four carriers, through an outage, lost carriers, an upgrade and a failover"


def forgotten(context):
    """A server that never comes back: what was open there is reset when it would have let it go, as it said (1 s, and a minute of tolerance)."""
    with Servers(context, 2, server_flags=["-hold=1s"]) as path:
        user, _, _ = path.call(at=0)
        path.servers[0].kill()
        context.sleep(0.3)
        path.call(at=1, seconds=FAILOVER + 1)
        began = time.monotonic()
        if ending(user, 75) != "reset" or time.monotonic() - began < 50:
            raise Failure(f"after {time.monotonic() - began:.0f} s: {path.client.errors[-300:]}")
    return f"reset after {time.monotonic() - began:.0f} s"


def certificates(context):
    """Each server must show the name by which the list calls it."""
    folder = secrets()
    with Servers(context, 2, start=False) as path:
        path.lab.client.write_etc("hosts", f"127.0.0.1 localhost\n{SERVER_ADDRESS} tele-server.test other.test\n")

        def flags(role):
            return [f"-cert={folder}/{role}.pem", f"-cert-key={folder}/{role}.key", f"-ca={folder}/ca.pem"]
        for place in range(2):
            path.servers[place].kill()
        path.server_flags = flags("server")
        for place in range(2):
            path.start_server(place)
        # The certificate has the name tele-server.test, and not other.test: the first server is refused, the second one serves.
        path.out, path.flags = f"other.test:{CARRIER},tele-server.test:{CARRIER + 1}", flags("client")
        path.start_client()
        path.call(at=1)
        if "hostname mismatch" not in path.client.errors:
            raise Failure(f"the client does not say what is wrong with the first: {path.client.errors}")
    return "the second of two, by its name"


def cases():
    yield Case("failover.pause", pause, drivers="either", only_tele=True)
    yield Case("failover.killed", killed, drivers="either", only_tele=True)
    yield Case("failover.dead-at-the-start", dead_at_the_start, drivers="either", only_tele=True)
    yield Case("failover.replicas", replicas, drivers="either", only_tele=True)
    yield Case("failover.addresses-of-one", addresses_of_one, drivers="either", only_tele=True)
    yield Case("failover.upgraded", upgraded, drivers="either", only_tele=True)
    yield Case("failover.balancer", balancer, drivers="either", only_tele=True)
    yield Case("failover.carriers", carriers, drivers="either", only_tele=True)
    yield Case("failover.certificates", certificates, only_tele=True, only_plain=True)
    yield Case("failover.forgotten", forgotten, only_tele=True, short=False)
