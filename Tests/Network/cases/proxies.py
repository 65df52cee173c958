"""Carriers through HTTP and SOCKS5 proxies: the server is reached by them only, and everything else is as it is without."""

import glob
import os
import time

from ends import Switchboard, call, exchange
from faults import FAULTS
from lab import SERVER_ADDRESS
from path import binary, secrets, splice_flags
from process import Failure
from runner import Case

from .mappings import Route

ORIGIN_PORT = 7990
PROXY_PORT, CARRIER_PORT, USER_PORT = 3128, 40310, 17990


class Proxied:
    """A tele server that listens on loopback only, a proxy on its host, and a client that has no other way."""

    def __init__(self, context, lab, scheme, proxy, client_flags=(), start=True):
        self.lab, self.address, self.driver = lab, ("127.0.0.1", USER_PORT), context.job.driver or "auto"
        self.client_flags = [f"-proxy={scheme}{SERVER_ADDRESS}:{PROXY_PORT}", *client_flags]
        self.argv = proxy
        self.start_proxy()
        key = f"{lab.directory}/key"
        run = lab.start("keygen", [binary(), "keygen", f"-out={key}"], host=lab.server)
        run.wait(10)
        self.key = f"-key={key}"
        self.server = lab.start("tele-server", [binary(), "-server", f"-in=127.0.0.1:{ORIGIN_PORT}", f"-out=127.0.0.1:{CARRIER_PORT}",
                                                f"-io={self.driver}", self.key], host=lab.server)
        self.server.wait_for_port(CARRIER_PORT)
        self.client = None
        if start:
            self.start_client()

    def start_proxy(self):
        self.proxy = self.lab.start("proxy", self.argv, host=self.lab.server)
        self.proxy.wait_for_port(PROXY_PORT)

    def start_client(self):
        self.client = self.lab.start("tele-client", [binary(), "-client", f"-in=127.0.0.1:{USER_PORT}", f"-out=localhost:{CARRIER_PORT}",
                                                     f"-io={self.driver}", *splice_flags(), self.key, *self.client_flags], host=self.lab.client)
        self.client.wait_for_port(USER_PORT)


def tinyproxy(folder, *lines):
    """Its configuration has no name on the command line that it could take for a flag."""
    with open(f"{folder}/tinyproxy.conf", "w", encoding="utf-8") as file:
        file.write("\n".join([f"Port {PROXY_PORT}", "Timeout 600", "Allow 0.0.0.0/0", *lines]) + "\n")
    return ["tinyproxy", "-d", "-c", f"{folder}/tinyproxy.conf"]


def squid(context, folder):
    """With a password, by a helper that knows one user."""
    helper = f"{folder}/login"
    with open(helper, "w", encoding="utf-8") as file:
        file.write('#!/bin/sh\nwhile read -r user password; do\n'
                   '    if [ "$user:$password" = "me:it%20is%20secret" ]; then echo OK; else echo ERR; fi\ndone\n')
    os.chmod(helper, 0o755)
    # squid gives up root before it runs the helper.
    os.chmod(folder, 0o711)
    with open(f"{folder}/squid.conf", "w", encoding="utf-8") as file:
        file.write(f"http_port {PROXY_PORT}\npid_filename none\ncache deny all\naccess_log none\ncache_log stdio:/dev/null\ncoredump_dir {folder}\n"
                   f"cache_effective_user nobody\nauth_param basic program {helper}\nauth_param basic children 1\nauth_param basic realm lab\n"
                   "acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all\nshutdown_lifetime 0 seconds\n")
    # Its shared memory is named after the service, and stays when it is killed.
    service = f"lab{os.getpid()}"
    context.callback(lambda: [os.unlink(file) for file in glob.glob(f"/dev/shm/{service}-*")])
    return ["squid", "-N", "-n", service, "-f", f"{folder}/squid.conf"]


def password_file(lab, text):
    path = f"{lab.directory}/password"
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, 0o600)
    return f"-proxy-auth={path}"


def through(make):
    """A stream goes on through silence and through a proxy that is killed and started again."""
    def story(context):
        lab = context.lab()
        path = make(context, lab)
        notes = []
        with Switchboard(lab, ORIGIN_PORT) as switchboard:
            user, origin = call(lab, path, switchboard)
            exchange(user, origin, 100_000)
            for fault in ("blackhole", "reset"):
                FAULTS[fault].inflict(lab, path)
                context.sleep(3)
                FAULTS[fault].heal(lab, path)
                began = time.monotonic()
                exchange(user, origin, 100_000, 8)
                notes.append(f"{fault} {time.monotonic() - began:.2f} s")
            path.proxy.kill()
            path.proxy.wait(5)
            context.sleep(1)
            path.start_proxy()
            began = time.monotonic()
            exchange(user, origin, 100_000, 8)
            notes.append(f"a new proxy {time.monotonic() - began:.2f} s")
        if "the proxy" not in path.client.errors:
            raise Failure("the log does not say that it was the proxy that was away")
        return ", ".join(notes)
    return story


def http(context, lab):
    return Proxied(context, lab, "http://", tinyproxy(lab.directory))


def socks(context, lab):
    return Proxied(context, lab, "socks5://", ["microsocks", "-p", str(PROXY_PORT), "-u", "me", "-P", "secret"],
                   [password_file(lab, "# for the lab\nme:secret\n")])


def http_with_password(context, lab):
    return Proxied(context, lab, "http://me@", squid(context, lab.directory), [password_file(lab, "other:wrong\nme:it is secret\n")])


def told(context):
    """What is wrong with a proxy is said, and who asks for it learns it by an exit status."""
    lab = context.lab()
    cases = [
        ("http://", lambda: tinyproxy(lab.directory, "BasicAuth me secret"), [], 77, "requires a user name and password"),
        ("http://", lambda: tinyproxy(lab.directory, "BasicAuth me secret"), [password_file(lab, "me:wrong\n")], 77, "rejects the user name or password"),
        ("http://", lambda: tinyproxy(lab.directory, "ConnectPort 443"), [], 77, "does not allow a connection to localhost"),
        ("socks5://", lambda: ["microsocks", "-p", str(PROXY_PORT), "-u", "me", "-P", "secret"], [], 77, "requires a user name and password"),
        ("socks5://", lambda: ["socat", f"TCP-LISTEN:{PROXY_PORT},fork,reuseaddr", "SYSTEM:echo hello; sleep 1"], [], 69, "does not speak SOCKS5"),
        ("http://", lambda: ["socat", f"TCP-LISTEN:{PROXY_PORT},fork,reuseaddr", "SYSTEM:sleep 60"], [], 69, "does not answer: is it an HTTP proxy?"),
    ]
    for scheme, make, flags, status, words in cases:
        path = Proxied(context, lab, scheme, make(), [*flags, "-exit-on-failure"], start=False)
        path.client = lab.start("tele-client", [binary(), "-client", f"-in=127.0.0.1:{USER_PORT}", f"-out=localhost:{CARRIER_PORT}", path.key,
                                                *path.client_flags], host=lab.client)
        found = path.client.wait(30)
        if found != status or words not in path.client.errors:
            raise Failure(f"{scheme} {path.argv} {flags}: status {found}, wanted {status} and “{words}”: {path.client.errors[-300:]}")
        for process in (path.server, path.proxy):
            process.kill()
            process.wait(5)
    return f"{len(cases)} faults, each in its own words"


def shared_port(context):
    """HAProxy shares port 443 between a web server and tele, which it tells apart by ALPN or by SNI, with a key and with certificates."""
    notes = []
    for security in ("key", "certificates"):
        for rule in ("{ req.ssl_alpn tele }", "{ req.ssl_sni -i tele-server.test }"):
            lab = context.lab()
            folder = secrets()

            def flags(role, security=security, folder=folder):
                return ([f"-key={folder}/key"] if security == "key" else
                        [f"-cert={folder}/{role}.pem", f"-cert-key={folder}/{role}.key", f"-ca={folder}/ca.pem"])
            config = os.path.join(lab.directory, "haproxy.cfg")
            with open(config, "w", encoding="utf-8") as file:
                file.write("frontend https\n  mode tcp\n  bind :443\n  timeout client 1h\n  tcp-request inspect-delay 5s\n"
                           f"  tcp-request content accept if {{ req.ssl_hello_type 1 }}\n  use_backend tele if {rule}\n  default_backend web\n"
                           "backend tele\n  mode tcp\n  timeout connect 5s\n  timeout server 1h\n"
                           f"  server tele 127.0.0.1:{CARRIER_PORT}\n"
                           "backend web\n  mode tcp\n  timeout connect 5s\n  timeout server 1h\n  server web 127.0.0.1:8443\n")
            lab.client.write_etc("hosts", f"127.0.0.1 localhost\n{SERVER_ADDRESS} tele-server.test www.test\n")
            lab.start("web", ["openssl", "s_server", "-quiet", "-accept", "8443", "-cert", f"{folder}/server.pem", "-key", f"{folder}/server.key",
                              "-www"], host=lab.server).wait_for_port(8443)
            lab.start("haproxy", ["haproxy", "-db", "-f", config], host=lab.server).wait_for_port(443)
            driver = context.job.driver or "auto"
            lab.start("tele-server", [binary(), "-server", f"-in=127.0.0.1:{ORIGIN_PORT}", f"-out=127.0.0.1:{CARRIER_PORT}", f"-io={driver}",
                                      *flags("server")], host=lab.server).wait_for_port(CARRIER_PORT)
            client = lab.start("tele-client", [binary(), "-client", f"-in=127.0.0.1:{USER_PORT}", "-out=tele-server.test:443", f"-io={driver}",
                                               *flags("client")], host=lab.client)
            client.wait_for_port(USER_PORT)
            with Switchboard(lab, ORIGIN_PORT) as switchboard:
                pair = call(lab, Route(USER_PORT), switchboard)
                exchange(*pair)
                lab.forward("drop")
                time.sleep(2)
                lab.forward()
                exchange(*pair)
                page = lab.start("curl", ["curl", "-sk", "https://www.test/"], host=lab.client)
                if page.wait(10) != 0 or "s_server" not in page.output:
                    raise Failure(f"the web server is not reached: {page.status} {page.output[-200:]}")
                if "carrier up" not in client.errors:
                    raise Failure(client.errors[-300:])
                # Who wants another protocol has come to the wrong server.
                stranger = lab.start("stranger", ["openssl", "s_client", "-connect", f"127.0.0.1:{CARRIER_PORT}", "-alpn", "h2"], host=lab.server)
                if stranger.wait(10) == 0 or "no application protocol" not in stranger.errors:
                    raise Failure(f"a client of HTTP/2 is not turned away: {stranger.status} {stranger.errors[-300:]}")
                exchange(*pair)
            lab.close()
            notes.append(f"{security} by {'ALPN' if 'alpn' in rule else 'SNI'}")
    return ", ".join(notes)


def cases():
    return [
        Case("proxies.http", through(http), needs=("tinyproxy",), drivers="either", only_tele=True, only_plain=True),
        Case("proxies.http-password", through(http_with_password), needs=("squid",), only_tele=True, only_plain=True),
        Case("proxies.socks-password", through(socks), needs=("microsocks",), drivers="either", only_tele=True, only_plain=True),
        Case("proxies.shared-port", shared_port, needs=("haproxy", "curl"), only_tele=True, only_plain=True),
        Case("proxies.told", told, needs=("tinyproxy", "microsocks"), only_tele=True, only_plain=True),
    ]
