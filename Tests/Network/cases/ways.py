"""Ways between client and server that are not broken but difficult: packets of full size vanish, firewalls ban who dials often."""

import subprocess
import threading
import time

from ends import Switchboard, call, exchange, receive_exactly
from lab import SERVER_ADDRESS, ip
from path import CARRIER_PORT, binary, security_flags
from process import Failure
from runner import Case

from cases.mappings import Route

ORIGIN_PORT = 7980
#: What passes where packets of full size do not.
PASSES = 1400


def single_segments(lab):
    """Packets in the laboratory are as they would be on a wire: the rules see each segment, not 64 KiB at once."""
    for name in (lab.client.name, lab.server.name):
        ip("-n", name, "link", "set", "eth0", "gso_max_segs", "1")
    for end in ("client0", "server0"):
        ip("-n", lab.router.name, "link", "set", end, "gso_max_segs", "1")


def upload(user, origin, count, seconds):
    """Sends so many bytes and sees them arrive: how long that took."""
    began = time.monotonic()
    failure = []

    def send():
        try:
            user.settimeout(seconds)
            user.sendall(b"m" * count)
        except OSError as error:
            failure.append(error)
    sender = threading.Thread(target=send)
    sender.start()
    origin.settimeout(seconds)
    arrived = 0
    try:
        while arrived < count:
            part = origin.recv(1 << 20)
            if not part:
                raise Failure(f"a connection ended after {arrived} of {count} bytes")
            arrived += len(part)
    except TimeoutError:
        raise Failure(f"{arrived} of {count} bytes arrived, and no more for {seconds} s") from None
    finally:
        sender.join()
    if failure:
        raise Failure(f"a user could not send ({failure[0]})")
    return time.monotonic() - began


def black_hole(probing):
    """The path begins to swallow packets of full size, without a word to the sender. `probing`: what TCP does about that itself."""
    def story(context):
        lab = context.lab()
        single_segments(lab)
        for host in (lab.client, lab.server):
            host.sysctl("net.ipv4.tcp_mtu_probing", probing)
        path = context.path(lab, ORIGIN_PORT)
        notes = []
        with Switchboard(lab, ORIGIN_PORT) as switchboard:
            for direction in ("up", "down"):
                user, origin = call(lab, path, switchboard)
                ends = (user, origin) if direction == "up" else (origin, user)
                upload(*ends, 1 << 20, 10)
                lab.forward(f"meta length > {PASSES} drop")
                took = upload(*ends, 4 << 20, 20)
                notes.append(f"{direction} {took:.1f} s")
                if took > 5:
                    raise Failure(f"4 MiB {direction} took {took:.1f} s")
                # Whoever begins on such a path gets on at once, and a lost carrier is replaced as fast as ever.
                lab.forward("drop")
                context.sleep(1.5)
                lab.forward(f"meta length > {PASSES} drop")
                again = upload(*ends, 4 << 20, 20)
                notes.append(f"after a cut {again:.1f} s")
                if again > 2.5:
                    raise Failure(f"4 MiB {direction} took {again:.1f} s after a cut")
                lab.forward()
                path.client.kill()
                path.client.wait(5)
                path.start_client()
        if "full-size packets" not in path.client.errors:
            raise Failure("the log does not name the cause")
        return ", ".join(notes)
    return story


def firewall(lab):
    """As `ufw limit` does: more than six new connections at once, or twelve a minute, and the address is banned for 30 s, which each further
    attempt renews. What is established passes."""
    lab.nft("""
table inet lab {
    set banned { type ipv4_addr; flags dynamic,timeout; timeout 30s; }
    set tries { type ipv4_addr; flags dynamic,timeout; timeout 60s; }
    chain firewall {
        type filter hook forward priority -10;
        iifname client0 ct state new ip saddr @banned update @banned { ip saddr timeout 30s } counter drop
        iifname client0 ct state new add @tries { ip saddr limit rate over 12/minute burst 6 packets } add @banned { ip saddr timeout 30s } drop
    }
}
""")


def arrival(end, count, seconds, what):
    """How long so many bytes took to arrive."""
    began = time.monotonic()
    end.settimeout(seconds)
    try:
        receive_exactly(end, count)
    except TimeoutError:
        raise Failure(f"locked out for {seconds} s after {what}") from None
    return time.monotonic() - began


def ban(*silent):
    """Ten seconds of silence in one direction or both make tele dial, and the firewall bans it. The old carrier is let through."""
    def story(context):
        lab = context.lab()
        path = context.path(lab, ORIGIN_PORT)
        firewall(lab)
        with Switchboard(lab, ORIGIN_PORT) as switchboard:
            user, origin = call(lab, path, switchboard)
            notes = []
            for _ in range(2):
                lab.forward(*silent)
                user.sendall(b"x" * 100)
                context.sleep(10)
                lab.forward()
                took = arrival(origin, 100, 90, "silence")
                notes.append(f"{took:.1f} s")
                if took > 6:
                    raise Failure(f"back {took:.1f} s after the silence")
                exchange(user, origin)
        return "back after " + ", ".join(notes)
    return story


def banned_without_carrier(context):
    """The same, and the firewall has forgotten the old carrier: only a pause longer than the ban lets tele in again."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT)
    firewall(lab)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, path, switchboard)
        carrier = subprocess.run(["ip", "netns", "exec", lab.client.name, "ss", "-Htn", "dport", "=", f":{CARRIER_PORT}"],
                                 capture_output=True, text=True, check=True).stdout.split()[3].rpartition(":")[2]
        lab.forward("iifname client0 drop")
        user.sendall(b"x" * 100)
        context.sleep(10)
        # A reset from a middlebox: the carrier is gone on this side, and its packets pass no more.
        lab.forward(f"tcp sport {carrier} reject with tcp reset", f"tcp dport {carrier} drop")
        took = arrival(origin, 100, 90, "silence and a reset")
        if "dial attempts unanswered, pausing" not in path.client.errors:
            raise Failure("the log does not say why tele pauses")
        exchange(user, origin)
    return f"back after {took:.1f} s"


def link_local(context):
    """Client and server speak over link-local addresses, each bound to a link that is removed and made anew with another number."""
    lab = context.lab()
    def wire():
        ip("link", "add", "link0", "netns", lab.client.name, "address", "02:00:00:00:01:01", "type", "veth",
           "peer", "name", "link0", "netns", lab.router.name, "address", "02:00:00:00:01:02")
        for host in (lab.client, lab.router):
            ip("-n", host.name, "link", "set", "link0", "up")
    address = "fe80::ff:fe00:102%link0"
    for host in (lab.client, lab.router):
        host.sysctl("net.ipv6.conf.default.accept_dad", 0)
        host.sysctl("net.ipv6.conf.default.dad_transmits", 0)
    wire()
    context.sleep(0.5)
    server = lab.start("tele-server", [binary(), "-server", f"-in={SERVER_ADDRESS}:{ORIGIN_PORT}", f"-out=[{address}]:{CARRIER_PORT}",
                                       "-control=none", *security_flags("server")], host=lab.router)
    if not context.until(5, lambda: "listening for carriers" in server.errors):
        raise Failure(f"the server does not start: {server.errors}")
    client = lab.start("tele-client", [binary(), "-client", "-in=127.0.0.1:9301", f"-out=[{address}]:{CARRIER_PORT}", "-control=none",
                                       *security_flags("client")], host=lab.client)
    if not context.until(5, lambda: "carrier up" in client.errors):
        raise Failure(f"no carrier: {client.errors}")
    notes = []
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, Route(9301), switchboard)
        for _ in range(2):
            ip("-n", lab.client.name, "link", "del", "link0")
            user.sendall(b"x" * 100)
            # Another link takes the number.
            number = len(notes)
            ip("link", "add", f"taken{number}", "netns", lab.client.name, "type", "veth",
               "peer", "name", f"taken{number}", "netns", lab.router.name)
            context.sleep(2)
            wire()
            notes.append(f"{arrival(origin, 100, 10, 'the link was made anew'):.2f} s")
            exchange(user, origin)
    return "back after " + ", ".join(notes)


def cases():
    return [
        Case("ways.full-size-packets-vanish", black_hole(0), drivers="either", only_tele=True),
        Case("ways.full-size-packets-vanish-probing", black_hole(1), only_tele=True, short=False),
        Case("ways.ban-up", ban("iifname client0 drop"), only_tele=True, short=False),
        Case("ways.ban-down", ban("iifname server0 drop"), only_tele=True, short=False),
        Case("ways.ban-both", ban("drop"), only_tele=True, short=False),
        Case("ways.ban-without-carrier", banned_without_carrier, only_tele=True),
        Case("ways.link-local", link_local, only_tele=True),
    ]
