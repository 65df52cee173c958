"""What a user meets at the edges: half-closed standard streams, names that lead to several hosts, origins that move."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import threading
import time

from ends import NAME as NAME_OF_END
from ends import Switchboard, call, exchange, observe, receive_exactly
from faults import FAULTS
from lab import SERVER_ADDRESS
from path import CARRIER_PORT, binary, late, security_flags
from process import Failure
from runner import Case

from cases.mappings import Files, Route

ORIGIN_PORT = 7970
#: Two hosts of one name, the second behind the same link.
OTHER_ADDRESS = "10.213.2.3"
#: On the server's own link, so that its names prefer it; and nobody answers there.
SILENT_ADDRESS = "10.213.2.77"
CLIENT_ADDRESS = "10.213.1.2"
NAME = "origin.test"


def half_closed(closed):
    """`tele connect`: the far side has ended, stdout with it; then carriers break, and the upload goes on to its last byte.
    `closed`: descriptors that are closed when it starts."""
    def story(context):
        lab = context.lab()
        path = Files(context, lab, {"x": "127.0.0.1:9101"}, {"x": f"127.0.0.1:{ORIGIN_PORT}"})
        listener = lab.server.listen(ORIGIN_PORT)
        command = f"exec {binary()} connect -out={SERVER_ADDRESS}:{CARRIER_PORT} {' '.join(security_flags('client'))} x {closed}"
        user = lab.start("connect", ["sh", "-c", command], host=lab.client, stdin="pipe")
        listener.settimeout(10)
        origin = listener.accept()[0]
        origin.settimeout(10)
        if not closed:
            origin.sendall(b"answer")
        origin.shutdown(1)
        pipe = user.child.stdin
        pipe.write(b"u" * 2000)
        pipe.flush()
        receive_exactly(origin, 2000)
        context.sleep(0.5)
        FAULTS["reset"].inflict(lab, path)
        context.sleep(1)
        FAULTS["reset"].heal(lab, path)
        context.sleep(1)
        # Once more, after stdin's end and before its last byte has left.
        FAULTS["blackhole"].inflict(lab, path)
        pipe.write(b"u" * 1_000_000)
        pipe.close()
        context.sleep(0.5)
        FAULTS["reset"].inflict(lab, path)
        context.sleep(1)
        FAULTS["reset"].heal(lab, path)
        receive_exactly(origin, 1_000_000)
        if origin.recv(1) != b"":
            raise Failure("more came than was sent")
        origin.close()
        status = user.wait(10)
        if status:
            raise Failure(f"tele connect ended with status {status}: {user.errors[-200:]}")
        if not closed and user.output != "answer":
            raise Failure(f"the answer was “{user.output[:20]}”")
        return "1 002 000 bytes arrived behind the far side's end and a lost carrier"
    return story


def two_servers(context):
    """The server's name leads to two servers. A cut, and `tele reconnect`, leave every user alone; a restart is believed."""
    lab = context.lab()
    subprocess.run(["ip", "-n", lab.server.name, "address", "add", f"{OTHER_ADDRESS}/24", "dev", "eth0"], check=True)
    lab.client.write_etc("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    lab.client.write_etc("hosts", f"127.0.0.1 localhost\n{SERVER_ADDRESS} tele-server.test\n{OTHER_ADDRESS} tele-server.test\n")
    path = context.path(lab, ORIGIN_PORT, start=False, client_flags=[f"-control={lab.directory}/client.sock"])
    path.carrier_host = "tele-server.test"

    def start(address):
        server = lab.start(f"server-{address}", [binary(), "-server", f"-in=127.0.0.1:{ORIGIN_PORT}", f"-out={address}:{CARRIER_PORT}",
                                                 f"-io={path.driver}", "-control=none", *security_flags("server")], host=lab.server)
        if not context.until(5, lambda: "listening" in server.errors):
            raise Failure("a server does not start")
        return server
    servers = {address: start(address) for address in (SERVER_ADDRESS, OTHER_ADDRESS)}
    path.start_client()
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, path, switchboard)
        home = next(address for address in servers if f"peer={address}:" in path.client.errors)
        for _ in range(3 if not context.options.long else 20):
            lab.forward("drop")
            context.sleep(1.2)
            lab.forward()
            exchange(user, origin)
            subprocess.run([binary(), "reconnect", f"-control={lab.directory}/client.sock"], check=True, capture_output=True)
            context.sleep(0.3)
            exchange(user, origin)
        # The home is away, the other one is there: users wait.
        servers[home].kill()
        servers[home].wait(5)
        context.sleep(2)
        user.settimeout(0.5)
        try:
            if user.recv(1) is not None:
                raise Failure("a user lost its connection while its server was away and another one answered")
        except TimeoutError:
            pass
        if "session unknown to another server" not in path.client.errors:
            raise Failure("the log does not say that another server answers")
        # It is back, and knows nothing: the user is reset, and the next is served.
        servers[home] = start(home)
        user.settimeout(10)
        try:
            user.recv(1)
            raise Failure("a user whose session is gone saw no reset")
        except ConnectionResetError:
            pass
        exchange(*call(lab, path, switchboard))
    return "two servers of one name: cuts and reconnects reset nobody"


def origin_path(context, lab):
    """A path whose origin has a name that the server's own hosts file knows."""
    lab.server.write_etc("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    return Files(context, lab, {"x": "127.0.0.1:9101"}, {"x": f"{NAME}:{ORIGIN_PORT}"})


def names(lab, *addresses):
    lab.server.write_etc("hosts", "127.0.0.1 localhost\n" + "".join(f"{address} {NAME}\n" for address in addresses))


def silence(lab):
    """Packets to SILENT_ADDRESS vanish."""
    subprocess.run(["ip", "-n", lab.server.name, "neigh", "add", SILENT_ADDRESS, "lladdr", "02:00:00:00:00:77", "dev", "eth0"], check=True)


def reach(lab, listener, seconds):
    """A user's connection until it has exchanged bytes with the origin: how long that took."""
    began = time.monotonic()
    user = lab.client.connect(("127.0.0.1", 9101))
    user.settimeout(seconds)
    user.sendall(b"question")
    listener.settimeout(seconds)
    try:
        origin = listener.accept()[0]
        origin.settimeout(seconds)
        receive_exactly(origin, 8)
        origin.sendall(b"answer")
        receive_exactly(user, 6)
    except OSError as error:
        raise Failure(f"a user's connection did not reach the origin ({error})") from None
    origin.close()
    user.close()
    return time.monotonic() - began


def dead_first_address(context):
    """The first address of the origin's name is silent: the second is tried a quarter of a second later, and first from then on."""
    lab = context.lab()
    names(lab, SILENT_ADDRESS, CLIENT_ADDRESS)
    silence(lab)
    origin_path(context, lab)
    listener = lab.client.listen(ORIGIN_PORT)
    first, second = reach(lab, listener, 5), reach(lab, listener, 5)
    note = f"the first connection after {first * 1000:.0f} ms, the second after {second * 1000:.0f}"
    if first < 0.2:
        raise Failure(f"the silent address was not tried first: {note}")
    if first > 2 or second > 0.2:
        raise Failure(note)
    return note


def connect_that_meets_itself(context):
    """Nobody listens at the origin's port, and the kernel has no other to connect from: the user is not connected to itself."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT, start=False)
    path.start_server()
    path.start_client()
    lab.server.sysctl("net.ipv4.ip_local_port_range", f"{ORIGIN_PORT} {ORIGIN_PORT + 1}")
    for _ in range(3):
        try:
            with lab.client.connect(path.address) as end:
                end.settimeout(5)
                end.sendall(b"who is there?")
                heard = end.recv(100)
        except ConnectionResetError:
            heard = None
        if heard is not None:
            raise Failure(f"the user heard {heard!r} instead of a reset")
    return "reset three times"


def rejecting(host, address=None):
    """The host's own firewall answers what leaves for the address: the error is there before connect(2) has returned. None: no more."""
    rule = f"add rule inet own out ip daddr {address} reject with icmpx type host-unreachable\n" if address else ""
    text = "add table inet own\nadd chain inet own out { type filter hook output priority 0; }\nflush chain inet own out\n" + rule
    subprocess.run(["ip", "netns", "exec", host.name, "nft", "-f", "-"], input=text, text=True, check=True)


def rejected_at_home(context):
    """A connect that a host's own firewall rejects has failed, at once: no user is connected to nobody, and the tele client dials on at its
    usual pace. (TCP sends its SYN again after 1 s: later than that, the kernel would have told.)"""
    lab = context.lab()
    path = Files(context, lab, {"x": "127.0.0.1:9101", "y": "127.0.0.1:9102"},
                 {"x": f"{SILENT_ADDRESS}:{ORIGIN_PORT}", "y": f"127.0.0.1:{ORIGIN_PORT}"})
    rejecting(lab.server, SILENT_ADDRESS)
    began = time.monotonic()
    heard = None
    try:
        # The reset may be here before connect has returned.
        with lab.client.connect(("127.0.0.1", 9101)) as user:
            user.settimeout(5)
            heard = user.recv(1)
    except ConnectionResetError:
        took = time.monotonic() - began
    if heard is not None:
        raise Failure(f"the user heard {heard!r} instead of a reset")
    if took > 0.8 or not context.until(2, lambda: "host unreachable" in path.server.errors):
        raise Failure(f"reset after {took:.2f} s; the server says: {path.server.errors[-300:]}")
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, Route(9102), switchboard)
        rejecting(lab.client, SERVER_ADDRESS)
        user.sendall(b"x" * 100)
        if not context.until(3, lambda: "carrier suspected" in path.client.errors):
            raise Failure("the carrier is not suspected")
        if not context.until(0.8, lambda: 'reason="host unreachable"' in path.client.errors):
            raise Failure("the client does not say within 0.8 s that its dial failed")
        rejecting(lab.client)
        receive_exactly(origin, 100)
        exchange(user, origin)
    return f"the user was reset after {took * 1000:.0f} ms"


def moved_origin(context):
    """The origin's name leads elsewhere from now on, its old address refuses or is silent: no connection is lost, from the first."""
    lab = context.lab()
    names(lab, CLIENT_ADDRESS)
    silence(lab)
    path = origin_path(context, lab)
    listener = lab.client.listen(ORIGIN_PORT)
    reach(lab, listener, 5)
    taken = []
    for _ in range(3):
        # Now here, now there: what it left refuses.
        listener.close()
        names(lab, SERVER_ADDRESS)
        listener = lab.server.listen(ORIGIN_PORT)
        taken += [reach(lab, listener, 8) for _ in range(5)]
        listener.close()
        names(lab, CLIENT_ADDRESS)
        listener = lab.client.listen(ORIGIN_PORT)
        taken += [reach(lab, listener, 8) for _ in range(5)]
    # From a silent address to another.
    names(lab, SILENT_ADDRESS)
    path.server.kill()
    path.server.wait(5)
    path.server = path._start("server", lab.server)
    context.sleep(2)
    waiting = lab.client.connect(("127.0.0.1", 9101))
    waiting.sendall(b"x")
    context.sleep(1.5)
    names(lab, CLIENT_ADDRESS)
    listener.settimeout(8)
    origin = listener.accept()[0]
    origin.settimeout(5)
    receive_exactly(origin, 1)
    return f"{len(taken)} connections over 6 moves, the slowest after {max(taken) * 1000:.0f} ms; one went on from a silent address"


def name_that_appears(context):
    """The origin's name is unknown at the start and appears later: the first connection after that is served."""
    lab = context.lab()
    names(lab)
    path = origin_path(context, lab)
    try:
        # The reset may be here before it returns.
        user = lab.client.connect(("127.0.0.1", 9101))
        user.settimeout(10)
        user.recv(1)
        raise Failure("a connection to an unknown name ended as if all were well")
    except ConnectionResetError:
        pass
    if "cannot resolve the origin" not in path.server.errors:
        raise Failure("the log does not say that the name is unknown")
    listener = lab.client.listen(ORIGIN_PORT)
    names(lab, CLIENT_ADDRESS)
    return f"served {reach(lab, listener, 5) * 1000:.0f} ms after its name appeared"


def no_port_left(context):
    """The server has no local port for one more connection to the origin: the log says so, and nothing of servers that do not run."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        lab.server.sysctl("net.ipv4.ip_local_port_range", "61000 61003")
        ends = []
        for _ in range(12):
            try:
                ends.append(call(lab, path, switchboard, 2))
            except (OSError, Failure):
                break
        else:
            raise Failure("twelve connections from four ports")
        for end in (end for pair in ends for end in pair):
            end.close()
    if "no local port available" not in path.server.errors or "is the user's server running" in path.server.errors:
        raise Failure(path.server.errors[-300:])
    return f"after {len(ends)} connections: no local port available"


def get(lab, address, path):
    """(status, body) of a GET."""
    with lab.client.connect(address) as end:
        end.settimeout(5)
        end.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = b""
        while part := end.recv(1 << 16):
            answer += part
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split()[1]), body.strip()


def command(*words, status=0):
    run = subprocess.run([binary(), *words], capture_output=True, text=True, timeout=15)
    if run.returncode != status:
        raise Failure(f"tele {' '.join(words)} ended with {run.returncode}: {run.stderr.strip()}")
    return run.stdout.strip() or run.stderr.strip()


def probes(context):
    """Whether a client is alive and whether it is ready are two questions; who asks and says nothing keeps nobody from asking."""
    lab = context.lab()
    control, page = f"{lab.directory}/client.sock", ("127.0.0.1", 9140)
    path = context.path(lab, ORIGIN_PORT, start=False, client_flags=["-metrics=127.0.0.1:9140", f"-control={control}", "-drain=30s"])
    path.start_client()
    if not context.until(5, lambda: "cannot reach the server" in path.client.errors):
        raise Failure("the client does not say that there is no server")
    if get(lab, page, "/healthz") != (200, "fine"):
        raise Failure("a client that waits for its server is not alive")
    status, words = get(lab, page, "/readyz")
    if status != 503 or "no carrier for " not in words or "connection refused" not in words:
        raise Failure(f"a client without a carrier: {status} {words}")
    path.start_server()
    if not context.until(5, lambda: get(lab, page, "/readyz") == (200, "ready")):
        raise Failure("a client with a carrier is not ready")
    idle = [lab.client.connect(page) for _ in range(40)]
    slow = lab.client.connect(page)
    for byte in b"GET /metrics HTTP/1.1\r\nHost: x\r\n":
        slow.send(bytes([byte]))
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, path, switchboard)
        if get(lab, page, "/healthz")[0] != 200 or "client" not in command("status", f"-control={control}"):
            raise Failure("40 idle connections keep others from asking")
        wanted = ("process_start_time_seconds", "process_resident_memory_bytes", "tele_session_backlog_limit_bytes 67108864")
        metrics = get(lab, page, "/metrics")[1]
        if missing := [name for name in wanted if f"\n{name}" not in metrics]:
            raise Failure(f"the metrics lack {missing}")
        # Drained twice, and nothing is reset; then at once.
        first, second = (command("drain", f"-control={control}") for _ in range(2))
        if f"process {path.client.pid}: 1 connection open" not in first or not second.startswith("already draining"):
            raise Failure(f"drain says “{first}”, then “{second}”")
        exchange(user, origin)
        if get(lab, page, "/readyz") != (503, "draining"):
            raise Failure("a client that drains is ready")
        command("drain", "-now", f"-control={control}")
        if path.client.wait(5):
            raise Failure("a stop at once did not end in order")
        path.client = None
        for end in (*idle, slow):
            end.close()
    return "alive and ready told apart; 41 idle ones, two drains and a stop"


def activation(context):
    """Two sockets of one name are both served; a socket whose name nobody has is refused at the start."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT)
    listeners = [lab.client.listen(port) for port in (9201, 9202)]
    # Far from the numbers that they shall have.
    numbers = [fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD, 200) for listener in listeners]

    def start(name, names):
        shell = (f'exec 3<&{numbers[0]} 4<&{numbers[1]}; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES={names} exec "$@"')
        return lab.start(name, ["bash", "-c", shell, "bash", binary(), "-client", "-in=127.0.0.1:9203",
                                f"-out={SERVER_ADDRESS}:{CARRIER_PORT}", "-control=none", *security_flags("client")],
                         host=lab.client, pass_fds=numbers)
    stranger = start("stranger", "web:ssh")
    if stranger.wait(5) != 78 or 'socket activation: no mapping is named "web"' not in stranger.errors:
        raise Failure(f"a socket of an unknown name: {stranger.status} {stranger.errors}")
    start("activated", "a.socket:a.socket")
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        for port in (9201, 9202):
            path.address = ("127.0.0.1", port)
            exchange(*call(lab, path, switchboard))
    for number in numbers:
        os.close(number)
    return "both sockets of one name are served"


def address_that_comes(context):
    """The address to listen on comes later, as a VPN's does: tele waits for it with one line."""
    lab = context.lab()
    place = "10.99.0.1"
    path = context.path(lab, ORIGIN_PORT)
    client = lab.start("late", [binary(), "-client", f"-in={place}:9204", f"-out={SERVER_ADDRESS}:{CARRIER_PORT}", "-control=none",
                                *security_flags("client")], host=lab.client)
    if not context.until(5, lambda: "listen address does not exist yet" in client.errors):
        raise Failure(f"an address that is not there yet: {client.status} {client.errors}")
    subprocess.run(["ip", "-n", lab.client.name, "address", "add", f"{place}/32", "dev", "lo"], check=True)
    path.address = (place, 9204)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        exchange(*call(lab, path, switchboard))
    return "served as soon as the address was there"


class NameServer:
    """Answers every question in the client's host with one address, with `others` besides, each time in another order, or not at all."""

    def __init__(self, lab, address, others=()):
        self.address, self.others = address, list(others)
        self.turn = 0
        self.end = lab.client.maker.submit(socket.socket, socket.AF_INET, socket.SOCK_DGRAM).result()
        self.end.bind(("127.0.0.1", 53))
        self.answers = True
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                question, peer = self.end.recvfrom(512)
            except OSError:
                return
            if not self.answers:
                continue
            end = question.index(b"\0", 12) + 5
            is_a = question[end - 4:end - 2] == b"\0\1"
            self.turn += is_a
            addresses = [self.address, *self.others] if is_a else []
            first = self.turn % max(1, len(addresses))
            records = b"".join(b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(each)
                               for each in addresses[first:] + addresses[:first])
            # The end may be closed meanwhile.
            with contextlib.suppress(OSError):
                self.end.sendto(question[:2] + b"\x81\x80\0\1" + bytes([0, len(addresses)]) + b"\0" * 4 + question[12:end] + records, peer)


def name_server_that_is_silent(context):
    """The name server is silent during an outage, as everything is; and the server has another address afterwards. It is found at once."""
    lab = context.lab()
    subprocess.run(["ip", "-n", lab.server.name, "address", "add", f"{OTHER_ADDRESS}/24", "dev", "eth0"], check=True)
    lab.client.write_etc("hosts", "127.0.0.1 localhost\n")
    # As most machines have it: five seconds for each try.
    lab.client.write_etc("resolv.conf", "nameserver 127.0.0.1\n")
    names = NameServer(lab, SERVER_ADDRESS)
    path = context.path(lab, ORIGIN_PORT, start=False)
    path.carrier_host = "tele-server.test"
    path.start()
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, path, switchboard)
        exchange(user, origin)
        for address in (OTHER_ADDRESS, SERVER_ADDRESS):
            lab.forward("drop")
            names.answers = False
            user.sendall(b"x" * 100)
            context.sleep(3)
            # The old address stays dead.
            lab.forward(f"ip daddr {names.address} drop", f"ip saddr {names.address} drop")
            names.address, names.answers = address, True
            began = time.monotonic()
            origin.settimeout(20)
            receive_exactly(origin, 100)
            took = time.monotonic() - began
            if took > 1.5:
                raise Failure(f"back {took:.1f} s after the name server answered again")
            lab.forward()
    names.end.close()
    return f"back {took:.2f} s after the name server answered again"


def rotating_names(context):
    """The server's name leads to two servers, in another order at each question. Outages reset nobody, and a session whose streams are over
    here waits for its own server to acknowledge its last bytes."""
    lab = context.lab()
    subprocess.run(["ip", "-n", lab.server.name, "address", "add", f"{OTHER_ADDRESS}/24", "dev", "eth0"], check=True)
    lab.client.write_etc("hosts", "127.0.0.1 localhost\n")
    lab.client.write_etc("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    names = NameServer(lab, SERVER_ADDRESS, others=[OTHER_ADDRESS])
    for address in (SERVER_ADDRESS, OTHER_ADDRESS):
        server = lab.start(f"server-{address}", [binary(), "-server", f"-in=127.0.0.1:{ORIGIN_PORT}", f"-out={address}:{CARRIER_PORT}",
                                                 "-control=none", *security_flags("server")], host=lab.server)
        if not context.until(5, lambda server=server: "listening" in server.errors):
            raise Failure("a server does not start")
    path = context.path(lab, ORIGIN_PORT, start=False)
    path.carrier_host = "tele-server.test"
    path.start_client()
    slowest = 0
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        pair = call(lab, path, switchboard)
        exchange(*pair)
        home = next(address for address in (SERVER_ADDRESS, OTHER_ADDRESS) if f"peer={address}:" in path.client.errors)
        asked = names.turn
        for _ in range(12 if not context.options.long else 60):
            lab.forward("meta l4proto tcp reject with tcp reset", "drop")
            context.sleep(0.8)
            lab.forward()
            began = time.monotonic()
            exchange(*pair)
            slowest = max(slowest, time.monotonic() - began)
        if names.turn - asked < 3:
            raise Failure("the name was hardly asked for")
        # The origin has ended, and the user writes its last bytes and ends while only the other server can be reached.
        user, origin = call(lab, path, switchboard)
        origin.shutdown(socket.SHUT_WR)
        if observe(user, time.monotonic() + 2)[1] != "eof":
            raise Failure("the origin's end did not come")
        for each in pair:
            each.close()
        context.sleep(0.5)
        lab.forward(f"ip daddr {home} reject with tcp reset", f"ip saddr {home} drop")
        user.sendall(b"last")
        user.close()
        context.sleep(3)
        lab.forward()
        if receive_exactly(origin, 4) != b"last" or observe(origin, time.monotonic() + 5)[1] != "eof":
            raise Failure("last bytes were given up because another server did not know the session")
    names.end.close()
    return f"{names.turn} answers in turn; at most {slowest:.2f} s after an outage"


def storm_of_links(context):
    """Links come and go twenty times a second, as where containers start: an idle carrier with a round trip of 150 ms is left alone."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT, start=False)
    path.start_server()
    late(lab, 40301, 0.075)
    path.carrier_port = 40301
    path.start_client()
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, path, switchboard)
        exchange(user, origin)
        end = time.monotonic() + (20 if context.options.long else 4)
        count = 0
        while time.monotonic() < end:
            for words in (("add", "storm0", "type", "veth", "peer", "name", "storm1"), ("set", "storm0", "up"), ("del", "storm0")):
                subprocess.run(["ip", "-n", lab.client.name, "link", *words], check=True)
            count += 1
            context.sleep(0.02)
        exchange(user, origin)
    if "carrier suspected" in path.client.errors or path.client.errors.count("resumed"):
        raise Failure("the carrier was changed")
    return f"{count} links came and went"


def both_loopbacks(context):
    """`localhost` is every loopback address that the name has: users of IPv4 and of IPv6 get in, also after a reload."""
    lab = context.lab()
    lab.client.write_etc("hosts", "::1 localhost\n127.0.0.1 localhost\n")
    path = Files(context, lab, {"x": "localhost:9205"}, {"x": f"127.0.0.1:{ORIGIN_PORT}", "y": f"127.0.0.1:{ORIGIN_PORT}"})

    def six(port):
        made = lab.client.maker.submit(socket.socket, socket.AF_INET6, socket.SOCK_STREAM).result()
        made.settimeout(5)
        made.connect(("::1", port))
        return made
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        for port in (9205, 9206):
            exchange(*call(lab, Route(port), switchboard))
            user, name = six(port), switchboard.name()
            user.sendall(NAME_OF_END.pack(name))
            exchange(user, switchboard.accepted(name, 5))
            path.write("client", f'out = "{SERVER_ADDRESS}:{CARRIER_PORT}"', "listen", {"x": "localhost:9205", "y": "localhost:9206"})
            path.client.signal(signal.SIGHUP)
            context.sleep(0.5)
    return "IPv4 and IPv6, from the start and after a reload"


def cases():
    return [
        Case("edges.both-loopbacks", both_loopbacks, only_tele=True),
        Case("edges.rotating-names", rotating_names, only_tele=True, drivers="either"),
        Case("edges.silent-name-server", name_server_that_is_silent, only_tele=True),
        Case("edges.storm-of-links", storm_of_links, drivers="either", only_tele=True),
        Case("edges.probes", probes, only_tele=True),
        Case("edges.activation", activation, drivers="either", only_tele=True),
        Case("edges.address-that-comes", address_that_comes, only_tele=True),
        Case("edges.half-closed", half_closed(""), drivers="either", only_tele=True),
        Case("edges.half-closed-without-stdout", half_closed(">&- 2>&-"), only_tele=True),
        Case("edges.two-servers", two_servers, drivers="either", only_tele=True),
        Case("edges.connect-that-meets-itself", connect_that_meets_itself, drivers="either", only_tele=True),
        Case("edges.dead-first-address", dead_first_address, drivers="either", only_tele=True),
        Case("edges.rejected-at-home", rejected_at_home, drivers="either", only_tele=True),
        Case("edges.moved-origin", moved_origin, drivers="either", only_tele=True),
        Case("edges.name-that-appears", name_that_appears, only_tele=True),
        Case("edges.no-port-left", no_port_left, only_tele=True),
    ]
