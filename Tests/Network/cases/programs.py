"""Real programs: directly, through tele, and through tele while the network fails in each way in turn."""

import time

import programs
from faults import FAULTS
from process import Failure
from programs.iperf3 import Iperf3OneWay
from runner import Case


def run(kind, fault):
    def story(context):
        lab = context.lab()
        program = kind(context, lab)
        path = context.path(lab, program.origin_port, user_port=program.user_port)
        program.prepare(path)
        user = program.start(path)
        if fault is None:
            user.wait(program.patience)
            return program.check(user)

        context.sleep(program.fault_after)
        require_running(user, program, "before the network failed")
        fault.inflict(lab, path)
        context.sleep(context.options.stop if fault.stops else context.options.outage)
        # A client that ends now was either not disturbed by the fault or gave up because of it.
        ended = not user.running
        fault.heal(lab, path)
        healed = time.monotonic()
        user.wait(program.patience)
        took = time.monotonic() - healed
        note = program.check(user)
        if ended:
            raise Failure(f"{program.name} ended well during the outage, so the outage was none")
        return f"{note}, {took:.1f} s after the heal"
    return story


def require_running(user, program, when):
    if not user.running:
        program.check(user)
        raise Failure(f"{program.name} ended {when}; it has too little to do on this machine")


def cases():
    for program in programs.ALL:
        common = {"weight": program.weight, "needs": program.needs}
        yield Case(f"{program.name}.direct", run(program, None), direct=True, **common)
        yield Case(f"{program.name}.clean", run(program, None), **common)
        for fault in FAULTS.values():
            # A connection that a middlebox resets is lost without tele.
            canaries = (("relay", program.without_tele),) if fault.name == "reset" else ()
            yield Case(f"{program.name}.{fault.name}", run(program, fault), only_tele=fault.stops is not None,
                       canaries=canaries, kind=f"programs/{fault.name}", **common)
    yield Case("iperf3.one-way.clean", run(Iperf3OneWay, None), weight=Iperf3OneWay.weight,
               needs=Iperf3OneWay.needs)
