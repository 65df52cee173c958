"""Several event loops in one process (-threads): each has sessions of its own, and people see one process."""

import os
import random
import shutil
import signal
import subprocess

from ends import Switchboard, call, exchange
from lab import SERVER_ADDRESS
from path import binary, status_of
from process import Failure
from runner import Case

from .mappings import Files, Route
from .subflows import Bulk
from .upgrade import controls, path_with_controls, upgrade

ORIGIN_PORT = 7670
USERS = 12
#: Of the client, and of the server: sessions of the client's loops are spread over the server's.
CLIENT_THREADS, SERVER_THREADS = 2, 3


def close_one_carrier(lab):
    lines = subprocess.run(["ip", "netns", "exec", lab.client.name, "ss", "-Htn", "state", "established", "dst", SERVER_ADDRESS],
                           capture_output=True, text=True).stdout.split("\n")
    line = random.choice([line for line in lines if line.strip()])
    subprocess.run(["ip", "netns", "exec", lab.client.name, "ss", "-K", "src", line.split()[2]], capture_output=True)


def carry(context):
    """Streams of random bytes, both ways, through loops of their own: carriers are closed one by one, the path is silent for two seconds, both programs
    are replaced, and every byte arrives."""
    lab = context.lab()
    path = path_with_controls(context, lab, ORIGIN_PORT, client_flags=[f"-threads={CLIENT_THREADS}"], server_flags=[f"-threads={SERVER_THREADS}"])
    paths = controls(lab)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        pairs = [call(lab, path, switchboard) for _ in range(USERS)]
        flows = [Bulk(*ends, seed) for seed, pair in enumerate(pairs) for ends in (pair, pair[::-1])]

        def advance(what):
            before = [flow.received for flow in flows]
            if not context.until(20, lambda: all(flow.trouble or flow.received > count for flow, count in zip(flows, before))):
                raise Failure(f"{what}: some streams stand still: {[flow.received - count for flow, count in zip(flows, before)]}")
            for flow in flows:
                flow.check(what)

        def check(what):
            for role, count in (("client", CLIENT_THREADS), ("server", SERVER_THREADS)):
                status = status_of(paths[role])
                # A session of an attempt that was given up may be there besides, empty.
                streams = [session["streams"] for session in status["sessions"] if session["streams"]]
                if (status["threads"], status.get("silentThreads")) != (count, 0) or status["connections"] != USERS:
                    raise Failure(f"{what}: the {role} says {status['threads']} threads, {status.get('silentThreads')} silent, "
                                  f"{status['connections']} connections")
                if streams != [USERS // CLIENT_THREADS] * CLIENT_THREADS:
                    raise Failure(f"{what}: the {role}'s sessions have {streams} streams")

        advance("at the start")
        check("at the start")
        for _ in range(6):
            close_one_carrier(lab)
            advance("a carrier was closed")
        lab.forward("drop")
        context.sleep(2)
        lab.forward()
        advance("behind an outage")
        check("behind an outage")
        copy = shutil.copy(binary(), os.path.join(lab.directory, "next"))
        for side in (paths["client"], paths["server"], paths["client"]):
            words = upgrade(side, f"-binary={copy}")
            if f"{USERS} connections kept" not in words:
                raise Failure(f"the upgrade says: {words}")
            advance("another program")
        check("other programs")
        for flow in flows:
            flow.running = False
        for flow in flows:
            flow.join()
        if "session lost" in path.client.errors:
            raise Failure("a session was lost")
    return f"{sum(flow.received for flow in flows) >> 20} MiB by {USERS} users both ways, through closed carriers, an outage and three upgrades"


def files(context):
    """One process for people: a file is read again, its mappings change, users of both ways are served, and a drain waits for all."""
    lab = context.lab()
    path = Files(context, lab, {"one": "127.0.0.1:9701", "gone": "127.0.0.1:9702"}, {"one": "127.0.0.1:7671", "gone": "127.0.0.1:7672"},
                 client=f'threads = {CLIENT_THREADS}\n[client.origins]\nback = "127.0.0.1:7674"\n',
                 server=f'threads = {SERVER_THREADS}\nmetrics = "127.0.0.1:9799"\n[server.listen]\nback = "127.0.0.1:9704"\n')

    def serve(route, origin, ends_of=lab):
        """More users than there are loops."""
        for _ in range(2 * SERVER_THREADS):
            ends = call(ends_of, route, origin)
            exchange(*ends)
            for end in ends:
                end.close()

    class Swapped:
        client, server = lab.server, lab.client

    def reload(role):
        process = getattr(path, role)
        count = process.errors.count("notice reloaded")
        process.signal(signal.SIGHUP)
        if not context.until(5, lambda: process.errors.count("notice reloaded") > count):
            raise Failure(f"the {role} did not reload: {process.errors[-300:]}")

    with Switchboard(lab, 7671) as one, Switchboard(lab, 7672) as gone, Switchboard(lab, 7673) as new, Switchboard(Swapped, 7674) as back:
        serve(Route(9701), one)
        serve(Route(9702), gone)
        kept = call(lab, Route(9702), gone)
        if not context.until(10, lambda: "serving users of the server" in path.client.errors):
            raise Failure("the client does not serve the reverse mapping")
        serve(Route(9704), back, Swapped)

        path.write("server", f'out = ":40300"\nthreads = {SERVER_THREADS}\nmetrics = "127.0.0.1:9799"\n[server.listen]\nback = "127.0.0.1:9704"\n',
                   "origins", {"one": "127.0.0.1:7671", "new": "127.0.0.1:7673"})
        path.write("client", f'out = "{SERVER_ADDRESS}:40300"\nthreads = {CLIENT_THREADS}\n[client.origins]\nback = "127.0.0.1:7674"\n',
                   "listen", {"one": "127.0.0.1:9701", "new": "127.0.0.1:9703"})
        reload("server")
        reload("client")
        if not context.until(5, lambda: "mapping=new" in path.client.errors):
            raise Failure("the client does not listen for the new mapping")
        serve(Route(9703), new)
        serve(Route(9701), one)
        exchange(*kept)

        def ask(what):
            return subprocess.run(["ip", "netns", "exec", lab.server.name, "curl", "-sS", f"http://127.0.0.1:9799/{what}"],
                                  capture_output=True, text=True, timeout=10).stdout

        page = ask("metrics")
        numbers = dict(line.rsplit(" ", 1) for line in page.splitlines() if line and not line.startswith("#"))
        served = 2 * SERVER_THREADS
        if float(numbers['tele_mapping_opened_total{mapping="one"}']) != 2 * served or float(numbers["tele_sessions"]) != CLIENT_THREADS:
            raise Failure(f"the metrics do not count all loops: {[line for line in page.splitlines() if 'mapping' in line][:20]}")
        if ask("readyz").strip() != "ready":
            raise Failure("the server is not ready")

        context.paths.remove(path)
        words = subprocess.run([binary(), "drain", f"-control={path.control('client')}"], capture_output=True, text=True, timeout=10).stdout
        if not words.startswith("draining the client of"):
            raise Failure(f"tele drain says: {words}")
        context.sleep(0.5)
        exchange(*kept)
        if not path.client.running:
            raise Failure("the client does not wait for an open connection")
        for end in kept:
            end.close()
        if not context.until(5, lambda: not path.client.running):
            raise Failure("the client drains for ever")
    return "mappings added, removed and reversed by a reload, counted as one process, drained as one"


def cases():
    yield Case("threads.carry", carry, drivers="both", only_tele=True)
    yield Case("threads.files", files, drivers="both", only_tele=True)
