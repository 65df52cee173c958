"""Sessions of the guides and of the README, run as they stand there: lines `host$ command`. A small web server takes the place of the user's
service. tele servers and clients stay, what stands before them is run once, and what stands behind them twice: without and with a silence."""

import json
import os
import re
import subprocess
import sys
import time

import programs
from lab import CLIENT_GATEWAY, SERVER_ADDRESS
from path import HERE, binary, make_authority, make_certificate
from process import Failure
from runner import Case

from . import ssh
from .proxies import tinyproxy

ROOT = os.path.dirname(os.path.dirname(HERE))
LINE = re.compile(r"^(\w+)\$ +(.*?)(?:\s{2,}[#(].*)?$")
PAGE = "a page of the service\n"


def blocks_of(guide):
    path = guide if guide.endswith("README.md") else f"docs/{guide}" if guide == "index.md" else f"docs/guides/{guide}"
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return re.findall(r"^```\n(.*?)^```", file.read(), re.MULTILINE | re.DOTALL)


def session_of(guide, which=0):
    """(host, command) of each such line of a block that has any."""
    found = [[match.groups() for match in map(LINE.match, block.splitlines()) if match] for block in blocks_of(guide)]
    found = [lines for lines in found if lines]
    if which >= len(found):
        raise Failure(f"{guide} has no session")
    return found[which]


def files_of(guide):
    """Blocks whose first line is the name of a file."""
    named = (re.match(r"# (\S+\.toml)\n(.*)", block, re.DOTALL) for block in blocks_of(guide))
    return dict(match.groups() for match in named if match)


def stays(command):
    return command.startswith(("tele -server", "tele -client", "tele -config"))


class Place:
    """The hosts of a session: one folder is the home on both, so nothing needs to be copied."""

    def __init__(self, context, guide):
        self.context, self.lab = context, context.lab()
        lab = self.lab
        self.machines = {"host8": lab.router, "host9": lab.server, "anyone": lab.server, "pi": lab.client, "notebook": lab.client}
        self.folder = os.path.join(lab.directory, "home")
        os.makedirs(self.folder)
        os.symlink(os.path.abspath(binary()), os.path.join(self.folder, "tele"))
        names = f"127.0.0.1 localhost\n{SERVER_ADDRESS} host9 host9.example.net\n{CLIENT_GATEWAY} host8 proxy.corp\n"
        for host, own in ((lab.client, ""), (lab.router, ""), (lab.server, f"{SERVER_ADDRESS} wiki.corp\n")):
            host.write_etc("hosts", names + own)
        for name, text in files_of(guide).items():
            with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        self.count = 0

    def make_key(self):
        subprocess.run([binary(), "keygen", f"-out={self.folder}/tele.key"], check=True, capture_output=True)

    def start(self, host, command, verb="exec "):
        self.count += 1
        return self.lab.start(f"line-{self.count}", ["sh", "-c", f"cd {self.folder} && PATH={self.folder}:$PATH && {verb}{command}"],
                              host=self.machines[host], environment={"TELE_REQUIRE_KEY": "1", "XDG_RUNTIME_DIR": self.folder})

    def begin(self, lines):
        """Starts what stays, in the order of the session; returns the rest that stands behind it."""
        rest = []
        for host, command in lines:
            if not stays(command):
                if any(stays(later) for _, later in lines[lines.index((host, command)):]):
                    process = self.start(host, command)
                    if process.wait(10) != 0:
                        raise Failure(f"{command}: status {process.status}, {process.errors[-300:]}")
                else:
                    rest.append((host, command))
                continue
            process = self.start(host, command)
            said = "listening for carriers" if "-server" in command or "server.toml" in command else "carrier up"
            if not self.context.until(10, lambda process=process, said=said: said in process.errors):
                raise Failure(f"{command}: {process.errors[-300:]}")
        if not rest:
            raise Failure("the session shows tele and no use of it")
        return rest


def session(guide, *serves, which=0, prepare=None, says=()):
    """`serves`: the names of the hosts with the service at port 80. `says`: (in the command, in what it prints) where that is not the page."""
    def run(context):
        place = Place(context, guide)
        lines = session_of(guide, which)
        if not any("keygen" in command for _, command in lines):
            place.make_key()
        if prepare:
            prepare(place)
        os.makedirs(os.path.join(place.folder, "web"))
        with open(os.path.join(place.folder, "web", "index.html"), "w", encoding="utf-8") as file:
            file.write(PAGE)
        for name in serves:
            web = place.lab.start(f"web-{name}", [sys.executable, "-m", "http.server", "80", "--directory", f"{place.folder}/web"],
                                  host=place.machines[name])
            web.wait_for_port(80)
        rest = place.begin(lines)
        for silence in (False, True):
            for host, command in rest:
                if silence:
                    place.lab.forward("drop")
                process = place.start(host, command)
                if silence:
                    context.sleep(2)
                    place.lab.forward("accept")
                wanted = next((words for part, words in says if part in command), None)
                ended = process.wait(20)
                if ended != 0 or (process.output != PAGE if wanted is None else wanted not in process.output):
                    raise Failure(f"{command}: status {process.status}, “{process.output[-200:]}”, {process.errors[-300:]}")
        return f"{len(rest)} of its commands, without and with a silence"
    return run


def certificates(place):
    """One certificate serves both hosts here: their home is one folder."""
    make_authority(place.folder, "authority")
    make_certificate(place.folder, "notebook", "authority", "DNS:notebook,DNS:host9.example.net")
    os.rename(f"{place.folder}/notebook.pem", f"{place.folder}/chain.pem")
    os.rename(f"{place.folder}/notebook.key", f"{place.folder}/key.pem")


def proxy(place):
    place.lab.start("proxy", tinyproxy(place.lab.directory), host=place.lab.router).wait_for_port(3128)


class Login(ssh.Account):
    """alice, whose ssh has no settings but her key; sshd also at its usual port."""

    def __init__(self, context):
        super().__init__(context, server_lines="ListenAddress 127.0.0.1:22\n")
        with open(f"{self.here}/.ssh/config", "w", encoding="utf-8") as file:
            file.write(f"Host *\n  IdentityFile {self.here}/key\n  StrictHostKeyChecking no\n  UserKnownHostsFile {self.here}/known_hosts\n  LogLevel ERROR\n"
                       f"Host host9\n  Port {ssh.SSH_PORT}\n")
        self.own(self.here)
        for host in (self.lab.client, self.lab.server):
            host.write_etc("hosts", f"127.0.0.1 localhost\n{SERVER_ADDRESS} host9 host9.example.net\n")
        os.symlink(os.path.abspath(binary()), f"{self.here}/tele")

    def line(self, command, **options):
        """alice types this."""
        return self.start("sh", "-c", f"cd {self.here} && PATH={self.here}:$PATH && exec {command}", **options)


def first_session(guide):
    """The session of the first screen: ssh through a cable that is pulled, here for three seconds."""
    def run(context):
        login = Login(context)
        rest = None
        if not any("keygen" in command for _, command in session_of(guide)):
            subprocess.run([binary(), "keygen", f"-out={login.lab.directory}/tele.key"], check=True, capture_output=True)
        for host, command in session_of(guide):
            if not command.startswith("tele"):
                rest = command
                continue
            at = login.lab.server if host == "host9" else login.lab.client
            process = login.lab.start("keygen" if "keygen" in command else f"tele-{host}", [
                "sh", "-c", f"cd {login.lab.directory} && PATH={login.here}:$PATH && umask 077 && exec {command}"], host=at)
            if "keygen" in command:
                process.wait(10)
            elif not context.until(10, lambda process=process: "listening for carriers" in process.errors or "carrier up" in process.errors):
                raise Failure(f"{command}: {process.errors[-300:]}")
        # The index has no command behind ssh: a shell that reads it.
        user = login.line(rest, stdin="pipe")
        if "while" not in rest:
            user.tell("while sleep 1; do date +%T; done")
        if not context.until(10, lambda: len(user.output.splitlines()) >= 2):
            raise Failure(f"{rest}: “{user.output[-200:]}”, {user.errors[-300:]}")
        login.lab.forward("drop")
        context.sleep(3)
        before = len(user.output.splitlines())
        login.lab.forward("accept")
        healed = time.monotonic()
        if not context.until(5, lambda: len(user.output.splitlines()) >= before + 3):
            raise Failure(f"{len(user.output.splitlines()) - before} lines 5 s after the silence, {user.errors[-300:]}")
        took = time.monotonic() - healed
        times = [sum(int(part) * scale for part, scale in zip(line.split(":"), (3600, 60, 1))) for line in user.output.split()]
        if any(later - earlier not in (1, 2) for earlier, later in zip(times, times[1:])) or not user.running:
            raise Failure(f"the lines are {user.output.split()}")
        return f"{len(times)} lines, one a second; those of the silence {took:.2f} s after it"
    return run


def laptop(context):
    """ssh.md: the program is copied, then a session outlives a silence."""
    login = Login(context)
    os.remove(f"{login.there}/.local/bin/tele")
    lines = [command for _, command in session_of("ssh.md")]
    copy = login.line(lines[0])
    if copy.wait(60) != 0 or not os.path.isfile(f"{login.there}/.local/bin/tele"):
        raise Failure(f"{lines[0]}: {copy.status}, {copy.errors[-300:]}")
    user = login.line(lines[1], stdin="pipe")
    user.tell("echo begun; sleep 3; echo continued; exit 7")
    if not context.until(15, lambda: "begun" in user.output):
        raise Failure(f"{lines[1]}: “{user.output[-200:]}”, {user.errors[-300:]}")
    login.lab.forward("drop")
    context.sleep(4)
    login.lab.forward("accept")
    if user.wait(15) != 7 or user.output != "begun\ncontinued\n":
        raise Failure(f"{lines[1]}: status {user.status}, “{user.output[-200:]}”, {user.errors[-300:]}")
    return "copied, and a session through a silence"


def kafka(context):
    """kafka.md: its file, and its commands as they stand there; then an unchanged client writes to the broker and reads, through a silence."""
    count = 3000
    lab = context.lab()
    folder = lab.directory
    with open(f"{folder}/client.toml", "w", encoding="utf-8") as file:
        file.write(files_of("kafka.md")["client.toml"])
    subprocess.run([binary(), "keygen", f"-out={folder}/tele.key"], check=True, capture_output=True)
    os.symlink(os.path.abspath(binary()), f"{folder}/tele")
    with open(os.open(f"{folder}/sudo", os.O_WRONLY | os.O_CREAT, 0o755), "w", encoding="utf-8") as file:
        file.write('#!/bin/sh\nexec "$@"\n')
    lab.client.write_etc("hosts", f"127.0.0.1 localhost\n{SERVER_ADDRESS} host9\n")
    lab.server.write_etc("hosts", f"127.0.0.1 localhost\n{SERVER_ADDRESS} host9 kafka-1.corp kafka-2.corp kafka-3.corp\n")
    tansu = context.options.programs["tansu"]
    lab.start("broker", [tansu, "broker", "--listener-url", "tcp://0.0.0.0:9092", "--advertised-listener-url", "tcp://kafka-1.corp:9092",
                         "--storage-engine", "memory://tansu/"], host=lab.server, environment={"RUST_LOG": "error"}).wait_for_port(9092)
    subprocess.run(["ip", "netns", "exec", lab.server.name, tansu, "topic", "create", "--broker", "tcp://127.0.0.1:9092", "--partitions", "1", "numbers"],
                   check=True, capture_output=True, timeout=30)
    machines = {"host9": lab.server, "notebook": lab.client}
    for number, (host, command) in enumerate(session_of("kafka.md")):
        process = lab.start(f"line-{number}", ["sh", "-c", f"cd {folder} && PATH={folder}:$PATH && {command}"], host=machines[host])
        if "hosts" in command:
            if process.wait(10) != 0 or "kafka-3.corp" not in process.output:
                raise Failure(f"{command}: {process.output} {process.errors}")
            continue
        said = "listening for carriers" if "-server" in command else "carrier up"
        if not context.until(10, lambda process=process, said=said: said in process.errors):
            raise Failure(f"{command}: {process.errors[-300:]}")
    user = lab.start("kafka-client", [
        os.path.join(context.options.venv, "bin", "python"), os.path.join(HERE, "workers", "kafka_client.py"), "kafka-1.corp:9092", "numbers", str(count),
        "1500"], host=lab.client)
    context.sleep(1.5)
    lab.forward("drop")
    context.sleep(2)
    lab.forward("accept")
    user.wait(60)
    report = json.loads(user.output.splitlines()[-1])
    if report["wrong"] or report["disconnects"] or report["consumed"] != count or report["delivered"] != count:
        raise Failure(f"{report}")
    return f"{count} messages in order"


class Database(programs.Pgbench):
    """The database of databases.md."""
    origin_port = 5432


def databases(context):
    """databases.md: its session as it stands there, without and with a silence."""
    lab = context.lab()
    database = Database(context, lab)
    database.prepare(None)
    folder = os.path.join(lab.directory, "home")
    os.makedirs(folder)
    os.symlink(os.path.abspath(binary()), f"{folder}/tele")
    subprocess.run([binary(), "keygen", f"-out={folder}/tele.key"], check=True, capture_output=True)
    lab.client.write_etc("hosts", f"127.0.0.1 localhost\n{SERVER_ADDRESS} host9\n")
    machines = {"host9": lab.server, "notebook": lab.client}
    query = None
    for number, (host, command) in enumerate(session_of("databases.md")):
        def start(number=number, host=host, command=command):
            return lab.start(f"line-{number}", ["sh", "-c", f"cd {folder} && PATH={folder}:$PATH && exec {command}"], host=machines[host])
        if not command.startswith("tele"):
            query = start
            continue
        process, said = start(), "listening for carriers" if "-server" in command else "carrier up"
        if not context.until(10, lambda process=process, said=said: said in process.errors):
            raise Failure(f"{command}: {process.errors[-300:]}")
    for silence in (False, True):
        if silence:
            lab.forward("drop")
        process = query(f"query-{silence}")
        if silence:
            context.sleep(2)
            lab.forward("accept")
        if process.wait(20) != 0 or "count" not in process.output:
            raise Failure(f"psql: status {process.status}, “{process.output[-200:]}”, {process.errors[-300:]}")
    return "its query, without and with a silence"


def cases():
    common = {"only_tele": True, "only_plain": True}
    return [
        Case("guides.readme", first_session("README.md"), needs=ssh.NEEDS, **common),
        Case("guides.index", first_session("index.md"), needs=ssh.NEEDS, **common),
        Case("guides.ssh", laptop, needs=ssh.NEEDS, **common),
        Case("guides.keys", session("keys.md", "host9"), needs=("curl",), **common),
        Case("guides.certificates", session("keys.md", "host9", which=1, prepare=certificates), needs=("curl",), **common),
        Case("guides.mappings", session("mappings.md", "host9"), needs=("curl",), **common),
        Case("guides.monitoring", session("monitoring.md", "host9", says=[("/metrics", "\ntele_sessions_total 1\n"), ("tele status", "carrier")]),
             needs=("curl",), **common),
        Case("guides.proxies", session("proxies.md", "host9", prepare=proxy), needs=("curl", "tinyproxy"), **common),
        Case("guides.sizing", session("sizing.md", "host9"), needs=("curl",), **common),
        Case("guides.reverse", session("reverse.md", "pi"), needs=("curl",), **common),
        Case("guides.paths", session("paths.md", "host9"), needs=("curl",), **common),
        Case("guides.failover", session("failover.md", "host8", "host9"), needs=("curl",), **common),
        Case("guides.databases", databases, needs=Database.needs, **common),
        Case("guides.kafka", kafka, weight=2, needs=("tansu", "confluent_kafka"), **common),
        Case("guides.socks", session("socks.md", "host9"), needs=("curl",), **common),
    ]
