"""The ways in which the network fails. Each fault can be inflicted on a laboratory and healed again.

Up is the way from the client to the server. A fault that stops a process needs a path that has one.
"""

from dataclasses import dataclass
from typing import Callable


@dataclass(frozen=True)
class Fault:
    name: str
    inflict: Callable
    heal: Callable
    #: The process that it stops: "client", "server" or None.
    stops: str | None = None

    def applies(self, path):
        # Of a reverse path the client's host has the tele server, which stays where it is.
        return (self.stops is None or getattr(path, self.stops) is not None) and not (self.name == "address" and path.kind == "reverse")


def rules(name, *lines):
    return Fault(name, lambda lab, path: lab.forward(*lines), lambda lab, path: lab.forward())


def stopping(role):
    return Fault(f"stop-{role}", lambda lab, path: getattr(path, role).stop(),
                 lambda lab, path: getattr(path, role).resume(), role)


FAULTS = {fault.name: fault for fault in [
    rules("blackhole", "drop"),
    rules("blackhole-up", "iifname client0 drop"),
    rules("blackhole-down", "iifname server0 drop"),
    rules("reset", "meta l4proto tcp reject with tcp reset", "drop"),
    rules("unreachable", "reject with icmpx type host-unreachable"),
    Fault("link-down", lambda lab, path: lab.link(False), lambda lab, path: lab.link(True)),
    Fault("address", lambda lab, path: lab.take_address(), lambda lab, path: lab.give_address()),
    stopping("client"),
    stopping("server"),
]}

#: Only for chaos: it slows, it does not stop.
LOSS = rules("loss", "numgen random mod 100 < 25 drop")
