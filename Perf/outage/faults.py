"""The ways in which a path fails, and is whole again. Each is a pair of actions on the hosts and the transport."""
import threading
from dataclasses import dataclass
from typing import Callable

from hosts import SERVER_ADDRESS


@dataclass(frozen=True)
class Fault:
    name: str
    meaning: str
    inflict: Callable
    heal: Callable
    #: It needs processes between the ends.
    needs_processes: bool = False


def filtered(host, *rules: str):
    """What the host does to packets of the path; no rules: it lets them pass."""
    chains = "".join(f"  chain {hook} {{ type filter hook {hook} priority 0; {' '.join(rule + ';' for rule in rules if rule.startswith(side))} }}\n"
                     for hook, side in (("input", "iifname"), ("output", "oifname")))
    host.run("nft", "-f", "-", text="table inet outage {}\ndelete table inet outage\n"
             + (f"table inet outage {{\n{chains}}}\n" if rules else ""))


def both(action: str) -> tuple[str, str]:
    return f'iifname "path0" {action}', f'oifname "path0" {action}'


def switched(name, meaning, which):
    return Fault(name, meaning, lambda hosts, transport: hosts.tell(f"off {which}"),
                 lambda hosts, transport: hosts.tell(f"on {which}"))


def refused(name, meaning, action):
    return Fault(name, meaning, lambda hosts, transport: filtered(hosts.client, *both(action)),
                 lambda hosts, transport: filtered(hosts.client))


def link_down(hosts, transport):
    hosts.client.ip("link", "set", "path0", "down")


def link_up(hosts, transport):
    hosts.client.ip("link", "set", "path0", "up")


def forget(hosts, transport):
    """A box on the way loses its table: what it knew is swallowed for ever."""
    hosts.tell("off both")
    ports = ", ".join(map(str, hosts.client.ports_towards(SERVER_ADDRESS))) or "1"
    filtered(hosts.client, f'iifname "path0" tcp dport {{ {ports} }} drop', f'oifname "path0" tcp sport {{ {ports} }} drop')


class Flapping:
    """A second off, a second on."""

    def __init__(self):
        self._ends = {}

    def inflict(self, hosts, transport):
        ended = threading.Event()

        def flap():
            off = True
            while True:
                hosts.tell("off both" if off else "on both")
                off = not off
                if ended.wait(1):
                    return
        thread = threading.Thread(target=flap, daemon=True)
        self._ends[hosts] = (ended, thread)
        thread.start()

    def heal(self, hosts, transport):
        ended, thread = self._ends.pop(hosts)
        ended.set()
        thread.join()
        hosts.tell("on both")


flapping = Flapping()
FAULTS = {fault.name: fault for fault in [
    switched("blackhole", "nothing passes", "both"),
    switched("up", "nothing passes from the client to the server", "up"),
    switched("down", "nothing passes from the server to the client", "down"),
    refused("reset", "every packet is answered by RST", "meta l4proto tcp reject with tcp reset"),
    refused("unreachable", "every packet is answered by “host unreachable”", "reject with icmpx type host-unreachable"),
    Fault("link-down", "the client's interface is down", link_down, link_up),
    Fault("address", "the client loses its address and gets another",
          lambda hosts, transport: hosts.client.ip("address", "flush", "dev", "path0"),
          lambda hosts, transport: hosts.new_address()),
    Fault("stopped", "the transport's client process is stopped",
          lambda hosts, transport: transport.pause(), lambda hosts, transport: transport.resume(), needs_processes=True),
    Fault("middlebox", "nothing passes, and afterwards only what is new", forget,
          lambda hosts, transport: hosts.tell("on both")),
    Fault("flapping", "a second off, a second on", flapping.inflict, flapping.heal),
]}


def clear(hosts):
    """The path as it was made, whatever a fault left behind."""
    filtered(hosts.client)
