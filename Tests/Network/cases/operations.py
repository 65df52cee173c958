"""Running tele as a service, and what it shows of itself: status, metrics, ssh by command, socket activation."""

import json
import os
import signal
import subprocess
import threading
import time

import programs
from ends import Switchboard, call, exchange
from faults import FAULTS
from lab import SERVER_ADDRESS
from path import binary, security_flags, status_of
from process import Failure
from programs.ssh import client_options, prepare_sshd
from runner import Case

from cases.mappings import CARRIER, CHANGED, KEPT, Files, Route, ask


class SshByCommand(programs.Ssh):
    """Finds its way by ProxyCommand; there is no tele client but the one that ssh starts."""
    name_of_mapping = "ssh"

    def start(self, path):
        command = f"{binary()} connect -out={SERVER_ADDRESS}:{CARRIER} {' '.join(security_flags('client'))} {self.name_of_mapping}"
        pause = ".1" if self.options.long else ".05"
        return self.lab.start("ssh", [
            "ssh", *client_options(self), "-o", f"ProxyCommand={command}", "root@anywhere",
            f"for i in $(seq {programs.ssh.LINES}); do echo line $i; sleep {pause}; done; exit {programs.ssh.STATUS}"],
            host=self.lab.client)


def connect(context):
    """ssh by ProxyCommand, against a real sshd, through 20 s of silence (short: 4 s)."""
    lab = context.lab()
    program = SshByCommand(context, lab)
    program.prepare(None)
    path = Files(context, lab, {"ssh": "127.0.0.1:9101"}, {"ssh": f"127.0.0.1:{program.origin_port}"})
    user = program.start(path)
    context.sleep(2)
    FAULTS["blackhole"].inflict(lab, path)
    context.sleep(20 if context.options.long else context.options.outage)
    FAULTS["blackhole"].heal(lab, path)
    user.wait(program.patience)
    return program.check(user)


class SshInOneWord(programs.Ssh):
    """`tele ssh`: no tele process runs anywhere when it starts."""

    def prepare(self, path):
        folder = self.directory
        for name in ("bin", "there", "here", "home"):
            os.makedirs(f"{folder}/{name}")
        os.symlink(os.path.abspath(binary()), f"{folder}/bin/tele")
        # What the host's shell finds: a PATH with tele, and a folder of this case for the server's files.
        prepare_sshd(self, f"SetEnv PATH={folder}/bin:{os.environ['PATH']} XDG_RUNTIME_DIR={folder}/there HOME={folder}/home\n")

    def argv(self, command, *flags):
        return ["tele", "ssh", *flags, *client_options(self), "-p", str(self.origin_port), f"root@{SERVER_ADDRESS}", command]

    def start(self, path):
        pause = ".1" if self.options.long else ".05"
        return self.ssh("ssh", f"for i in $(seq {programs.ssh.LINES}); do echo line $i; sleep {pause}; done; "
                               f"exit {programs.ssh.STATUS}")

    def ssh(self, name, command, *flags, path=True):
        folder = self.directory
        here = f"{folder}/bin:{os.environ['PATH']}" if path else os.environ["PATH"]
        return self.lab.start(name, self.argv(command, *flags), host=self.lab.client,
                              environment={"PATH": here, "HOME": f"{folder}/here", "XDG_CACHE_HOME": ""})


def ssh(context):
    """`tele ssh` through 20 s of silence (short: 4 s); a second one uses the same server; a missing tele is told, and copied."""
    lab = context.lab()
    program = SshInOneWord(context, lab)
    program.prepare(None)
    user = program.start(None)
    there = f"{program.directory}/there/tele/ssh/{SERVER_ADDRESS}_{program.origin_port}"
    if not context.until(15, lambda: "line 3" in user.output):
        raise Failure(f"no line came: {user.errors.strip()[-300:]}")
    first = status_of(f"{there}/control")["pid"]
    FAULTS["blackhole"].inflict(lab, None)
    context.sleep(20 if context.options.long else context.options.outage)
    FAULTS["blackhole"].heal(lab, None)
    second = program.ssh("second", "echo hello")
    if second.wait(20) != 0 or second.output != "hello\n":
        raise Failure(f"a second one: {second.output} {second.errors.strip()[-300:]}")
    if status_of(f"{there}/control")["pid"] != first:
        raise Failure("a second server was started beside one that runs")
    user.wait(program.patience)
    said = program.check(user)
    if oct(os.stat(f"{there}/keys").st_mode & 0o777) != "0o600":
        raise Failure("the keys on the host can be read by others")
    # Without tele there: a sentence; then a copy, which here is the very program.
    os.unlink(f"{program.directory}/bin/tele")
    os.makedirs(f"{program.directory}/only")
    os.symlink(os.path.abspath(binary()), f"{program.directory}/only/tele")
    os.kill(first, signal.SIGKILL)
    with_tele = {"PATH": f"{program.directory}/only:{os.environ['PATH']}", "HOME": f"{program.directory}/here", "XDG_CACHE_HOME": ""}
    missing = lab.start("missing", program.argv("echo no"), host=lab.client, environment=with_tele)
    if missing.wait(20) != 255 or "tele is not installed on" not in missing.errors or "tele ssh -copy" not in missing.errors:
        raise Failure(f"a missing tele is told so: {missing.errors}")
    copied = lab.start("copied", program.argv("echo copied", "-copy"), host=lab.client, environment=with_tele)
    if copied.wait(60) != 0 or copied.output != "copied\n":
        raise Failure(f"after -copy: {copied.output} {copied.errors.strip()[-300:]}")
    os.kill(status_of(f"{there}/control")["pid"], signal.SIGTERM)
    return f"{said}; one server for two; told, copied, used"


def status(context):
    """While a blackhole lasts the backlog and its age are seen to grow; after it the outage is on record."""
    lab = context.lab()
    path = Files(context, lab, {"a": "127.0.0.1:9101"}, {"a": f"127.0.0.1:{KEPT}"})
    with Switchboard(lab, KEPT) as switchboard:
        user, origin = call(lab, Route(9101), switchboard)
        exchange(user, origin)
        FAULTS["blackhole"].inflict(lab, path)
        began = time.monotonic()
        seen = []
        for _ in range(5):
            user.sendall(b"x" * 10_000)
            context.sleep(0.6)
            session = path.status("client")["sessions"][0]
            seen.append((session["backlogBytes"], session["backlogSeconds"]))
        lasted = time.monotonic() - began
        if any(later[0] < earlier[0] + 9_000 or later[1] < earlier[1] + 0.4 for earlier, later in zip(seen, seen[1:])):
            raise Failure(f"the backlog does not grow as it must: {seen}")
        if not lasted - 1 < seen[-1][1] < lasted + 0.5:
            raise Failure(f"the oldest byte waits {lasted:.1f} s and is said to wait {seen[-1][1]:.1f} s")
        FAULTS["blackhole"].heal(lab, path)
        exchange(user, origin_after(origin, 50_000))
        after = path.status("client")
        session = after["sessions"][0]
        if session["carrier"] != "up" or session["backlogBytes"] or not after["outages"]:
            raise Failure(f"after the heal: {session}, outages {after['outages']}")
        length = after["outages"][-1]["lengthSeconds"]
        if not lasted - 1.5 < length < lasted + 2:
            raise Failure(f"an outage of {lasted:.1f} s is said to have lasted {length:.1f} s")
    return f"{seen[0][0]} to {seen[-1][0]} bytes, {seen[0][1]:.1f} to {seen[-1][1]:.1f} s old; an outage of {length:.1f} s on record"


def origin_after(origin, count):
    """The origin's end, when it has read what waited for it."""
    origin.settimeout(10)
    while count > 0:
        part = origin.recv(min(count, 1 << 16))
        if not part:
            raise Failure("the connection ended instead of going on")
        count -= len(part)
    return origin


def prometheus(context):
    """promtool is content with the page, and a real Prometheus scrapes both processes."""
    lab = context.lab()
    path = Files(context, lab, {"a": "127.0.0.1:9101"}, {"a": f"127.0.0.1:{KEPT}"},
                 client='metrics = ":9140"', server='metrics = ":9140"')
    with Switchboard(lab, KEPT) as switchboard:
        exchange(*call(lab, Route(9101), switchboard))
        FAULTS["reset"].inflict(lab, path)
        context.sleep(0.5)
        FAULTS["reset"].heal(lab, path)
        exchange(*call(lab, Route(9101), switchboard))
        for host in ("127.0.0.1", SERVER_ADDRESS):
            _, page = ask(lab, (host, 9140), b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            check = subprocess.run(["promtool", "check", "metrics"], input=page + "\n", capture_output=True, text=True)
            if check.returncode or check.stdout or check.stderr:
                raise Failure(f"promtool: {(check.stdout + check.stderr).strip()}")
        config = f"{lab.directory}/prometheus.yml"
        with open(config, "w", encoding="utf-8") as file:
            file.write("global: { scrape_interval: 1s, scrape_timeout: 1s }\nscrape_configs:\n- job_name: tele\n  static_configs:\n"
                       f"  - targets: ['127.0.0.1:9140', '{SERVER_ADDRESS}:9140']\n")
        server = lab.start("prometheus", ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={lab.directory}/tsdb",
                                          "--web.listen-address=127.0.0.1:9090"], host=lab.client)
        server.wait_for_port(9090, 30)

        def value(query):
            _, body = ask(lab, ("127.0.0.1", 9090), f"GET /api/v1/query?query={query} HTTP/1.0\r\n\r\n".encode())
            if body.startswith("Service Unavailable"):
                return None    # It listens before it answers queries.
            result = json.loads(body)["data"]["result"]
            return float(result[0]["value"][1]) if result else None

        if not context.until(30, lambda: value("sum(up)") == 2):
            raise Failure(f"Prometheus does not scrape both: {value('sum(up)')}")
        expected = {"sum(tele_resumes_total)": 2, "sum(tele_streams_total)": 4, "sum(tele_outage_seconds_count)": 2}
        found = {query: value(query) for query in expected}
        if found != expected:
            raise Failure(f"Prometheus has {found}, not {expected}")
    return "promtool says nothing, two targets are up, and their counters are right"


def activation(context):
    """A listening socket of the service manager's outlives tele: through restarts nobody is refused."""
    lab = context.lab()
    path = Files(context, lab, {"a": "127.0.0.1:9101"}, {"a": f"127.0.0.1:{KEPT}"})
    listener = lab.client.listen(9200)
    argv = ["bash", "-c", f'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&{listener.fileno()}', "bash",
            binary(), "-client", "-in=127.0.0.1:9201", f"-out={SERVER_ADDRESS}:{CARRIER}", "-drain=0s", "-control=none",
            *security_flags("client")]
    # It asks for the origin without a name.
    path.write("server", f'in = "127.0.0.1:{CHANGED}"\nout = ":{CARRIER}"', "origins", {"a": f"127.0.0.1:{KEPT}"})
    path.server.signal(signal.SIGHUP)
    refused, hit, through = [], [], 0
    with Switchboard(lab, CHANGED) as switchboard:
        for round in range(4):
            client = lab.start(f"tele-activated-{round}", argv, host=lab.client, pass_fds=(listener.fileno(),))
            stop = threading.Event()

            def knock():
                while not stop.is_set():
                    try:
                        lab.client.connect(("127.0.0.1", 9200)).close()
                    except ConnectionResetError:
                        hit.append(round)  # It was accepted before its connect returned, by the process that stops.
                    except OSError as error:
                        refused.append(str(error))
                    time.sleep(0.005)

            thread = threading.Thread(target=knock)
            thread.start()
            try:
                exchange(*call(lab, Route(9200), switchboard))
                through += 1
                client.signal(signal.SIGTERM)
                client.wait(10)
                context.sleep(0.3)
            finally:
                stop.set()
                thread.join()
    listener.close()
    if len(set(hit)) < len(hit):
        raise Failure(f"{len(hit)} connects were reset: a stop may reset the one that was just accepted")
    if refused:
        raise Failure(f"{len(refused)} connects failed, the first with {refused[0]}")
    return f"{through} restarts, no connect refused"


def cases():
    return [
        Case("operations.connect", connect, needs=programs.Ssh.needs, drivers="either", only_tele=True),
        Case("operations.ssh", ssh, needs=programs.Ssh.needs, only_tele=True),
        Case("operations.status", status, only_tele=True),
        Case("operations.prometheus", prometheus, needs=("prometheus", "promtool"), only_tele=True),
        Case("operations.activation", activation, drivers="either", only_tele=True),
    ]
