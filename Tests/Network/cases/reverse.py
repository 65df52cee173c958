"""Reverse mappings: users connect to the tele server, and the origins are beside the tele client."""

import json
import os
import signal
import socket
import subprocess
import time

from ends import NAME, Switchboard, call, exchange, observe, receive_exactly
from lab import SERVER_ADDRESS
from path import binary, security_flags
from process import Failure
from runner import Case

from . import chaos, close
from .mappings import CARRIER, Route
from .upgrade import upgrade

ORIGIN, OTHER = 8201, 8202
WEB, DB, SPARE = 9201, 9202, 9203


class Swapped:
    """The same laboratory seen from users of the server, and origins of clients."""

    def __init__(self, lab):
        self.lab, self.client, self.server = lab, lab.server, lab.client


class Reverse:
    """A server with listeners, and clients with origins, each with a configuration file."""

    def __init__(self, context, listen=None, server=""):
        self.context, self.lab = context, context.lab()
        self.driver = context.job.driver or "auto"
        self.ends = Swapped(self.lab)
        if listen:
            self.write_server(listen, server)
            self.start_server()

    def file(self, name):
        return os.path.join(self.lab.directory, f"{name}.toml")

    def control(self, name):
        return os.path.join(self.lab.directory, f"{name}.sock")

    def write(self, name, role, flags, table, mappings, tables=""):
        lines = "".join(f"{key} = {value if value.startswith('{') else json.dumps(value)}\n" for key, value in mappings.items())
        with open(self.file(name), "w", encoding="utf-8") as file:
            file.write(f'[{role}]\nio = "{self.driver}"\n{flags}\n[{role}.{table}]\n{lines}{tables}')

    def write_server(self, listen, flags="", tables=""):
        self.write("server", "server", f'out = ":{CARRIER}"\n{flags}', "listen", listen, tables)

    def _start(self, name, host, *flags):
        return self.lab.start(name, [binary(), f"-config={self.file(name)}", f"-control={self.control(name)}", *flags], host=host)

    def start_server(self):
        with open(self.file("server"), encoding="utf-8") as file:
            has_key = "key =" in file.read()
        self.server = self._start("server", self.lab.server, *([] if has_key else security_flags("server")))
        self.server.wait_for_port(CARRIER)

    def write_client(self, name, origins, flags=""):
        self.write(name, "client", f'out = "{SERVER_ADDRESS}:{CARRIER}"\n{flags}', "origins", origins)

    def start_client(self, name, origins, flags="", wait=True):
        self.write_client(name, origins, flags)
        process = self._start(name, self.lab.client, *([] if "key =" in flags else security_flags("client")))
        if wait and not self.context.until(10, lambda: "serving users of the server" in process.errors):
            raise Failure(f"{name} serves nobody: {process.errors[-500:]}")
        return process

    def reload(self, process):
        count = process.errors.count("notice reloaded")
        process.signal(signal.SIGHUP)
        if not self.context.until(5, lambda: process.errors.count("notice reloaded") > count):
            raise Failure(f"{process.name} did not reload: {process.errors[-300:]}")

    def call(self, port, switchboard, seconds=10):
        return call(self.ends, Route(port), switchboard, seconds)

    def begin(self, port, switchboard):
        """A user who says its name at once. Returns its end and that name."""
        user, name = self.lab.server.connect(("127.0.0.1", port)), switchboard.name()
        user.sendall(NAME.pack(name))
        return user, name

    def silence(self, seconds):
        self.lab.forward("drop")
        self.context.sleep(seconds)
        self.lab.forward("accept")


def waits(context):
    """Users who come before the client, while it is dead, and while the path is silent wait; a client that is started anew serves them."""
    path = Reverse(context, {"web": f"127.0.0.1:{WEB}"})
    origins = {"web": f"127.0.0.1:{ORIGIN}"}
    with Switchboard(path.ends, ORIGIN) as web:
        early = [path.begin(WEB, web) for _ in range(5)]
        context.sleep(0.5)
        client = path.start_client("client", origins)
        pairs = [(user, web.accepted(name, 10)) for user, name in early]
        for pair in pairs:
            exchange(*pair)
        for _ in range(2):
            path.lab.forward("drop")
            context.sleep(1)
            late = path.begin(WEB, web)
            context.sleep(1)
            path.lab.forward("accept")
            pairs.append((late[0], web.accepted(late[1], 10)))
            for pair in pairs:
                exchange(*pair)
        # The client dies, and its session knows nothing of those who come then.
        client.kill()
        context.sleep(0.5)
        orphans = [path.begin(WEB, web) for _ in range(5)]
        context.sleep(1.5)
        client = path.start_client("client", origins)
        for user, name in orphans + [path.begin(WEB, web)]:
            exchange(user, web.accepted(name, 10))
        # The server is started anew.
        before = path.server.errors.count("listening for users")
        path.server.kill()
        path.start_server()
        # The listener of a server that was killed a moment ago may be seen still.
        if not context.until(5, lambda: path.server.errors.count("listening for users") > before):
            raise Failure("the server is not back")
        user, name = path.begin(WEB, web)
        exchange(user, web.accepted(name, 10))
        # The client ends in order: whoever comes then waits for the next one.
        client.signal(signal.SIGTERM)
        client.wait(15)
        waiting = path.begin(WEB, web)
        context.sleep(0.5)
        path.start_client("client", origins)
        exchange(waiting[0], web.accepted(waiting[1], 10))
    return "users before, between and after clients were served"


def several(context):
    """Two clients with one origin name: the later one serves, and the other one when the later one is silent or gone."""
    path = Reverse(context, {"web": f"127.0.0.1:{WEB}"})
    with Switchboard(path.ends, ORIGIN) as first, Switchboard(path.ends, OTHER) as second:
        path.start_client("one", {"web": f"127.0.0.1:{ORIGIN}"})
        kept = path.call(WEB, first)
        two = path.start_client("two", {"web": f"127.0.0.1:{OTHER}"})
        taken = path.call(WEB, second)
        two.signal(signal.SIGSTOP)
        if not context.until(15, lambda: path.server.errors.count("carrier suspected") > 0 or reaches(path, first)):
            raise Failure("nobody serves while the later client stands still")
        exchange(*path.call(WEB, first))
        two.signal(signal.SIGCONT)
        exchange(*taken)
        if not context.until(10, lambda: reaches(path, second)):
            raise Failure("the later client is back, and does not serve")
        two.signal(signal.SIGTERM)
        two.wait(15)
        exchange(*path.call(WEB, first))
        exchange(*kept)
    return "the later one, the first one, the later one, the first one"


def reaches(path, switchboard):
    """Whether a new user gets to this origin within half a second."""
    user, name = path.begin(WEB, switchboard)
    try:
        switchboard.accepted(name, 0.5).close()
        return True
    except Failure:
        return False
    finally:
        user.close()


def refuse_after(context):
    """Without a client for a while new connections are refused, where that is asked for; before any client came, too."""
    path = Reverse(context, {"web": f"127.0.0.1:{WEB}", "db": f'{{ address = "127.0.0.1:{DB}", refuse-after = "never" }}'}, server='refuse-after = "2s"')

    def refuses():
        user = path.lab.server.socket()
        user.settimeout(0.3)
        try:
            user.connect(("127.0.0.1", WEB))
            user.sendall(b"?")
            return user.recv(1) == b"?"
        except TimeoutError:
            return False
        except ConnectionResetError:
            return True
        finally:
            user.close()
    with Switchboard(path.ends, ORIGIN) as web, Switchboard(path.ends, OTHER) as db:
        waiting = path.begin(DB, db)
        if refuses():
            raise Failure("a connection is refused at once")
        if not context.until(10, refuses):
            raise Failure("no client came for 2 s, and a new connection waits")
        client = path.start_client("client", {"web": f"127.0.0.1:{ORIGIN}", "db": f"127.0.0.1:{OTHER}"})
        pairs = [path.call(WEB, web), (waiting[0], db.accepted(waiting[1], 10))]
        for _ in range(2):
            path.lab.forward("drop")
            if not context.until(15, refuses):
                raise Failure("silence, and a new connection waits")
            waiting = path.begin(DB, db)
            path.lab.forward("accept")
            exchange(waiting[0], db.accepted(waiting[1], 10))
            for pair in pairs:
                exchange(*pair)
            exchange(*path.call(WEB, web))
        client.signal(signal.SIGTERM)
        client.wait(15)
        if not context.until(10, refuses):
            raise Failure("the client has ended, and a new connection waits")
    if "connection refused" not in path.server.errors:
        raise Failure("the log does not say that a connection was refused")
    return "refused without a client and in silence, twice; others waited"


def permissions(context):
    """Which client may serve which listener: the others are told, on both sides; a reload changes it for open connections, too."""
    path = Reverse(context)
    keys = os.path.join(path.lab.directory, "keys")
    with open(os.open(keys, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:
        for name in ("boss", "contractor"):
            own = os.path.join(path.lab.directory, f"{name}.key")
            subprocess.run([binary(), "keygen", f"-out={own}", f"-name={name}"], check=True, capture_output=True)
            with open(own, encoding="utf-8") as key:
                file.write(key.read())
    listen = {"web": f"127.0.0.1:{WEB}", "db": f"127.0.0.1:{DB}"}

    def tables(may):
        return f"[server.clients.contractor]\nlisteners = {json.dumps(may)}\n"
    path.write_server(listen, f'key = "{keys}"', tables(["web"]))
    path.start_server()
    with Switchboard(path.ends, ORIGIN) as boss, Switchboard(path.ends, OTHER) as contractor:
        def own(name):
            return f'key = "{path.lab.directory}/{name}.key"'
        path.start_client("boss", {"web": f"127.0.0.1:{ORIGIN}", "db": f"127.0.0.1:{ORIGIN}"}, own("boss"))
        other = path.start_client("contractor", {"web": f"127.0.0.1:{OTHER}", "db": f"127.0.0.1:{OTHER}", "more": "127.0.0.1:9"}, own("contractor"))
        if not context.until(5, lambda: "it does not allow this client to serve it" in other.errors and "it has no listener of this name" in other.errors):
            raise Failure(f"the contractor is not told: {other.errors[-600:]}")
        def told(words):
            return path.context.until(5, lambda: any(words in line and "name=contractor" in line for line in path.server.errors.splitlines()))
        if not told("client may not serve a reverse mapping"):
            raise Failure("the server's log does not say whom it refused")
        # It serves when the server has heard of its WELCOME.
        if not told("client serves a reverse mapping"):
            raise Failure("the server's log does not say that the contractor serves")
        web, db = path.call(WEB, contractor), path.call(DB, boss)
        exchange(*web)
        exchange(*db)
        path.write_server(listen, f'key = "{keys}"', tables(["db"]))
        path.reload(path.server)
        _, seen = observe(web[0], time.monotonic() + 5)
        if seen != "reset":
            raise Failure(f"a connection goes on that the contractor may not serve any more: {seen}")
        exchange(*path.call(WEB, boss))
        exchange(*path.call(DB, contractor))
        exchange(*db)
    return "4 kinds of connections, before and after a reload"


def reload(context):
    """Reverse mappings are added, changed and removed by SIGHUP on either side, beside a connection that goes on."""
    path = Reverse(context, {"web": f"127.0.0.1:{WEB}", "db": f"127.0.0.1:{DB}"})
    with Switchboard(path.ends, ORIGIN) as web, Switchboard(path.ends, OTHER) as db:
        client = path.start_client("client", {"web": f"127.0.0.1:{ORIGIN}"})
        kept = path.call(WEB, web)
        waiting = path.begin(DB, db)
        path.write_client("client", {"web": f"127.0.0.1:{ORIGIN}", "db": f"127.0.0.1:{OTHER}"})
        path.reload(client)
        exchange(waiting[0], db.accepted(waiting[1], 10))
        # The server moves a listener, and gets another.
        path.write_server({"web": f"127.0.0.1:{WEB}", "db": f"127.0.0.1:{SPARE}", "more": f"127.0.0.1:{DB}"})
        path.reload(path.server)
        if not context.until(5, lambda: connects(path, SPARE)):
            raise Failure("the moved listener is not there")
        exchange(*path.call(SPARE, db))
        waiting = path.begin(DB, web)
        path.write_client("client", {"web": f"127.0.0.1:{OTHER}", "more": f"127.0.0.1:{ORIGIN}"})
        path.reload(client)
        exchange(waiting[0], web.accepted(waiting[1], 10))
        exchange(*path.call(WEB, db))
        path.write_server({"web": f"127.0.0.1:{WEB}"})
        path.reload(path.server)
        if not context.until(5, lambda: not connects(path, SPARE)):
            raise Failure("a removed listener still listens")
        exchange(*kept)
    return "added, changed, removed on both sides"


def connects(path, port):
    try:
        path.lab.server.connect(("127.0.0.1", port)).close()
        return True
    except ConnectionRefusedError:
        return False


def upgrades(context):
    """Both sides are taken over again and again, with open connections, users that wait, and an origin that is being dialled."""
    path = Reverse(context, {"web": f"127.0.0.1:{WEB}"})
    with Switchboard(path.ends, ORIGIN) as web:
        client = path.start_client("client", {"web": f"127.0.0.1:{ORIGIN}"})
        pairs = [path.call(WEB, web) for _ in range(10)]
        half = path.call(WEB, web)
        half[0].sendall(b"question")
        half[0].shutdown(socket.SHUT_WR)
        for _ in range(3):
            for name in ("server", "client"):
                waiting = path.begin(WEB, web)
                upgrade(path.control(name))
                pairs.append((waiting[0], web.accepted(waiting[1], 10)))
                for pair in pairs:
                    exchange(*pair)
            path.lab.forward("drop")
            context.sleep(1)
            waiting = path.begin(WEB, web)
            upgrade(path.control("server"))
            upgrade(path.control("client"))
            path.lab.forward("accept")
            pairs.append((waiting[0], web.accepted(waiting[1], 10)))
            for pair in pairs:
                exchange(*pair)
        if receive_exactly(half[1], 8) != b"question" or half[1].recv(1) != b"":
            raise Failure("the question or its end was lost")
        half[1].sendall(b"answer")
        half[1].close()
        half[0].settimeout(10)
        if receive_exactly(half[0], 6) != b"answer" or half[0].recv(1) != b"":
            raise Failure("the answer or its end was lost")
        if client.errors.count("notice upgraded ") != 6:
            raise Failure("the client was not upgraded six times")
        # Drained, each ends when the last connection has.
        for process in (client, path.server):
            process.signal(signal.SIGTERM)
        context.sleep(0.3)
        for user, origin in pairs:
            exchange(user, origin)
            user.shutdown(socket.SHUT_WR)
            origin.settimeout(10)
            if origin.recv(1) != b"":
                raise Failure("bytes that nobody sent")
            origin.close()
            user.settimeout(10)
            if user.recv(1) != b"":
                raise Failure("bytes that nobody sent")
        for process in (client, path.server):
            if process.wait(15) != 0:
                raise Failure(f"{process.name} did not end in order")
    return f"{len(pairs) + 1} connections through 12 upgrades, then drained"


def unix(context):
    """Unix sockets on both sides, and the PROXY header, as forward."""
    path = Reverse(context)
    folder = path.lab.directory
    path.write_server({"web": f'{{ address = "unix:{folder}/web", mode = "0666" }}', "db": f'{{ address = "127.0.0.1:{DB}", proxy-protocol = true }}'})
    path.start_server()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/origin")
    listener.listen()
    listener.settimeout(10)
    with Switchboard(path.ends, OTHER) as _, path.lab.client.listen(ORIGIN) as plain:
        path.start_client("client", {"web": f"unix:{folder}/origin", "db": f"127.0.0.1:{ORIGIN}"})
        if os.stat(f"{folder}/web").st_mode & 0o777 != 0o666:
            raise Failure("the socket has another mode")
        user = socket.socket(socket.AF_UNIX)
        user.connect(f"{folder}/web")
        origin, _ = listener.accept()
        exchange(user, origin, 100_000)
        path.silence(2)
        exchange(user, origin, 100_000)
        user.shutdown(socket.SHUT_WR)
        if origin.recv(1) != b"":
            raise Failure("bytes behind the end")
        origin.sendall(b"x" * 1000)
        origin.close()
        if receive_exactly(user, 1000) != b"x" * 1000 or user.recv(1) != b"":
            raise Failure("the answer behind the end was lost")
        caller = path.lab.server.connect(("127.0.0.1", DB))
        caller.sendall(b"hello")
        plain.settimeout(10)
        end, _ = plain.accept()
        head = receive_exactly(end, 28 + 5)
        port = caller.getsockname()[1]
        if not head.startswith(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + socket.inet_aton("127.0.0.1") * 2 + port.to_bytes(2, "big")) or head[28:] != b"hello":
            raise Failure(f"the origin heard {head!r}")
    return "unix sockets, modes, the user's address"


def cases():
    yield Case("reverse.waits", waits, drivers="either", only_tele=True)
    yield Case("reverse.several", several, drivers="either", only_tele=True)
    yield Case("reverse.refuse-after", refuse_after, drivers="either", only_tele=True)
    yield Case("reverse.permissions", permissions, drivers="either", only_tele=True, only_plain=True)
    yield Case("reverse.reload", reload, drivers="either", only_tele=True)
    yield Case("reverse.upgrades", upgrades, drivers="either", only_tele=True)
    yield Case("reverse.unix", unix, drivers="either", only_tele=True)
    for fault in ("blackhole", "reset"):
        yield Case(f"reverse.close.{fault}", close.matrix(fault), path="reverse", drivers="either")
    yield Case("reverse.refused", close.refused, path="reverse", drivers="either")
    yield Case("reverse.chaos", chaos.chaos, path="reverse", weight=2, drivers="long", short=False)
