"""Several mappings from a file: reloads beside a transfer, and real receivers of what tele tells them."""

import hashlib
import json
import os
import signal
import socket
import threading

import programs
from ends import NAME, Switchboard, call, exchange, receive_exactly
from faults import FAULTS
from lab import CLIENT_NETWORK, SERVER_ADDRESS
from path import Path, binary, security_flags, status_of
from process import Failure
from runner import Case

KEPT, CHANGED, OTHER, ADDED = 8101, 8102, 8103, 8104
CARRIER = 40300


class Route:
    """Where a mapping's users connect."""

    def __init__(self, port, host="127.0.0.1"):
        self.address = (host, port)


class Files(Path):
    """A client and a server, each with a configuration file of its own."""

    def __init__(self, context, lab, listen, origins, client="", server="", out=f"{SERVER_ADDRESS}:{CARRIER}"):
        self.lab, self.kind, self.driver = lab, "tele", context.job.driver or "auto"
        self.client = self.server = None
        self.write("server", f'out = ":{CARRIER}"\n{server}', "origins", origins)
        self.write("client", f'out = "{out}"\n{client}', "listen", listen)
        self.server = self._start("server", lab.server)
        self.server.wait_for_port(CARRIER)
        self.client = self._start("client", lab.client)
        if not context.until(10, lambda: "carrier up" in self.client.errors):
            raise Failure("the client has no carrier")
        context.paths.append(self)

    def file(self, role):
        return os.path.join(self.lab.directory, f"{role}.toml")

    def write(self, role, flags, table, mappings):
        with open(self.file(role), "w", encoding="utf-8") as file:
            file.write(f"[{role}]\nio = \"{self.driver}\"\n{flags}\n[{role}.{table}]\n")
            for name, value in mappings.items():
                file.write(f"{name} = {value if isinstance(value, str) and value.startswith('{') else json.dumps(value)}\n")

    def _start(self, role, host):
        return self.lab.start(f"tele-{role}", [
            binary(), f"-config={self.file(role)}", f"-control={self.control(role)}", *security_flags(role)], host=host)

    def control(self, role):
        return os.path.join(self.lab.directory, f"{role}.sock")

    def status(self, role):
        return status_of(self.control(role))


def reload(context):
    """SIGHUP with an added, a removed and a changed mapping, again and again during a transfer on another one."""
    lab = context.lab()
    path = Files(context, lab,
                 {"kept": "127.0.0.1:9101", "moved": "127.0.0.1:9102", "gone": "127.0.0.1:9103", "nobody": "127.0.0.1:9105"},
                 {"kept": f"127.0.0.1:{KEPT}", "moved": f"127.0.0.1:{CHANGED}", "gone": f"127.0.0.1:{OTHER}"})
    size = (512 if context.options.long else 96) << 20
    with Switchboard(lab, KEPT) as kept, Switchboard(lab, CHANGED) as changed, Switchboard(lab, OTHER) as other, \
            Switchboard(lab, ADDED) as added:
        user, origin = call(lab, Route(9101), kept)
        leaving = call(lab, Route(9103), other)
        exchange(*call(lab, Route(9102), changed))
        try:
            unknown = lab.client.connect(("127.0.0.1", 9105))   # The reset may be here before it returns.
            unknown.sendall(b"?" * 8)
            if unknown.recv(1) == b"":
                raise Failure("a connection to a name that nobody has ended as if all were well")
        except ConnectionResetError:
            pass
        if not context.until(5, lambda: any("the server has no origin of this name" in line and "mapping=nobody" in line
                                            for line in path.client.errors.splitlines())):
            raise Failure("the client does not say why it reset the connection")
        if not context.until(5, lambda: "no origin has the name" in path.server.errors):
            raise Failure("the server does not say why it refused the stream")

        sent, seen = hashlib.sha256(), hashlib.sha256()
        failures, sizes = [], []
        reloaded = threading.Event()

        def write():
            try:
                block = context.random.randbytes(1 << 20)
                count = 0
                while count < size >> 20 or not reloaded.is_set():
                    piece = count.to_bytes(8, "big") + block[8:]
                    sent.update(piece)
                    user.sendall(piece)
                    count += 1
                sizes.append(count)
                user.shutdown(socket.SHUT_WR)
            except OSError as error:
                failures.append(f"the transfer's user: {error}")

        def read():
            try:
                while part := origin.recv(1 << 18):
                    seen.update(part)
            except OSError as error:
                failures.append(f"the transfer's origin: {error}")

        user.settimeout(60)
        origin.settimeout(60)
        threads = [threading.Thread(target=work) for work in (write, read)]
        for thread in threads:
            thread.start()
        for rounds in range(1, 21 if context.options.long else 6):
            odd = rounds % 2 == 1
            path.write("client", f'out = "{SERVER_ADDRESS}:{CARRIER}"', "listen",
                       {"kept": "127.0.0.1:9101", "moved": "127.0.0.1:9112" if odd else "127.0.0.1:9102",
                        "added" if odd else "renamed": "127.0.0.1:9104"})
            path.write("server", f'out = ":{CARRIER}"', "origins",
                       {"kept": f"127.0.0.1:{KEPT}", "moved": f"127.0.0.1:{OTHER if odd else CHANGED}", "added" if odd else "renamed": f"127.0.0.1:{ADDED}"})
            for process in (path.server, path.client):
                process.signal(signal.SIGHUP)
            context.sleep(0.2)
            path.client.wait_for_port(9112 if odd else 9102)
            exchange(*call(lab, Route(9112 if odd else 9102), other if odd else changed))
            exchange(*call(lab, Route(9104), added))
            # A bad file changes nothing.
            with open(path.file("client"), "a", encoding="utf-8") as file:
                file.write("this is no TOML\n")
            path.client.signal(signal.SIGHUP)
            if not context.until(5, lambda: path.client.errors.count("reload failed, configuration unchanged") == rounds):
                raise Failure("a bad file is not told")
            exchange(*call(lab, Route(9104), added))
        reloaded.set()
        for thread in threads:
            thread.join(60)
        if failures or sent.digest() != seen.digest():
            raise Failure(failures[0] if failures else "the transfer arrived otherwise than it was sent")
        exchange(*leaving)
        try:
            lab.client.connect(("127.0.0.1", 9103)).close()
        except ConnectionRefusedError:
            pass
        else:
            raise Failure("a removed mapping still listens")
        if "session lost" in path.client.errors or "carrier lost" in path.client.errors:
            raise Failure("a reload cost a carrier")
    return f"{sizes[0]} MiB arrived whole beside {rounds} reloads and as many bad files"


def ask(lab, address, request=b"GET / HTTP/1.0\r\nHost: x\r\n\r\n"):
    """(the user's own address, the body of the answer)."""
    with lab.client.connect(address) as user:
        name = user.getsockname()
        user.sendall(request)
        answer = b""
        while part := user.recv(1 << 16):
            answer += part
    return f"{name[0]}:{name[1]}", answer.partition(b"\r\n\r\n")[2].decode().strip()


def proxy_protocol(context):
    """HAProxy and nginx, told by the PROXY protocol, know the user's address, through a reset carrier too."""
    lab = context.lab()
    folder = lab.directory
    with open(f"{folder}/haproxy.cfg", "w", encoding="utf-8") as file:
        file.write("defaults\n mode http\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n"
                   f"frontend f\n bind 127.0.0.1:{KEPT} accept-proxy\n"
                   ' http-request return status 200 content-type text/plain lf-string "%ci:%cp"\n')
    with open(f"{folder}/nginx.conf", "w", encoding="utf-8") as file:
        file.write(f"daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; events {{}}\n"
                   f"http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};\n"
                   f"uwsgi_temp_path {folder}; scgi_temp_path {folder}; server {{ listen 127.0.0.1:{CHANGED} proxy_protocol;\n"
                   'location / { return 200 "$proxy_protocol_addr:$proxy_protocol_port\\n"; } } }\n')
    haproxy = lab.start("haproxy", ["haproxy", "-db", "-f", f"{folder}/haproxy.cfg"], host=lab.server)
    nginx = lab.start("nginx", ["nginx", "-c", f"{folder}/nginx.conf"], host=lab.server)
    haproxy.wait_for_port(KEPT)
    nginx.wait_for_port(CHANGED)
    listen = {"haproxy": '{ address = ":9101", proxy-protocol = true }', "nginx": '{ address = ":9102", proxy-protocol = true }'}
    path = Files(context, lab, listen, {"haproxy": f"127.0.0.1:{KEPT}", "nginx": f"127.0.0.1:{CHANGED}"})
    hosts = ("127.0.0.1", f"{CLIENT_NETWORK}.{lab.host_octet}")
    for fault in (None, "reset"):
        if fault:
            FAULTS[fault].inflict(lab, path)
            context.sleep(0.5)
            FAULTS[fault].heal(lab, path)
        for host in hosts:
            for port in (9101, 9102):
                own, told = ask(lab, (host, port))
                if own != told:
                    raise Failure(f"the origin behind {port} takes the user {own} for {told}")
    return f"both were told the right address of users at {' and '.join(hosts)}"


class PgbenchByFile(programs.Pgbench):
    """Reaches PostgreSQL by a socket file on either side."""

    def start(self, path):
        path.address = (os.path.join(self.lab.directory, "user"), self.origin_port)
        return super().start(path)


def unix_sockets(context):
    """pgbench over Unix-domain sockets on both ends of the tunnel, through silence."""
    lab = context.lab()
    program = PgbenchByFile(context, lab)
    program.prepare(None)
    os.makedirs(os.path.join(lab.directory, "user"))
    name = f".s.PGSQL.{program.origin_port}"
    path = Files(context, lab, {"db": f"unix:{lab.directory}/user/{name}"}, {"db": f"unix:{program.directory}/{name}"})
    user = program.start(path)
    context.sleep(2)
    FAULTS["blackhole"].inflict(lab, path)
    context.sleep(context.options.outage)
    FAULTS["blackhole"].heal(lab, path)
    user.wait(90)
    return program.check(user)


def refuse_after(context):
    """Without a carrier for a while new connections of one mapping are refused, of another they wait; open ones wait in both. Twice."""
    lab = context.lab()
    path = Files(context, lab, {"web": '{ address = "127.0.0.1:9101", refuse-after = "never" }', "pool": "127.0.0.1:9102"},
                 {"web": f"127.0.0.1:{KEPT}", "pool": f"127.0.0.1:{CHANGED}"}, client='refuse-after = "3s"')
    with Switchboard(lab, KEPT) as web, Switchboard(lab, CHANGED) as pool:
        pairs = [call(lab, Route(9101), web), call(lab, Route(9102), pool)]
        for fault in ("blackhole", "unreachable"):
            FAULTS[fault].inflict(lab, path)
            for user, _ in pairs:
                user.sendall(b"w" * 100)
            context.sleep(1)
            # Not yet.
            early, early_name = lab.client.connect(("127.0.0.1", 9102)), pool.name()
            early.sendall(NAME.pack(early_name))
            if not context.until(10, lambda: refuses(lab, 9102)):
                raise Failure(f"{fault}: a new connection is not refused after 3 s without a carrier")
            waiting, waiting_name = lab.client.connect(("127.0.0.1", 9101)), web.name()
            waiting.sendall(NAME.pack(waiting_name))
            FAULTS[fault].heal(lab, path)
            for _, origin in pairs:
                origin.settimeout(10)
                receive_exactly(origin, 100)
            for user, origin in ((waiting, web.accepted(waiting_name, 10)), (early, pool.accepted(early_name, 10)), call(lab, Route(9102), pool)):
                exchange(user, origin)
                user.close()
                origin.close()
        for user, origin in pairs:
            exchange(user, origin)
    if "connection refused" not in path.client.errors or "mapping=pool" not in path.client.errors:
        raise Failure("the log does not say that a connection was refused")
    return "new connections refused after 3 s, open ones and those of the other mapping went on"


def refuses(lab, port):
    """Whether a new connection is reset at once."""
    end = lab.client.socket()
    end.settimeout(0.3)
    try:
        end.connect(("127.0.0.1", port))
        end.sendall(b"?")
        return end.recv(1) == b"?"
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
    finally:
        end.close()


def cases():
    return [
        Case("mappings.refuse-after", refuse_after, drivers="either", only_tele=True),
        Case("mappings.reload", reload, drivers="either", weight=2, only_tele=True),
        Case("mappings.proxy-protocol", proxy_protocol, needs=("haproxy", "nginx"), only_tele=True),
        Case("mappings.unix", unix_sockets, needs=programs.Pgbench.needs, only_tele=True),
    ]
