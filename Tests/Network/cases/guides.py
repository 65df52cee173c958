"""Sessions of the guides, run as they stand there: lines `host$ command`. A small web server takes the place of the user's service."""

import json
import os
import re
import subprocess
import sys

import programs
from lab import CLIENT_GATEWAY, SERVER_ADDRESS
from path import HERE, binary
from process import Failure
from runner import Case

GUIDES = os.path.join(os.path.dirname(os.path.dirname(HERE)), "docs", "guides")
LINE = re.compile(r"^(\w+)\$ +(.*)$")
PAGE = "a page of the service\n"


def session_of(guide):
    """The first block with such lines: (host, command) each."""
    with open(os.path.join(GUIDES, guide), encoding="utf-8") as file:
        for block in re.findall(r"^```\n(.*?)^```", file.read(), re.MULTILINE | re.DOTALL):
            found = [match.groups() for match in map(LINE.match, block.splitlines()) if match]
            if found:
                return found
    raise Failure(f"{guide} has no session")


def session(guide, *serves):
    """`serves`: the names of the hosts with the service at port 80."""
    def run(context):
        lab = context.lab()
        machines = {"host8": lab.router, "host9": lab.server, "anyone": lab.server, "pi": lab.client, "notebook": lab.client}
        folder = os.path.join(lab.directory, "home")
        os.makedirs(os.path.join(folder, "web"))
        os.symlink(os.path.abspath(binary()), os.path.join(folder, "tele"))
        with open(os.path.join(folder, "web", "index.html"), "w", encoding="utf-8") as file:
            file.write(PAGE)
        subprocess.run([binary(), "keygen", f"-out={folder}/tele.key"], check=True, capture_output=True)
        lab.client.write_etc("hosts", f"127.0.0.1 localhost\n{SERVER_ADDRESS} host9\n{CLIENT_GATEWAY} host8\n")
        lab.server.write_etc("hosts", f"127.0.0.1 localhost\n{SERVER_ADDRESS} host9 wiki.corp\n")
        for name in serves:
            web = lab.start(f"web-{name}", [sys.executable, "-m", "http.server", "80", "--directory", f"{folder}/web"], host=machines[name])
            web.wait_for_port(80)

        def start(number, host, command):
            return lab.start(f"line-{number}", ["sh", "-c", f"cd {folder} && PATH={folder}:$PATH && exec {command}"], host=machines[host],
                             environment={"TELE_REQUIRE_KEY": "1"})
        rest = []
        for number, (host, command) in enumerate(session_of(guide)):
            if not command.startswith(("tele -server", "tele -client")):
                rest.append((number, host, command))
                continue
            process = start(number, host, command)
            said = "listening for carriers" if "-server" in command else "carrier up"
            if not context.until(10, lambda process=process, said=said: said in process.errors):
                raise Failure(f"{command}: {process.errors[-300:]}")
        if not rest:
            raise Failure("the session shows tele and no use of it")
        for silence in (False, True):
            for number, host, command in rest:
                if silence:
                    lab.forward("drop")
                process = start(f"{number}-{silence}", host, command)
                if silence:
                    context.sleep(2)
                    lab.forward("accept")
                if process.wait(20) != 0 or process.output != PAGE:
                    raise Failure(f"{command}: status {process.status}, “{process.output[-200:]}”, {process.errors[-300:]}")
        return f"{len(rest)} of its commands, without and with a silence"
    return run


def kafka(context):
    """kafka.md: its file, and its commands as they stand there; then an unchanged client writes to the broker and reads, through a silence."""
    count = 3000
    lab = context.lab()
    folder = lab.directory
    with open(os.path.join(GUIDES, "kafka.md"), encoding="utf-8") as file:
        config = re.search(r"^```\n# client.toml\n(.*?)^```", file.read(), re.MULTILINE | re.DOTALL).group(1)
    with open(f"{folder}/client.toml", "w", encoding="utf-8") as file:
        file.write(config)
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
    return [
        Case("guides.reverse", session("reverse.md", "pi"), needs=("curl",), only_tele=True, only_plain=True),
        Case("guides.paths", session("paths.md", "host9"), needs=("curl",), only_tele=True, only_plain=True),
        Case("guides.failover", session("failover.md", "host8", "host9"), needs=("curl",), only_tele=True, only_plain=True),
        Case("guides.databases", databases, needs=Database.needs, only_tele=True, only_plain=True),
        Case("guides.kafka", kafka, weight=2, needs=("tansu", "confluent_kafka"), only_tele=True, only_plain=True),
        Case("guides.socks", session("socks.md", "host9"), needs=("curl",), only_tele=True, only_plain=True),
    ]
