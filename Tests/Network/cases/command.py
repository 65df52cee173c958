"""The command lines of goteleport's document, as printed; free ports; wrong lines."""

import os
import re
import socket
import subprocess
import threading

import programs
from ends import Switchboard, call, exchange
from faults import FAULTS
from lab import SERVER_ADDRESS
from path import Path, binary
from process import Failure
from programs.ssh import prepare_sshd
from runner import Case

HOST = "host9.datacenter.net"


class SshAtItsPort(programs.Ssh):
    origin_port = 22


class Original(Path):
    """What the document prints: a server beside sshd, a client, and ssh to localhost."""
    address = ("localhost", 22999)

    def __init__(self, lab):
        self.lab, self.address = lab, Original.address
        lab.client.write_etc("hosts", f"127.0.0.1 localhost\n::1 localhost\n{SERVER_ADDRESS} {HOST}\n")
        self.server = lab.start("tele-server", [binary(), "-server", "-in=:22", "-out=:40300"],
                                host=lab.server)
        self.server.wait_for_port(40300)
        self.client = lab.start("tele-client", [binary(), "-client", "-in=:22999", f"-out={HOST}:40300"],
                                host=lab.client)
        self.client.wait_for_port(22999)


def seed_lines(context):
    lab = context.lab()
    program = SshAtItsPort(context, lab)
    prepare_sshd(program)
    path = Original(lab)
    context.paths.append(path)
    user = program.start(path)
    context.sleep(1.5)
    FAULTS["blackhole"].inflict(lab, path)
    context.sleep(2)
    FAULTS["blackhole"].heal(lab, path)
    user.wait(program.patience)
    return program.check(user)


def free_ports(context):
    """Without -out of the server and -in of the client, both take a free port and print it on stdout."""
    lab = context.lab()
    origin_port = 7900
    server = lab.start("tele-server", [binary(), "--server", "--in", f"127.0.0.1:{origin_port}"],
                       host=lab.server)
    carrier = printed_address(context, server)
    client = lab.start("tele-client", [binary(), "-client=true", f"-out={SERVER_ADDRESS}:{carrier}"],
                       host=lab.client)
    path = Path(lab, "tele", "auto", origin_port, user_port=printed_address(context, client), start=False)
    path.client, path.server = client, server
    context.paths.append(path)
    with Switchboard(lab, origin_port) as switchboard:
        exchange(*call(lab, path, switchboard))
    return f"printed ports {carrier} and {path.user_port}"


def printed_address(context, process):
    pattern = re.compile(r"^\S*:(\d+)$", re.MULTILINE)
    if not context.until(5, lambda: pattern.search(process.output)):
        raise Failure(f"{process.name} printed no address on stdout: {process.output[:100]!r}, "
                      f"{process.errors[:200]!r}")
    port = int(pattern.search(process.output).group(1))
    process.wait_for_port(port)
    return port


def wrong_lines(context):
    """One sentence and one hint on stderr, nothing on stdout, and the right status."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        lines = [
            (64, ["-server", "-in=:22", "-out=:40300", "-nonsense"]),
            (64, ["-server", "-out=:40300"]),
            (64, ["-client", "-in=:22999"]),
            (64, ["-client", "-server", "-in=:1", "-out=:2"]),
            (64, ["-client", "-in=:22999", "-out=nohost"]),
            (64, ["-client", "-in=:99999", "-out=host:1"]),
            (69, ["-client", f"-in=127.0.0.1:{port}", "-out=127.0.0.1:1"]),
            (69, ["-server", "-in=127.0.0.1:1", f"-out=127.0.0.1:{port}"]),
        ]
        for status, arguments in lines:
            line = "tele " + " ".join(arguments)
            try:
                run = subprocess.run([binary(), *arguments], capture_output=True, text=True, timeout=5)
            except subprocess.TimeoutExpired:
                raise Failure(f"`{line}` does not end") from None
            said = run.stderr.strip().splitlines()
            if run.returncode != status:
                raise Failure(f"`{line}` ended with {run.returncode}, not {status}: {' / '.join(said)[:200]}")
            if "address in use, trying again" in said[0]:
                said.pop(0)     # A port in use may be that of a tele that was just killed.
            heads = [text.split(": ", 2)[:2] for text in said]
            if heads != [["tele", "error"], ["tele", "hint"]]:
                raise Failure(f"`{line}` did not say one sentence and one hint: {said[:3]}")
            if run.stdout:
                raise Failure(f"`{line}` wrote to stdout")
    return f"{len(lines)} wrong lines"


def last_words(context):
    """What `tele connect` has to say is there before its stdout ends: ssh, and many others, end it as soon as that does."""
    words, threads = [], []

    def watch(process):
        while os.read(process.stdout.fileno(), 100):
            pass
        process.kill()
        words.append(process.stderr.read().decode())
    for _ in range(8):
        process = subprocess.Popen([binary(), "connect", "-out=127.0.0.1:1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        threads.append(threading.Thread(target=watch, args=(process,), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join(40)
    if len(words) < 8 or not all("cannot reach the server" in said for said in words):
        raise Failure(f"who is ended when its stdout ends has said: {words}")
    return f"{len(words)} times"


def cases():
    yield Case("command.last-words", last_words, only_tele=True, only_plain=True)
    yield Case("command.seed-lines", seed_lines, needs=programs.Ssh.needs, only_tele=True)
    yield Case("command.free-ports", free_ports, only_tele=True)
    yield Case("command.wrong-lines", wrong_lines, only_tele=True)
