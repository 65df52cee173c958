"""Listeners at which the user's program says where it wants to go: SOCKS5, CONNECT of HTTP, and redirected connections."""

import base64
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time

import programs
from ends import NAME, Switchboard, exchange, observe
from lab import CLIENT_NETWORK, SERVER_ADDRESS
from path import HERE, binary, late, make_authority, make_certificate, secrets
from process import Failure
from runner import Case

from cases.mappings import Files
from cases.upgrade import upgrade

ORIGIN = 8111
SOCKS, HTTP, TRANSPARENT, SPARE = 9111, 9112, 9113, 9114
LISTEN = {
    "socks": f'{{ address = "127.0.0.1:{SOCKS}", kind = "socks5" }}',
    "http": f'{{ address = "127.0.0.1:{HTTP}", kind = "http-connect" }}',
    "all": f'{{ address = ":{TRANSPARENT}", kind = "transparent" }}',
}
#: What the server's own configuration allows, unless a case says otherwise.
ALLOWED = f'destinations = ["127.0.0.0/8:{ORIGIN}", "{SERVER_ADDRESS}:{ORIGIN}", "*:81"]'


def files(context, lab, allowed=ALLOWED):
    return Files(context, lab, LISTEN, {}, server=allowed)


def receive(end, count):
    data = b""
    while len(data) < count:
        part = end.recv(count - len(data))
        if not part:
            raise ConnectionResetError("closed")
        data += part
    return data


def socks(lab, host, port=ORIGIN, hurried=False, listener=SOCKS):
    """A connection by SOCKS5. `hurried`: everything in one write, before any answer."""
    end = lab.client.connect(("127.0.0.1", listener))
    end.settimeout(10)
    try:
        place = b"\1" + socket.inet_aton(host)
    except OSError:
        place = b"\4" + socket.inet_pton(socket.AF_INET6, host) if ":" in host else b"\3" + bytes([len(host)]) + host.encode()
    request = b"\5\1\0" + place + struct.pack(">H", port)
    if hurried:
        end.sendall(b"\5\1\0" + request)
    else:
        end.sendall(b"\5\1\0")
    if receive(end, 2) != b"\5\0":
        raise Failure("SOCKS5 wants a password")
    if not hurried:
        end.sendall(request)
    answer = receive(end, 10)
    if answer[:2] != b"\5\0":
        raise Failure(f"SOCKS5 answered {answer[1]}")
    return end


def connect(lab, host, port=ORIGIN):
    """A connection by CONNECT of HTTP."""
    end = lab.client.connect(("127.0.0.1", HTTP))
    end.settimeout(10)
    end.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += receive(end, 1)
    if not head.startswith(b"HTTP/1.1 200 "):
        raise Failure(f"CONNECT was answered {head!r}")
    return end


def seen(end, seconds):
    """What becomes of a connection, without its bytes."""
    return observe(end, time.monotonic() + seconds)[1]


def outcome(lab, port):
    """What becomes of a connection to a mapping that may be refused: the reset may be here before connect returns."""
    try:
        return seen(lab.client.connect(("127.0.0.1", port)), 5)
    except ConnectionResetError:
        return "reset"


def call(end, switchboard):
    """The origin's end of the user's."""
    name = switchboard.name()
    end.sendall(NAME.pack(name))
    return switchboard.accepted(name, 10)


def requests(context):
    """SOCKS5 by name, by addresses and in a hurry, and CONNECT: bytes and ends as on a mapping, through silence and an upgrade."""
    lab = context.lab()
    path = files(context, lab)
    with Switchboard(lab, ORIGIN) as switchboard:
        ends = [socks(lab, "127.0.0.1"), socks(lab, "localhost"), socks(lab, "127.0.0.1", hurried=True), socks(lab, SERVER_ADDRESS),
                connect(lab, "127.0.0.1"), connect(lab, "LOCALHOST.")]
        pairs = [(end, call(end, switchboard)) for end in ends]
        for user, origin in pairs:
            exchange(user, origin, 100_000)
        lab.forward("drop")
        context.sleep(2)
        late = socks(lab, "127.0.0.1")      # Answered at once; its bytes wait.
        lab.forward("accept")
        pairs.append((late, call(late, switchboard)))
        for user, origin in pairs:
            exchange(user, origin, 100_000)
        for role in ("client", "server"):
            upgrade(path.control(role))
        for user, origin in pairs:
            exchange(user, origin, 100_000)
            user.shutdown(socket.SHUT_WR)
            if origin.recv(1) != b"":
                raise Failure("the origin heard something behind the user's end")
            origin.sendall(b"answer")
            origin.close()
            if receive(user, 6) != b"answer" or user.recv(1) != b"":
                raise Failure("the answer behind the user's end was lost")
    return f"{len(pairs)} connections"


def passwords(context):
    """Listeners that ask for a user and a password, by SOCKS5 and by HTTP; the file is read again by SIGHUP."""
    lab = context.lab()
    file = os.path.join(lab.directory, "users")

    def write(text):
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as opened:
            opened.write(text)
    write("ann:secret\n")
    listen = {name: value.replace(" }", f', passwords = "{file}" }}') for name, value in LISTEN.items() if name != "all"}
    path = Files(context, lab, listen, {}, server=ALLOWED)

    def login(user, password, kind):
        """What the program is told before the connection begins; and its end."""
        end = lab.client.connect(("127.0.0.1", SOCKS if kind == "socks" else HTTP))
        end.settimeout(5)
        if kind == "http":
            basic = base64.b64encode(f"{user}:{password}".encode()).decode()
            end.sendall(f"CONNECT 127.0.0.1:{ORIGIN} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic {basic}\r\n\r\n".encode())
            return receive(end, 12)[9:] == b"200", end
        end.sendall(b"\5\1\2")
        if receive(end, 2) != b"\5\2":
            raise Failure("SOCKS5 does not ask for a password")
        end.sendall(bytes([1, len(user)]) + user.encode() + bytes([len(password)]) + password.encode())
        return receive(end, 2) == b"\1\0", end

    def check(user, password, is_right):
        for kind in ("socks", "http"):
            if login(user, password, kind)[0] != is_right:
                raise Failure(f"{user}:{password} by {kind}: expected {is_right}")
    check("ann", "secret", True)
    check("ann", "wrong", False)
    check("bob", "secret", False)
    with Switchboard(lab, ORIGIN) as switchboard:
        _, user = login("ann", "secret", "socks")
        user.sendall(b"\5\1\0\1" + socket.inet_aton("127.0.0.1") + struct.pack(">H", ORIGIN))
        if receive(user, 10)[:2] != b"\5\0":
            raise Failure("SOCKS5 refuses whom it has let in")
        origin = call(user, switchboard)
        exchange(user, origin)
        write("bob:secret\n")
        path.client.signal(signal.SIGHUP)
        if not context.until(5, lambda: "notice reloaded" in path.client.errors):
            raise Failure("the client did not reload")
        check("ann", "secret", False)
        check("bob", "secret", True)
        exchange(user, origin)
        # A file that others can read changes nothing.
        os.chmod(file, 0o644)
        path.client.signal(signal.SIGHUP)
        if not context.until(5, lambda: "reload failed" in path.client.errors):
            raise Failure("a password file that others can read was read")
        check("bob", "secret", True)
    if "its user and password are not among those of the file" not in path.client.errors:
        raise Failure("the log does not say why a program was refused")
    return "by SOCKS5 and HTTP, before and after a reload"


def dead_names(context):
    """One client's programs ask for hundreds of names that no name server answers for: an origin that is named meanwhile is found."""
    lab = context.lab()
    lab.server.write_etc("resolv.conf", f"nameserver {CLIENT_NETWORK}.2\n")
    lab.server.write_etc("hosts", "127.0.0.1 localhost late.corp\n")
    lab.forward("udp dport 53 drop")
    path = Files(context, lab, {**LISTEN, "late": "127.0.0.1:9114"}, {"other": "127.0.0.1:9"}, server='destinations = ["*:*"]')
    with Switchboard(lab, ORIGIN) as switchboard:
        ends = [socks(lab, f"host-{number}.example.com", 80, hurried=True) for number in range(400)]
        context.sleep(1)
        path.write("server", 'out = ":40300"\ndestinations = ["*:*"]', "origins", {"other": "127.0.0.1:9", "late": f"late.corp:{ORIGIN}"})
        path.server.signal(signal.SIGHUP)
        if not context.until(5, lambda: "notice reloaded" in path.server.errors):
            raise Failure("the server did not reload")
        began = time.monotonic()
        user = lab.client.connect(("127.0.0.1", 9114))
        exchange(user, call(user, switchboard))
        took = time.monotonic() - began
        if took > 2:
            raise Failure(f"an origin was found after {took:.1f} s")
        for end in ends:
            end.close()
    return f"found after {took * 1000:.0f} ms beside {len(ends)} names without an answer"


def transparent(context):
    """A rule of the packet filter leads what goes to the origin's own address into tele: the program knows of nothing."""
    lab = context.lab()
    files(context, lab)
    rules = (f"add table ip tele\nadd chain ip tele out {{ type nat hook output priority -100; }}\n"
             f"add rule ip tele out ip daddr 127.5.5.5 tcp dport {ORIGIN} redirect to :{TRANSPARENT}\n")
    run = subprocess.run(["ip", "netns", "exec", lab.client.name, "nft", "-f", "-"], input=rules, text=True, capture_output=True)
    if run.returncode:
        raise Failure(f"nft: {run.stderr.strip()}")
    with Switchboard(lab, ORIGIN) as switchboard:
        for _ in range(2):
            user = lab.client.connect(("127.5.5.5", ORIGIN))
            origin = call(user, switchboard)
            exchange(user, origin, 100_000)
            lab.forward("drop")
            context.sleep(1.5)
            lab.forward("accept")
            exchange(user, origin)
    # Whoever connects to the listener itself has no other destination: it would lead to itself.
    if outcome(lab, TRANSPARENT) != "reset":
        raise Failure("a connection that nothing redirected was not reset")
    return "twice, through silence"


def transparent_ways(context):
    """IPv6, and connections of another host that this one passes on (prerouting), as a gateway does for its network."""
    lab = context.lab()
    for host in (lab.client, lab.server):
        host.sysctl("net.ipv6.conf.all.disable_ipv6", 0)
    subprocess.run(["ip", "-n", lab.client.name, "address", "add", "fd00:5::1/128", "dev", "lo"], check=True)
    subprocess.run(["ip", "-n", lab.server.name, "address", "add", "fd00:5::9/128", "dev", "lo"], check=True)
    subprocess.run(["ip", "-n", lab.client.name, "-6", "route", "add", "fd00:5::9/128", "dev", "lo"], check=True)
    subprocess.run(["ip", "-n", lab.server.name, "address", "add", "10.99.0.1/32", "dev", "lo"], check=True)
    lab.client.sysctl("net.ipv4.ip_forward", 1)
    # The router is a host of the client's network that knows the way to 10.99.0.1 only by the client.
    subprocess.run(["ip", "-n", lab.router.name, "route", "add", "10.99.0.1/32", "via", f"{CLIENT_NETWORK}.{lab.host_octet}"], check=True)
    Files(context, lab, {"all": f'{{ address = ":{TRANSPARENT}", kind = "transparent" }}'}, {},
          server=f'destinations = ["[fd00:5::]/32:{ORIGIN}", "10.99.0.0/16:{ORIGIN}"]')
    rules = (f"add table inet tele\nadd chain inet tele out {{ type nat hook output priority -100; }}\n"
             f"add rule inet tele out ip6 daddr fd00:5::9 tcp dport {ORIGIN} redirect to :{TRANSPARENT}\n"
             f"add chain inet tele in {{ type nat hook prerouting priority -100; }}\n"
             f"add rule inet tele in ip daddr 10.99.0.1 tcp dport {ORIGIN} redirect to :{TRANSPARENT}\n")
    run = subprocess.run(["ip", "netns", "exec", lab.client.name, "nft", "-f", "-"], input=rules, text=True, capture_output=True)
    if run.returncode:
        raise Failure(f"nft: {run.stderr.strip()}")
    notes = []
    for family, host, target in ((socket.AF_INET6, lab.client, "fd00:5::9"), (socket.AF_INET, lab.router, "10.99.0.1")):
        listener = lab.server.maker.submit(socket.create_server, (target, ORIGIN), family=family).result()
        listener.settimeout(10)
        user = host.maker.submit(socket.socket, family, socket.SOCK_STREAM).result()
        user.settimeout(10)
        user.connect((target, ORIGIN))
        user.sendall(b"question")
        origin = listener.accept()[0]
        exchange_after(origin, user, context, lab)
        notes.append("IPv6" if family == socket.AF_INET6 else "prerouting")
        listener.close()
    return ", ".join(notes)


def exchange_after(origin, user, context, lab):
    origin.settimeout(10)
    if receive(origin, 8) != b"question":
        raise Failure("other bytes")
    exchange(user, origin, 100_000)
    lab.forward("drop")
    context.sleep(1.5)
    lab.forward("accept")
    exchange(user, origin)


def forbidden(context):
    """What no rule allows is reset, says why in both logs, and concerns nobody else."""
    lab = context.lab()
    names = "".join(f"{address} {name}\n" for address, name in (
        ("127.0.0.1", "inside.example.com"), ("169.254.169.254", "metadata.example.com"), ("10.1.2.3", "private.example.com")))
    lab.server.write_etc("hosts", f"127.0.0.1 localhost\n{names}")
    path = files(context, lab)
    with Switchboard(lab, ORIGIN) as switchboard:
        user = socks(lab, "127.0.0.1")
        origin = call(user, switchboard)
        for host, port in (("127.0.0.1", 22), ("localhost", 22), ("::1", ORIGIN), ("::ffff:127.0.0.1", 22), ("10.0.0.1", ORIGIN), ("0.0.0.0", ORIGIN),
                           ("inside.example.com", 81), ("metadata.example.com", 81), ("private.example.com", 81), ("localhost", 81)):
            end = socks(lab, host, port)
            if seen(end, 5) != "reset":
                raise Failure(f"{host}:{port} was not reset")
            exchange(user, origin)
        for text in (b"127.1", b"2130706433", b"0x7f.1", b"0177.0.0.1", b"[127.0.0.1]", b"a b"):
            end = lab.client.connect(("127.0.0.1", SOCKS))
            end.settimeout(5)
            end.sendall(b"\5\1\0\5\1\0\3" + bytes([len(text)]) + text + struct.pack(">H", ORIGIN))
            if receive(end, 12)[2:4] != b"\5\1" or end.recv(1) != b"":
                raise Failure(f"{text!r} was not refused")
        exchange(user, origin)
        if not context.until(3, lambda: "the server does not let this client go there" in path.client.errors):
            raise Failure("the client's log does not say why")
        if "destination not allowed" not in path.server.errors:
            raise Failure("the server's log does not say what was asked for")
        # Without a rule there is no destination at all.
        path.write("server", 'out = ":40300"', "origins", {"other": "127.0.0.1:9"})
        path.server.signal(signal.SIGHUP)
        if not context.until(5, lambda: "notice reloaded" in path.server.errors):
            raise Failure("the server did not reload")
        for end in (user, socks(lab, "127.0.0.1")):
            if seen(end, 5) != "reset":
                raise Failure("a destination is reached that the configuration no longer allows")
    return "16 requests"


class Clients:
    """A server with keys for several clients, each with one."""

    def __init__(self, context, lab, server):
        self.lab, self.context = lab, context
        self.keys = {name: os.path.join(lab.directory, f"{name}.key") for name in ("boss", "contractor", "guest")}
        for name, path in self.keys.items():
            subprocess.run([binary(), "keygen", f"-out={path}", f"-name={name}"], check=True, capture_output=True)
        self.all = os.path.join(lab.directory, "keys")
        with open(os.open(self.all, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:
            for path in self.keys.values():
                with open(path, encoding="utf-8") as key:
                    file.write(key.read())
        self.file = os.path.join(lab.directory, "server.toml")
        self.write(server)
        self.server = lab.start("tele-server", [binary(), f"-config={self.file}", "-control=none"], host=lab.server)
        self.server.wait_for_port(40300)
        self.logs = {name: self.start(name, 9200 + 10 * place) for place, name in enumerate(self.keys)}

    def write(self, text):
        origins = f'[server.origins]\nweb = "127.0.0.1:{ORIGIN}"\ndb = "127.0.0.1:{ORIGIN}"\n'
        with open(self.file, "w", encoding="utf-8") as file:
            file.write(f'[server]\nio = "{self.context.job.driver or "auto"}"\nout = ":40300"\nkey = "{self.all}"\n{text[0]}\n{origins}{text[1]}')

    def reload(self, text):
        count = self.server.errors.count("notice reloaded")
        self.write(text)
        self.server.signal(signal.SIGHUP)
        if not self.context.until(5, lambda: self.server.errors.count("notice reloaded") > count):
            raise Failure("the server did not reload")

    def start(self, name, port):
        file = os.path.join(self.lab.directory, f"{name}.toml")
        with open(file, "w", encoding="utf-8") as text:
            text.write(f'[client]\nout = "{SERVER_ADDRESS}:40300"\nkey = "{self.keys[name]}"\n[client.listen]\nweb = "127.0.0.1:{port}"\n'
                       f'db = "127.0.0.1:{port + 1}"\nany = {{ address = "127.0.0.1:{port + 2}", kind = "socks5" }}\n')
        client = self.lab.start(name, [binary(), f"-config={file}", "-control=none"], host=self.lab.client)
        if not self.context.until(10, lambda: "carrier up" in client.errors):
            raise Failure(f"{name} has no carrier: {client.errors}")
        return client

    def open(self, name, what, switchboard):
        """Both ends of a connection. Nil: the user was reset."""
        port = 9200 + 10 * list(self.keys).index(name) + ["web", "db", "any"].index(what)
        try:
            end = socks(self.lab, "127.0.0.1", listener=port) if what == "any" else self.lab.client.connect(("127.0.0.1", port))
            name = switchboard.name()
            end.sendall(NAME.pack(name))
            end.settimeout(0.5)
            try:
                if end.recv(1) == b"":
                    raise Failure("a connection that is not allowed ended as if all were well")
            except TimeoutError:
                return end, switchboard.accepted(name, 5)
        except ConnectionResetError:
            pass
        return None


def clients(context):
    """What each key may do: mappings and destinations, for all, for one, and for those of whom nothing is said; changed by a reload."""
    lab = context.lab()
    some = (f'destinations = ["127.0.0.1:{ORIGIN}"]', '[server.clients.contractor]\nmappings = ["web"]\ndestinations = []\n'
            '[server.clients.stranger]\nmappings = []\n')
    with Switchboard(lab, ORIGIN) as switchboard:
        keys = Clients(context, lab, some)

        def check(**wanted):
            for name, may in wanted.items():
                for what in ("web", "db", "any"):
                    pair = keys.open(name, what, switchboard)
                    if (pair is not None) != (what in may):
                        raise Failure(f"{name} {'may' if pair else 'may not'} use {what}")
                    if pair:
                        exchange(*pair)
        check(boss=("web", "db", "any"), contractor=("web",), guest=("web", "db", "any"))
        if "name=stranger" not in keys.server.errors:
            raise Failure("a table that belongs to no key was not told")
        if not context.until(3, lambda: "the server does not let this client go there" in keys.logs["contractor"].errors):
            raise Failure("the contractor's log does not say why")
        kept, lost = keys.open("boss", "db", switchboard), keys.open("guest", "db", switchboard)
        gone = keys.open("guest", "any", switchboard)
        keys.reload(("", f'[server.clients.boss]\n[server.clients."*"]\nmappings = ["web"]\n[server.clients.contractor]\n'
                         f'destinations = ["127.0.0.1:{ORIGIN}"]\n'))
        for user, _ in (lost, gone):
            if seen(user, 5) != "reset":
                raise Failure("an open connection went on that is not allowed any more")
        exchange(*kept)
        check(boss=("web", "db"), contractor=("web", "db", "any"), guest=("web",))
        # How many: of all clients with this key.
        keys.reload(("", '[server.clients.boss]\nstreams = 2\n'))
        second = keys.open("boss", "db", switchboard)
        exchange(*kept)
        exchange(*second)
        if keys.open("boss", "web", switchboard):
            raise Failure("a third connection, where two are allowed")
        exchange(*keys.open("guest", "web", switchboard))
        second[0].close()
        second[1].close()
        if not context.until(5, lambda: keys.open("boss", "web", switchboard)):
            raise Failure("a second connection is refused when the other one has ended")
        if "client has too many streams" not in keys.server.errors:
            raise Failure("the server's log does not say why")
    return "18 kinds of connections, 3 open ones, 2 at a time"


def clients_by_certificate(context):
    """The name in a client's certificate has the permissions of its table, also after a reload."""
    folder = secrets()
    lab = context.lab()

    def flags(role):
        return f'cert = "{folder}/{role}.pem"\ncert-key = "{folder}/{role}.key"\nca = "{folder}/ca.pem"\n'
    origins = {"web": f"127.0.0.1:{ORIGIN}", "db": f"127.0.0.1:{ORIGIN}"}
    path = Files(context, lab, {"web": "127.0.0.1:9201", "db": "127.0.0.1:9202"}, origins, client=flags("client"), server=flags("server"))

    def opens(port, switchboard):
        try:
            end = lab.client.connect(("127.0.0.1", port))
            call(end, switchboard)
            return True
        except (Failure, ConnectionResetError):
            return False
    with Switchboard(lab, ORIGIN) as switchboard:
        if not opens(9201, switchboard) or not opens(9202, switchboard):
            raise Failure("without a table something is refused")
        head = f'out = ":40300"\n{flags("server")}'
        path.write("server", head, "origins", {**origins})
        with open(f"{lab.directory}/server.toml", "a", encoding="utf-8") as file:
            file.write('[server.clients.tele-client]\nmappings = ["web"]\n')
        count = path.server.errors.count("notice reloaded")
        path.server.signal(signal.SIGHUP)
        if not context.until(5, lambda: path.server.errors.count("notice reloaded") > count):
            raise Failure("the server did not reload")
        if outcome(lab, 9202) != "reset" or not opens(9201, switchboard):
            raise Failure("the table of the certificate's name does not hold")
        if "client=tele-client" not in path.server.errors and "name=tele-client" not in path.server.errors:
            raise Failure(f"the log does not name the client: {path.server.errors[-400:]}")
    return "one mapping of two, by the certificate's name"


def redis_cluster(context):
    """Three masters that tell their clients names of their own (MOVED redis-2.corp:7002): an unchanged client reaches each by its name, with
    the lines of `tele hosts`, through silence."""
    lab = context.lab()
    ports = (7001, 7002, 7003)
    lab.server.write_etc("hosts", "127.0.0.1 localhost\n" + "".join(f"127.0.0.1 redis-{port % 10}.corp\n" for port in ports))
    for port in ports:
        folder = os.path.join(lab.directory, str(port))
        os.mkdir(folder)
        node = lab.start(f"redis-{port}", [
            context.options.programs["redis-server"], "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder,
            "--cluster-enabled", "yes", "--cluster-announce-hostname", f"redis-{port % 10}.corp", "--cluster-preferred-endpoint-type", "hostname"],
            host=lab.server)
        node.wait_for_port(port)
    cli = context.options.programs["redis-cli"]

    def run(host, *command):
        return subprocess.run(["ip", "netns", "exec", host.name, *command], capture_output=True, text=True, timeout=60)
    made = run(lab.server, cli, "--cluster", "create", *[f"127.0.0.1:{port}" for port in ports], "--cluster-yes")
    if "All 16384 slots covered" not in made.stdout:
        raise Failure(f"no cluster: {made.stdout[-300:]}")
    names = ", ".join(f'"redis-{port % 10}.corp:{port}"' for port in ports)
    path = Files(context, lab, {"redis": f"{{ names = [{names}] }}"}, {}, server='destinations = ["127.0.0.0/8:7001-7003"]')
    config = os.path.join(lab.directory, "client.toml")
    lines = run(lab.client, binary(), "hosts", f"-config={config}").stdout
    if run(lab.client, binary(), "hosts", f"-config={config}", "-check").returncode != 1:
        raise Failure("tele hosts -check finds names that nobody resolves")
    lab.client.write_etc("hosts", f"127.0.0.1 localhost\n{lines}")
    check = run(lab.client, binary(), "hosts", f"-config={config}", "-check")
    if check.returncode:
        raise Failure(f"tele hosts -check: {check.stdout}{check.stderr}")
    count = 150
    user = lab.start("redis-cli", ["bash", "-c", f"for ((i = 0; i < {count}; i++)); do echo SET key$i $i; sleep 0.03; done | "
                                   f"{cli} -c -h redis-1.corp -p 7001"], host=lab.client)
    context.sleep(1)
    lab.forward("drop")
    context.sleep(10 if context.options.long else 3)
    lab.forward("accept")
    user.wait(60)
    done = sum(line.endswith("OK") for line in user.output.splitlines())
    kept = [int(run(lab.server, cli, "-p", str(port), "DBSIZE").stdout) for port in ports]
    if done != count or sum(kept) != count or not all(kept):
        raise Failure(f"{done} of {count} were acknowledged, the masters have {kept}: {user.output[-200:]} {user.errors[-200:]}")
    if "session lost" in path.client.errors:
        raise Failure("the session was lost")
    return f"{count} keys on masters with {kept}"


def kafka_by_name(context):
    """A broker that tells its clients a name of its own, and is told nothing of tele: every message arrives once, through silence."""
    count = 6000
    lab = context.lab()
    lab.server.write_etc("hosts", "127.0.0.1 localhost\n127.0.0.1 kafka-1.corp\n")
    tansu = context.options.programs["tansu"]
    broker = lab.start("broker", [
        tansu, "broker", "--listener-url", "tcp://0.0.0.0:9092", "--advertised-listener-url", "tcp://kafka-1.corp:9092", "--storage-engine",
        "memory://tansu/"], host=lab.server, environment={"RUST_LOG": "error"})
    broker.wait_for_port(9092)
    subprocess.run(["ip", "netns", "exec", lab.server.name, tansu, "topic", "create", "--broker", "tcp://127.0.0.1:9092", "--partitions", "1", "numbers"],
                   check=True, capture_output=True, timeout=30)
    path = Files(context, lab, {"kafka": '{ names = ["kafka-1.corp:9092"] }'}, {}, server='destinations = ["127.0.0.0/8:9092"]')
    config = os.path.join(lab.directory, "client.toml")
    lines = subprocess.run([binary(), "hosts", f"-config={config}"], capture_output=True, text=True, check=True).stdout
    lab.client.write_etc("hosts", f"127.0.0.1 localhost\n{lines}")
    user = lab.start("kafka-client", [
        os.path.join(context.options.venv, "bin", "python"), os.path.join(HERE, "workers", "kafka_client.py"), "kafka-1.corp:9092", "numbers", str(count),
        "1500"], host=lab.client)
    context.sleep(1.5)
    lab.forward("drop")
    context.sleep(10 if context.options.long else 3)
    lab.forward("accept")
    user.wait(90)
    report = json.loads(user.output.splitlines()[-1])
    if report["wrong"] or report["disconnects"] or report["consumed"] != count or report["delivered"] != count:
        raise Failure(f"{report}")
    if "session lost" in path.client.errors:
        raise Failure("the session was lost")
    return f"{count} messages in order"


def kafka_of_three(context):
    """A cluster of three brokers, each of which leads its clients to the others: every message of six partitions arrives once and in order, through
    silence."""
    count = 6000
    lab = context.lab()
    python = os.path.join(context.options.venv, "bin", "python")
    cluster = lab.start("cluster", [python, os.path.join(HERE, "workers", "kafka_mock.py"), "3", "numbers"], host=lab.server)
    if not context.until(15, lambda: cluster.output.count("\n") == 1):
        raise Failure(f"the cluster did not start: {cluster.errors[-300:]}")
    ports = cluster.output.split()
    path = Files(context, lab, {f"kafka-{port}": f"127.0.0.1:{port}" for port in ports}, {f"kafka-{port}": f"127.0.0.1:{port}" for port in ports})
    user = lab.start("kafka-client", [
        python, os.path.join(HERE, "workers", "kafka_client.py"), f"127.0.0.1:{ports[0]}", "numbers", str(count), "1500", "4"], host=lab.client)
    context.sleep(1.5)
    lab.forward("drop")
    context.sleep(10 if context.options.long else 3)
    lab.forward("accept")
    user.wait(90)
    report = json.loads(user.output.splitlines()[-1])
    if report["wrong"] or report["disconnects"] or report["consumed"] != count or report["delivered"] != count:
        raise Failure(f"{report}")
    used = [row for row in path.status("client")["mappingTraffic"] if row["readBytes"] > 10_000]
    if len(used) < 2:
        raise Failure(f"the messages did not go to several brokers: {used}")
    return f"{count} messages by {len(used)} of three brokers"


def ftp(context):
    """Passive FTP through SOCKS5: the data connection goes to a port that the server names."""
    lab = context.lab()
    folder = os.path.join(lab.directory, "ftp")
    os.mkdir(folder)
    content = os.urandom(1_000_000)
    with open(os.path.join(folder, "file"), "wb") as file:
        file.write(content)
    server = lab.start("ftp", [os.path.join(context.options.venv, "bin", "python"), "-m", "pyftpdlib", "-i", "127.0.0.1", "-p", "2121", "-d", folder],
                       host=lab.server)
    server.wait_for_port(2121)
    lab.server.write_etc("hosts", "127.0.0.1 localhost ftp.corp\n")
    files(context, lab, 'destinations = ["ftp.corp:*", "127.0.0.0/8:1024-65535"]')
    took = os.path.join(lab.directory, "took")
    for way in ([], ["--disable-epsv"]):
        for outage in (False, True):
            user = lab.start("curl", ["curl", "-sS", "--limit-rate", "400k", "--socks5-hostname", f"127.0.0.1:{SOCKS}", *way, "-o", took,
                                      "ftp://ftp.corp:2121/file"], host=lab.client)
            if outage:
                context.sleep(0.7)
                lab.forward("drop")
                context.sleep(2)
                lab.forward("accept")
            if user.wait(30) != 0:
                raise Failure(f"curl ended with {user.status}: {user.errors[-300:]}")
            with open(took, "rb") as file:
                if file.read() != content:
                    raise Failure("the file has other bytes")
    return "by EPSV and by PASV, without and with a silence"


def first_byte(context):
    """At 50 ms a program that chooses its destination has its first byte as soon as one whose mapping does: the request travels in front of it."""
    lab = context.lab()
    half = 0.025
    port = 40500
    late(lab, port, half)
    Files(context, lab, {**LISTEN, "x": f"127.0.0.1:{SPARE}"}, {"x": f"127.0.0.1:{ORIGIN}"}, server=ALLOWED, out=f"{SERVER_ADDRESS}:{port}")

    def measure(open_):
        times = []
        for _ in range(11):
            began = time.monotonic()
            end = open_()
            end.sendall(b"?")
            origin = listener.accept()[0]
            receive(origin, 1)
            origin.sendall(b"!")
            receive(end, 1)
            times.append(time.monotonic() - began)
            origin.close()
            end.close()
        return sorted(times)[5] * 1000
    with lab.server.listen(ORIGIN) as listener:
        listener.settimeout(10)
        ways = {"mapping": lambda: lab.client.connect(("127.0.0.1", SPARE)), "SOCKS5": lambda: socks(lab, "localhost"),
                "CONNECT": lambda: connect(lab, "localhost")}
        took = {name: measure(way) for name, way in ways.items()}
    note = ", ".join(f"{name} {time_:.1f} ms" for name, time_ in took.items())
    if not 2000 * half <= took["mapping"] < 2000 * half + 20 or max(took.values()) > took["mapping"] + 10:
        raise Failure(note)
    return note


class PgbenchByName(programs.Pgbench):
    """With TLS, and a certificate for the name that the server has where it is."""
    server = "db.corp"

    def _command(self, argv):
        super()._command(argv)
        if not argv[0].endswith("initdb"):
            return
        data = os.path.join(self.directory, "data")
        make_authority(self.directory, "ca")
        make_certificate(self.directory, "db", "ca", f"DNS:{self.server}")
        for file in ("db.pem", "db.key"):
            shutil.chown(os.path.join(self.directory, file), "postgres", "postgres")
        os.chmod(os.path.join(self.directory, "db.key"), 0o600)
        with open(os.path.join(data, "postgresql.conf"), "a", encoding="utf-8") as conf:
            conf.write(f"ssl = on\nssl_cert_file = '{self.directory}/db.pem'\nssl_key_file = '{self.directory}/db.key'\n")

    def start(self, path):
        return self.lab.start("pgbench", [
            self.program("pgbench"), "-h", self.server, "-p", str(self.origin_port), "-U", "postgres", "-n", "-c", "8", "-j", "2", "-T", "8", "-R", "300",
            "postgres"], host=self.lab.client, environment={"PGSSLMODE": "verify-full", "PGSSLROOTCERT": f"{self.directory}/ca.pem"})


def postgres_by_name(context):
    """pgbench with TLS in verify-full: an unchanged client checks the certificate of the name that it dials, through silence."""
    lab = context.lab()
    lab.server.write_etc("hosts", f"127.0.0.1 localhost {PgbenchByName.server}\n")
    program = PgbenchByName(context, lab)
    program.prepare(None)
    name = f"{program.server}:{program.origin_port}"
    path = Files(context, lab, {"db": f'{{ names = ["{name}"] }}'}, {}, server=f'destinations = ["127.0.0.0/8:{program.origin_port}"]')
    lines = subprocess.run([binary(), "hosts", f"-config={lab.directory}/client.toml"], capture_output=True, text=True, check=True).stdout
    lab.client.write_etc("hosts", f"127.0.0.1 localhost\n{lines}")
    user = program.start(path)
    context.sleep(2)
    lab.forward("drop")
    context.sleep(10 if context.options.long else 3)
    lab.forward("accept")
    user.wait(90)
    return program.check(user)


def silent_programs(context):
    """Programs that connect and say nothing keep nobody out, and are gone after a while."""
    lab = context.lab()
    files(context, lab)
    silent = [lab.client.connect(("127.0.0.1", port)) for port in (SOCKS, HTTP) for _ in range(400)]
    halves = [lab.client.connect(("127.0.0.1", SOCKS)) for _ in range(50)]
    for end in halves:
        end.sendall(b"\5\1\0\5\1")
    began = time.monotonic()
    with Switchboard(lab, ORIGIN) as switchboard:
        user = socks(lab, "127.0.0.1")
        taken = time.monotonic() - began
        exchange(user, call(user, switchboard))
        if taken > 1:
            raise Failure(f"answered after {taken:.1f} s")
        for end in (silent[-1], halves[-1]):
            if seen(end, 15) == "nothing":
                raise Failure("a silent program was kept for 15 s")
    return f"850 silent, a new one answered after {taken * 1000:.0f} ms"


def cases():
    return [
        Case("destinations.requests", requests, drivers="either", only_tele=True),
        Case("destinations.transparent", transparent, drivers="either", only_tele=True),
        Case("destinations.transparent-ways", transparent_ways, drivers="either", only_tele=True),
        Case("destinations.first-byte", first_byte, weight=2, drivers="either", only_tele=True),
        Case("destinations.ftp", ftp, needs=("curl", "pyftpdlib"), only_tele=True),
        Case("destinations.forbidden", forbidden, drivers="either", only_tele=True),
        Case("destinations.clients", clients, drivers="either", only_tele=True, only_plain=True),
        Case("destinations.clients-by-certificate", clients_by_certificate, only_tele=True, only_plain=True),
        Case("destinations.redis-cluster", redis_cluster, needs=("redis-server", "redis-cli"), only_tele=True),
        Case("destinations.kafka-by-name", kafka_by_name, weight=2, needs=("tansu", "confluent_kafka"), only_tele=True),
        Case("destinations.kafka-of-three", kafka_of_three, weight=2, needs=("confluent_kafka",), only_tele=True),
        Case("destinations.postgres-by-name", postgres_by_name, needs=programs.Pgbench.needs, only_tele=True),
        Case("destinations.passwords", passwords, drivers="either", only_tele=True),
        Case("destinations.dead-names", dead_names, only_tele=True),
        Case("destinations.silent-programs", silent_programs, drivers="either", only_tele=True),
    ]
