"""How the user's client reaches the origin: directly, over a neutral relay, over a bad one, or through tele.

The origin always listens in the server's namespace at `origin_port`, on every address; the user's client
connects to `address` in the client's namespace. The neutral relay shows that a program tolerates a middleman;
the bad relays show that a case notices a middleman who cheats.
"""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time

from lab import CLIENT_NETWORK, SERVER_ADDRESS
from process import Failure

CARRIER_PORT = 40300
#: How carriers are protected: "none", "key" or "certificates".
SECURITY = "none"
SPLICE = "auto"
HERE = os.path.dirname(os.path.abspath(__file__))


def status_of(control):
    """What `tele status` says at this control socket."""
    run = subprocess.run([binary(), "status", "-json", f"-control={control}"], capture_output=True, text=True)
    if run.returncode:
        raise Failure(f"tele status: {run.stderr.strip()}")
    return json.loads(run.stdout)


def late(lab, port, seconds):
    """A long path at the server's side: it listens at `port`, and each byte to the tele server and back is late by `seconds`."""
    # While nobody listens there, one of so many connects might meet itself, and hold the port.
    lab.server.sysctl("net.ipv4.ip_local_reserved_ports", CARRIER_PORT)
    program = os.path.join(lab.directory, "late")
    built = subprocess.run(["gcc", "-O2", "-o", program, os.path.join(HERE, "workers", "late.c")], capture_output=True, text=True)
    if built.returncode:
        raise Failure(f"gcc: {built.stderr}")
    process = lab.start("late", [program, str(port), str(CARRIER_PORT), str(seconds)], host=lab.server)
    process.wait_for_port(port)
    return process


class Path:
    #: The processes between, if any; faults stop them.
    client = None
    server = None
    #: How often it was started: its log goes on.
    client_starts = 0

    def __init__(self, lab, kind, driver, origin_port, user_port=None, client_flags=(), server_flags=(),
                 server_limits=(), client_limits=(), start=True):
        self.lab, self.kind, self.driver = lab, kind, driver
        self.origin_port, self.user_port = origin_port, user_port or origin_port + 10000
        self.client_flags, self.server_flags = list(client_flags), list(server_flags)
        self.client_limits, self.server_limits = list(client_limits), list(server_limits)
        self.carrier_host, self.carrier_port = SERVER_ADDRESS, CARRIER_PORT
        self.address = (SERVER_ADDRESS, origin_port) if kind == "direct" else ("127.0.0.1", self.user_port)
        if start:
            self.start()

    #: "reverse": the users' side has the tele server, the origins' side the tele client.
    WITH_TELE = ("tele", "reverse")

    def start(self):
        if self.kind in self.WITH_TELE:
            self.start_server()
            self.start_client()
        elif self.kind == "relay":
            self._start_relay(["socat", "-b", "262144",
                               f"TCP-LISTEN:{self.user_port},bind=127.0.0.1,fork,reuseaddr,nodelay,"
                               "backlog=1024",
                               f"TCP:{SERVER_ADDRESS}:{self.origin_port},nodelay"])
        elif self.kind.startswith("bad-"):
            self._start_relay([sys.executable, os.path.join(HERE, "workers", "bad_relay.py"), self.kind[4:],
                               str(self.user_port), SERVER_ADDRESS, str(self.origin_port)])
        elif self.kind != "direct":
            raise Failure(f"there is no path called {self.kind}")

    def _start_relay(self, argv):
        self.relay = self.lab.start("relay", argv, host=self.lab.client)
        self.relay.wait_for_port(self.user_port)

    # tele

    def start_server(self):
        is_reverse = self.kind == "reverse"
        flag = f"-reverse=127.0.0.1:{self.user_port}" if is_reverse else f"-in=127.0.0.1:{self.origin_port}"
        self.server = self.lab.start("tele-server", [
            *self.server_limits, binary("server"), "-server", flag,
            f"-out=:{CARRIER_PORT}", f"-io={self.driver}", *splice_flags(), *security_flags("server"), *self.server_flags],
            host=self.lab.client if is_reverse else self.lab.server)
        self.server.wait_for_port(CARRIER_PORT)

    def start_client(self):
        is_reverse = self.kind == "reverse"
        flag = f"-reverse=127.0.0.1:{self.origin_port}" if is_reverse else f"-in=127.0.0.1:{self.user_port}"
        host = f"{CLIENT_NETWORK}.{self.lab.host_octet}" if is_reverse else self.carrier_host
        self.client = self.lab.start("tele-client", [
            *self.client_limits, binary("client"), "-client", flag,
            f"-out={host}:{self.carrier_port}", f"-io={self.driver}", *splice_flags(), *security_flags("client"),
            *self.client_flags], host=self.lab.server if is_reverse else self.lab.client)
        if is_reverse:
            self.server.wait_for_port(self.user_port)
            return
        self.client.wait_for_port(self.user_port)
        # The listener of a client that was killed a moment ago may be seen still, and is gone in the next.
        for _ in range(100 if self.client_starts else 0):
            if self.client.errors.count("listening for users") > self.client_starts:
                break
            time.sleep(0.02)
        self.client_starts += 1

    def check_alive(self):
        for process in (self.client, self.server):
            if process and not process.running:
                raise Failure(f"{process.name} ended with status {process.status}")


#: Keys and certificates of this run, made when they are first needed.
credentials = None
lock = threading.Lock()


def splice_flags():
    return [] if SPLICE == "auto" else [f"-splice={SPLICE}"]


def security_flags(role):
    if SECURITY == "none":
        return []
    folder = secrets()
    if SECURITY == "key":
        return [f"-key={folder}/key"]
    return [f"-cert={folder}/{role}.pem", f"-cert-key={folder}/{role}.key", f"-ca={folder}/ca.pem"]


def secrets():
    """A folder with a key, and with certificates of one authority for a server and a client."""
    global credentials
    with lock:
        if credentials is None:
            folder = tempfile.mkdtemp(prefix="tele-secrets-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            quietly([binary(), "keygen", f"-out={folder}/key", "-name=suite"])
            make_authority(folder, "ca")
            make_certificate(folder, "server", "ca",
                             f"DNS:tele-server,DNS:tele-server.test,IP:{SERVER_ADDRESS},IP:{CLIENT_NETWORK}.2,IP:127.0.0.1,IP:fe80::ff:fe00:102")
            make_certificate(folder, "client", "ca", "DNS:tele-client")
            credentials = folder
        return credentials


def quietly(argv):
    run = subprocess.run(argv, capture_output=True, text=True)
    if run.returncode:
        raise Failure(f"{argv[0]}: {run.stderr.strip()[-200:]}")


def make_authority(folder, name):
    quietly(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", f"/CN={name}", "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem"])


def make_certificate(folder, name, authority, alternatives, days="2"):
    quietly(["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
             "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.csr"])
    with open(f"{folder}/{name}.ext", "w", encoding="utf-8") as file:
        file.write(f"subjectAltName={alternatives}\n")
    quietly(["openssl", "x509", "-req", "-in", f"{folder}/{name}.csr", "-CA", f"{folder}/{authority}.pem",
             "-CAkey", f"{folder}/{authority}.key", "-CAcreateserial", "-days", days, "-extfile", f"{folder}/{name}.ext",
             "-out", f"{folder}/{name}.pem"])


found = None


def binary(side=""):
    """The tele under test: the environment's TELE, else the release build's. TELE_CLIENT and TELE_SERVER replace one side of usual paths."""
    global found
    if side and (path := os.environ.get(f"TELE_{side.upper()}")):
        return os.path.abspath(path)
    if found is None:
        path = os.environ.get("TELE")
        if not path:
            shown = subprocess.run(["swift", "build", "-c", "release", "--show-bin-path"],
                                   capture_output=True, text=True, cwd=os.path.dirname(os.path.dirname(HERE)))
            path = os.path.join(shown.stdout.strip(), "tele")
        if not os.access(path, os.X_OK):
            raise Failure(f"there is no program at {path}; build it or name it in TELE")
        found = os.path.abspath(path)
    return found
