"""A command over ssh that speaks slowly: every line and the exit status must arrive."""

import os
import subprocess

from process import Failure

from .program import Program, tail

LINES = 200
STATUS = 7


class Ssh(Program):
    name = "ssh"
    needs = ("sshd", "ssh", "ssh-keygen")
    origin_port = 7022
    patience = 40
    # The middlebox resets the server only, since only the server speaks; the user waits for ever.
    without_tele = "did not end"

    def prepare(self, path):
        prepare_sshd(self)

    def start(self, path):
        pause = ".1" if self.options.long else ".05"
        host, port = path.address
        return self.lab.start("ssh", [
            "ssh", *client_options(self), "-p", str(port), f"root@{host}",
            f"for i in $(seq {LINES}); do echo line $i; sleep {pause}; done; exit {STATUS}"],
            host=self.lab.client)

    def check(self, user):
        if user.status != STATUS:
            raise Failure(f"ssh ended with status {user.status}, not {STATUS}: {tail(user.errors)}")
        lines = user.output.splitlines()
        if lines != [f"line {i}" for i in range(1, LINES + 1)]:
            raise Failure(f"{len(lines)} lines came, not {LINES} in order; the last: {lines[-1:]}")
        return f"{LINES} lines, status {STATUS}"


def prepare_sshd(program, more=""):
    """A server of our own: own host key, own user key, nothing of the machine's configuration."""
    folder = program.directory
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{folder}/{key}"],
                       check=True)
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    with open(os.path.join(folder, "sshd_config"), "w", encoding="utf-8") as file:
        file.write(f"""ListenAddress 0.0.0.0
Port {program.origin_port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
{more}""")
    program.origin([program.program("sshd"), "-D", "-e", "-f", os.path.join(folder, "sshd_config")])


def client_options(program):
    folder = program.directory
    return ["-F", "none", "-i", f"{folder}/user_key", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
            "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={folder}/known_hosts",
            "-o", "LogLevel=ERROR"]
