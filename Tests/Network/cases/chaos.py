"""Random bytes both ways on twenty connections at once, short ones beside them, and a fault every second.

What one side sent is what the other received, by length and SHA-256; every half ended in order.
"""

import json
import os
import sys

from faults import FAULTS, LOSS
from path import HERE
from process import Failure, last_line
from runner import Case

CONNECTIONS = 20
ORIGIN_PORT = 7300
PATIENCE = 45
#: So little would mean that nearly nothing got through between the faults.
LEAST_BYTES = 2_000_000


def chaos(context):
    return story(context, context.options.seconds or (120 if context.options.long else 40), with_faults=True)


def clean(context):
    return story(context, 6, with_faults=False)


def story(context, seconds, with_faults, meanwhile=None, **options):
    """`meanwhile`: is told the path when bytes begin to flow. `options`: of the path."""
    lab = context.lab()
    path = context.path(lab, ORIGIN_PORT, **options)
    seed = context.random.getrandbits(32)
    origin = worker(lab, "origin", lab.server, seed, seconds, ("0.0.0.0", ORIGIN_PORT))
    origin.wait_for_port(ORIGIN_PORT)
    user = worker(lab, "user", lab.client, seed, seconds, path.address)
    if meanwhile:
        meanwhile(path)

    count = 0
    for _ in range(int(seconds)):
        if not user.running:
            break
        calm = context.random.uniform(0.05, 0.5)
        context.sleep(calm)
        if with_faults:
            fault = context.random.choice([*FAULTS.values(), LOSS])
            while not fault.applies(path):
                fault = context.random.choice([*FAULTS.values(), LOSS])
            fault.inflict(lab, path)
            context.sleep(1 - calm)
            fault.heal(lab, path)
            count += 1
        else:
            context.sleep(1 - calm)
    user.wait(PATIENCE + 15)
    origin.child.stdin.close()
    origin.wait(15)
    return compare(result(user), result(origin)) + f", {count} faults"


def worker(lab, role, host, seed, seconds, address):
    config = {"address": address, "seed": seed, "connections": CONNECTIONS, "seconds": seconds,
              "patience": PATIENCE}
    return lab.start(f"chaos-{role}", [sys.executable, os.path.join(HERE, "workers", "chaos.py"), role,
                                       json.dumps(config)], host=host, stdin="pipe")


def result(process):
    try:
        return json.loads(process.output.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        raise Failure(f"{process.name} gave no result: {last_line(process.errors)}") from None


def compare(user, origin):
    for side in (user, origin):
        if side["misplaced"]:
            raise Failure(f"misplaced: {side['misplaced'][0]} ({len(side['misplaced'])} in all)")
    users, origins = ({each["number"]: each for each in side["connections"]} for side in (user, origin))
    total = 0
    for number, mine in sorted(users.items(), key=lambda item: item[0]):
        theirs = origins.get(number)
        if theirs is None:
            raise Failure(f"connection {number} never reached the origin ({mine['end']})")
        for name, end in (("user", mine), ("origin", theirs)):
            if end["end"] != "fin" or not end["finished"]:
                raise Failure(f"connection {number} ended with “{end['end']}” for the {name}, not in "
                              f"order, after {end['received'][0]} bytes received and {end['sent'][0]} sent")
        if mine["sent"] != theirs["received"] or theirs["sent"] != mine["received"]:
            raise Failure(f"connection {number}: the user sent {mine['sent']} and received "
                          f"{mine['received']}, the origin received {theirs['received']} and "
                          f"sent {theirs['sent']}")
        total += mine["sent"][0] + mine["received"][0]
    if len(users) <= CONNECTIONS or total < LEAST_BYTES:
        raise Failure(f"only {total} bytes went through {len(users)} connections")
    return f"{total / 1e6:.0f} MB over {len(users)} connections, equal and ended in order"


def cases():
    yield Case("chaos", chaos, weight=2, drivers="both", canaries=(("relay", "connection"),))
    yield Case("chaos.clean", clean, weight=2, canaries=(
        ("bad-lose", "misplaced"), ("bad-double", "misplaced"), ("bad-short", "sent"), ("bad-deaf", "sent")))
