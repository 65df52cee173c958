"""`tele ssh` as its users meet it: an ordinary account on both hosts, a configuration full of other things, real tools, any shell."""

import os
import shutil
import subprocess
import threading
import time

from faults import FAULTS
from lab import SERVER_ADDRESS
from path import binary
from process import Failure
from runner import Case

SSH_PORT = 7022
USER = 4242
NEEDS = ("sshd", "ssh", "ssh-keygen")

#: What people have in their files; none of it may reach the connection that tele makes for itself, or lead a session past tele.
CONFIGURATION = """
Host *
  ControlMaster auto
  ControlPath {home}/cm-%C
  ControlPersist 5
  ServerAliveInterval 1
  ServerAliveCountMax 1
  ConnectTimeout 3
  PermitLocalCommand yes
  LocalCommand echo x >> {home}/local-command
  IdentityFile {home}/key
  IdentitiesOnly yes
  BatchMode yes
  StrictHostKeyChecking no
  UserKnownHostsFile {home}/known_hosts
  LogLevel ERROR
Host there
  HostName {address}
  Port {port}
  User alice
Host busy
  RemoteCommand echo configured
  LocalForward 127.0.0.1:5555 127.0.0.1:{port}
  RequestTTY force
Host busy
  HostName {address}
  Port {port}
  User alice
"""


class Account:
    """alice on both hosts, with an sshd that listens on one address of one of them."""

    def __init__(self, context, shell="/bin/bash", server_lines=""):
        self.context, self.lab = context, context.lab()
        self.here, self.there = f"{self.lab.directory}/here", f"{self.lab.directory}/there"
        for home, host in ((self.here, self.lab.client), (self.there, self.lab.server)):
            os.makedirs(f"{home}/.ssh")
            with open("/etc/passwd", encoding="utf-8") as file:
                host.write_etc("passwd", file.read() + f"alice:x:{USER}:{USER}:Alice:{home}:{shell}\n")
        os.makedirs(f"{self.there}/.local/bin")
        os.symlink(os.path.abspath(binary()), f"{self.there}/.local/bin/tele")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{self.here}/key"], check=True)
        shutil.copy(f"{self.here}/key.pub", f"{self.there}/.ssh/authorized_keys")
        with open(f"{self.here}/.ssh/config", "w", encoding="utf-8") as file:
            file.write(CONFIGURATION.format(home=self.here, address=SERVER_ADDRESS, port=SSH_PORT))
        self.own(self.here)
        self.own(self.there)
        self.write_wrapper()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{self.lab.directory}/host_key"], check=True)
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        with open(f"{self.lab.directory}/sshd_config", "w", encoding="utf-8") as file:
            file.write(f"ListenAddress {SERVER_ADDRESS}\nPort {SSH_PORT}\nHostKey {self.lab.directory}/host_key\nPidFile none\nUsePAM no\n"
                       f"StrictModes no\nPasswordAuthentication no\nMaxStartups 100\nSubsystem sftp internal-sftp\n{server_lines}")
        self.sshd = self.lab.start("sshd", [context.options.programs.get("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f",
                                            f"{self.lab.directory}/sshd_config"], host=self.lab.server)
        self.sshd.wait_for_port(SSH_PORT)
        self.count = 0

    def own(self, folder):
        for at, folders, files in os.walk(folder):
            for name in [at, *(os.path.join(at, name) for name in folders + files)]:
                os.chown(name, USER, USER, follow_symlinks=False)

    def write_wrapper(self):
        """For tools that take one word for ssh."""
        self.wrapper = f"{self.lab.directory}/tele-ssh"
        os.symlink(os.path.abspath(binary()), self.wrapper)

    def start(self, *argv, directory=None, **options):
        self.count += 1
        return self.lab.start(f"run-{self.count}", [
            "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "env", "-u", "XDG_RUNTIME_DIR", "-u", "XDG_CACHE_HOME",
            f"HOME={self.here}", *(["-C", directory] if directory else []), *argv], host=self.lab.client, **options)

    def run(self, *argv, status=0, seconds=30, output=None, errors="", **options):
        process = self.start(*argv, **options)
        ended = process.wait(seconds)
        if ended != status or output is not None and process.output != output or errors is not None and process.errors.strip() != errors:
            raise Failure(f"{' '.join(argv[:6])}: status {ended}, output “{process.output[-200:]}”, said “{process.errors.strip()[-400:]}”")
        return process

    def tele(self, *words, **options):
        return self.run(binary(), "ssh", *words, **options)

    def servers(self):
        """Processes of alice's tele server."""
        pids = subprocess.run(["ip", "netns", "pids", self.lab.server.name], capture_output=True, text=True).stdout.split()
        return [pid for pid in pids if "-idle-exit=1m" in command_line(pid)]


def command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
            return file.read().replace("\0", " ")
    except OSError:
        return ""


def ordinary(context):
    """One server for all calls, also for those that come together; a clean end says nothing; no process list ever shows the key."""
    account = Account(context)
    seen, stop = [], threading.Event()

    def watch():
        while not stop.is_set():
            seen.extend(line for line in map(command_line, filter(str.isdigit, os.listdir("/proc"))) if line)
            time.sleep(0.005)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    together = [account.start(binary(), "ssh", "there", f"echo {number}; exit {number}") for number in range(4)]
    for number, process in enumerate(together):
        if process.wait(30) != number or process.output != f"{number}\n" or process.errors:
            raise Failure(f"call {number} of four at a time: status {process.status}, “{process.output}”, “{process.errors[-300:]}”")
    first = account.servers()
    account.tele("there", "echo hello; exit 7", status=7, output="hello\n")
    account.tele("-p", str(SSH_PORT), "-l", "alice", SERVER_ADDRESS, "echo again", output="again\n")
    if len(first) != 1 or account.servers() != first:
        raise Failure(f"{len(first)} servers after four calls, {len(account.servers())} after six")
    port = 40555
    account.tele(f"-port={port}", "there", "echo port", output="port\n")
    account.tele("-F", f"{account.here}/.ssh/config", f"-port={port}", "there", "-v", "echo port", output="port\n", errors=None)
    if len(account.servers()) != 2:
        raise Failure(f"{len(account.servers())} servers, one of them on a port of its own")
    stop.set()
    watcher.join(5)
    keys = subprocess.run(["sh", "-c", f"cat {account.here}/.cache/tele/*.key"], capture_output=True, text=True).stdout
    secrets = [line.split(":")[1] for line in keys.split()]
    if not secrets or any(secret in line for secret in secrets for line in seen):
        raise Failure("a process list shows the key, or there is none")
    if os.path.exists(f"{account.here}/local-command"):
        with open(f"{account.here}/local-command", encoding="utf-8") as file:
            if len(file.read().split()) > 8:
                raise Failure("the local command ran for connections that are not the user's")
    return "one server for six calls, a second for a port of its own"


def outage(context):
    """The session goes through tele whatever the configuration says: it outlives a reset and a silence far beyond its ServerAlive."""
    account = Account(context)
    user = account.start(binary(), "ssh", "there", "for i in $(seq 200); do echo line $i; sleep .05; done; exit 7")
    if not context.until(15, lambda: "line 3" in user.output):
        raise Failure(f"no line came: {user.errors.strip()[-300:]}")
    for fault in ("reset", "blackhole"):
        FAULTS[fault].inflict(account.lab, None)
        context.sleep(6)
        FAULTS[fault].heal(account.lab, None)
        context.sleep(1)
    if user.wait(30) != 7 or user.output.splitlines() != [f"line {number}" for number in range(1, 201)] or user.errors:
        raise Failure(f"status {user.status}, {len(user.output.splitlines())} lines, said “{user.errors[-300:]}”")
    return "200 lines and the status, through a reset and a silence of 6 s each"


def words(context):
    """What ssh does with its words tele ssh does."""
    account = Account(context)
    here, there = account.here, account.there
    account.tele("-V", errors=None)
    if "hostname 10.213.2.2" not in account.tele("-G", "there").output:
        raise Failure("-G does not show where ssh goes")
    account.tele("-n", "there", "cat; echo end", output="end\n")
    account.tele("there", "-p", str(SSH_PORT), "echo behind", output="behind\n")
    account.tele("-T", "--", "there", "echo", "-n", "x", output="x")
    account.tele("-tt", "there", "tty > /dev/null && echo terminal", output="terminal\n")
    account.tele("busy", output="configured\n")
    account.tele("-o", "RemoteCommand=none", "-T", "busy", "echo mine", output="mine\n")
    if not account.tele("-W", f"{SERVER_ADDRESS}:{SSH_PORT}", "there").output.startswith("SSH-2.0"):
        raise Failure("-W does not reach sshd")
    # Forwards, in the foreground and in the background.
    forward = account.start(binary(), "ssh", "-N", "-L", f"5556:{SERVER_ADDRESS}:{SSH_PORT}", "there")
    reach(context, account, 5556)
    forward.kill()
    account.tele("-fN", "-L", f"5557:{SERVER_ADDRESS}:{SSH_PORT}", "there")
    reach(context, account, 5557)
    account.tele("-f", "there", f"sleep .5; echo done > {there}/background")
    if not context.until(5, lambda: os.path.exists(f"{there}/background")):
        raise Failure("the command in the background did not run")
    # Masters.
    account.tele("-O", "check", "-S", f"{here}/mine", "there", status=255, errors=None)
    master = account.start(binary(), "ssh", "-M", "-N", "-S", f"{here}/mine", "there")
    if not context.until(10, lambda: os.path.exists(f"{here}/mine.tele")):
        raise Failure(f"no master: {master.errors}")
    account.tele("-S", f"{here}/mine", "there", "echo by master", output="by master\n")
    account.tele("-O", "exit", "-S", f"{here}/mine", "there", errors=None)
    account.tele("no such host", "true", status=255, errors=None)
    # What a host is called is never read by a shell.
    account.tele("-o", f"HostName=$(touch${{IFS}}{here}/run)", "there", "true", status=255, errors=None)
    if os.path.exists(f"{here}/run"):
        raise Failure("a host's name was run by a shell")
    account.tele("there", "false", status=1)
    return "-V -G -n -T -tt -W -N -f -fN -L -M -S -O, options behind the host, a configured command"


def reach(context, account, port):
    def answers():
        try:
            with account.lab.client.connect(("127.0.0.1", port), 2) as end:
                return end.recv(4) == b"SSH-"
        except OSError:
            return False
    if not context.until(10, answers):
        raise Failure(f"the forward at {port} leads nowhere")


def tools(context):
    """scp, sftp, rsync and git by the name of one program."""
    account = Account(context)
    here, there = account.here, account.there
    data = os.urandom(3 << 20)
    with open(f"{here}/data", "wb") as file:
        file.write(data)
    account.own(here)

    def check(path):
        with open(path, "rb") as file:
            if file.read() != data:
                raise Failure(f"{path} is not what was sent")
    account.run("scp", "-q", "-S", account.wrapper, f"{here}/data", f"there:{there}/scp")
    check(f"{there}/scp")
    account.run("scp", "-q", "-O", "-S", account.wrapper, f"there:{there}/scp", f"{here}/back")
    check(f"{here}/back")
    with open(f"{here}/batch", "w", encoding="utf-8") as file:
        file.write(f"put {here}/data {there}/sftp\n")
    account.own(here)
    account.run("sftp", "-q", "-S", account.wrapper, "-b", f"{here}/batch", "there", errors=None)
    check(f"{there}/sftp")
    account.run("rsync", "-e", f"{binary()} ssh", f"{here}/data", f"there:{there}/rsync")
    check(f"{there}/rsync")
    account.tele("there", f"git init -q --bare {there}/g.git; git -C {there}/g.git symbolic-ref HEAD refs/heads/main")
    account.run("git", "init", "-q", "-b", "main", f"{here}/g")
    account.run("git", "-C", f"{here}/g", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x")
    account.run("env", f"GIT_SSH_COMMAND={binary()} ssh", "git", "-C", f"{here}/g", "push", "-q",
                f"ssh://alice@{SERVER_ADDRESS}:{SSH_PORT}{there}/g.git", "main")
    account.run("env", f"GIT_SSH={account.wrapper}", "git", "clone", "-q", f"there:{there}/g.git", f"{here}/clone")
    return "scp by sftp and by its old protocol, sftp, rsync, git push and clone"


def shells(context):
    """Login shells that are no sh, and start files that print."""
    noisy = Account(context)
    with open(f"{noisy.there}/.bashrc", "w", encoding="utf-8") as file:
        file.write("printf 'Welcome, no newline'\n")
    # It goes to stdout as with plain ssh: that is the user's own doing. The set-up must not mind.
    if not noisy.tele("there", "echo hello").output.endswith("hello\n"):
        raise Failure("a start file that prints")
    for shell in ("tcsh", "fish", "dash"):
        program = context.options.programs.get(shell) or shutil.which(shell)
        account = Account(context, shell=program)
        account.tele("there", "echo hello", output="hello\n")
    return "a noisy bash, tcsh, fish and dash"


def troubles(context):
    """What cannot work is said within seconds, with its cause."""
    account = Account(context)
    lab = account.lab
    # A firewall that lets sshd's port through and no other.
    lab.forward(f"iifname client0 tcp dport != {SSH_PORT} drop")
    began = time.monotonic()
    said = account.tele("there", "true", status=255, errors=None, seconds=40).errors
    if "is a firewall blocking port" not in said or time.monotonic() - began > 20:
        raise Failure(f"a port that a firewall closes, after {time.monotonic() - began:.0f} s: {said}")
    lab.forward()
    # The host restarts: sshd is there again, the server is not.
    user = account.start(binary(), "ssh", "there", "sleep 600")
    if not context.until(15, lambda: any(command_line(pid).strip() == "sleep 600" for pid in os.listdir("/proc") if pid.isdigit())):
        raise Failure(f"no session: {user.errors}")
    for pid in account.servers():
        os.kill(int(pid), 9)
    if user.wait(40) != 255 or "is no longer running" not in user.errors:
        raise Failure(f"a server that is gone for good: {user.errors}")
    # No tele there; then no room for its folder.
    os.rename(f"{account.there}/.local/bin/tele", f"{account.there}/tele")
    said = account.tele("there", "true", status=255, errors=None).errors
    if "tele is not installed on there" not in said or "tele ssh -copy there" not in said:
        raise Failure(f"no tele there: {said}")
    os.rename(f"{account.there}/tele", f"{account.there}/.local/bin/tele")
    shutil.rmtree(f"{account.there}/.cache")
    os.chown(account.there, 0, 0)
    said = account.tele("there", "true", status=255, errors=None).errors
    if f"cannot make {account.there}/.cache/tele: " not in said:
        raise Failure(f"no folder there: {said}")
    os.chown(account.there, USER, USER)
    # The same here.
    shutil.rmtree(f"{account.here}/.cache")
    os.chown(account.here, 0, 0)
    said = account.tele("there", "true", status=255, errors=None).errors
    if f"cannot make {account.here}/.cache/tele (" not in said:
        raise Failure(f"no folder here: {said}")
    os.chown(account.here, USER, USER)
    said = account.tele("-o", "ProxyCommand=nc %h %p", "there", "true", status=255, errors=None).errors
    if "by a program (proxycommand nc %h %p)" not in said:
        raise Failure(f"a ProxyCommand that is not ssh: {said}")
    return "a closed port, a restarted host, no tele, no folder there and here, a ProxyCommand"


#: A host that only `there` reaches, in the ways that people write it.
BEHIND = """
Host behind behind-* middle
  HostName 127.0.0.1
  Port {port}
  User alice
Host behind
  ProxyJump there
Host behind-command
  ProxyCommand ssh -W %h:%p there
"""


def jumps(context):
    """A host behind another one: the tele server is on the first host of the way, and the session outlives a reset and a silence."""
    account = Account(context)
    lab, inner = account.lab, SSH_PORT + 1
    with open(f"{account.here}/.ssh/config", "a", encoding="utf-8") as file:
        file.write(BEHIND.format(port=inner))
    with open(f"{lab.directory}/sshd_config", encoding="utf-8") as file:
        text = file.read().replace(f"ListenAddress {SERVER_ADDRESS}\nPort {SSH_PORT}\n", f"ListenAddress 127.0.0.1\nPort {inner}\n")
    with open(f"{lab.directory}/sshd_inner", "w", encoding="utf-8") as file:
        file.write(text)
    sshd = lab.start("sshd-inner", [context.options.programs.get("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", f"{lab.directory}/sshd_inner"],
                     host=lab.server)
    sshd.wait_for_port(inner)
    account.tele("behind", "echo $SSH_CONNECTION | cut -d' ' -f4", output=f"{inner}\n")
    account.tele("behind-command", "cat; exit 3", status=3, output="")
    account.tele("-J", "there", "middle", "echo by an option", output="by an option\n")
    account.tele("-J", f"alice@there:{SSH_PORT}", "middle", "echo by a port", output="by a port\n")
    account.tele("-J", "there,middle", "there", "echo $SSH_CONNECTION | cut -d' ' -f4", output=f"{SSH_PORT}\n")
    if len(account.servers()) != 1:
        raise Failure(f"{len(account.servers())} servers for one host")
    # ssh itself sees a host that is its own jump host; two that are each other's it follows without end.
    with open(f"{account.here}/.ssh/config", "a", encoding="utf-8") as file:
        file.write("Host circle\n  ProxyJump back\nHost back\n  ProxyJump circle\n")
    said = account.tele("circle", "true", status=255, errors=None).errors
    if "leads in a circle of jump hosts" not in said:
        raise Failure(f"a circle of jump hosts: {said}")
    user = account.start(binary(), "ssh", "behind", "for i in $(seq 120); do echo line $i; sleep .05; done; exit 7")
    if not context.until(15, lambda: "line 3" in user.output):
        raise Failure(f"no line came: {user.errors.strip()[-300:]}")
    for fault in ("reset", "blackhole"):
        FAULTS[fault].inflict(lab, None)
        context.sleep(4)
        FAULTS[fault].heal(lab, None)
        context.sleep(1)
    if user.wait(30) != 7 or user.output.splitlines() != [f"line {number}" for number in range(1, 121)] or user.errors:
        raise Failure(f"status {user.status}, {len(user.output.splitlines())} lines, said “{user.errors[-300:]}”")
    return "ProxyJump, ProxyCommand, -J with a port and by two hosts; 120 lines through a reset and a silence"


def cases():
    return [
        Case("tele-ssh.ordinary", ordinary, needs=NEEDS, only_tele=True, only_plain=True),
        Case("tele-ssh.outage", outage, needs=NEEDS, only_tele=True, only_plain=True),
        Case("tele-ssh.words", words, needs=NEEDS, only_tele=True, only_plain=True),
        Case("tele-ssh.tools", tools, needs=(*NEEDS, "git", "rsync"), only_tele=True, only_plain=True),
        Case("tele-ssh.shells", shells, needs=(*NEEDS, "tcsh", "fish"), only_tele=True, only_plain=True),
        Case("tele-ssh.jumps", jumps, needs=NEEDS, only_tele=True, only_plain=True),
        Case("tele-ssh.troubles", troubles, needs=NEEDS, only_tele=True, only_plain=True),
    ]
