"""rsync over ssh, both ways: a tree of files goes to the server and comes back unchanged."""

import hashlib
import os

from process import Failure

from .program import Program
from .ssh import client_options, prepare_sshd

#: Small files, borders of 4 KiB and 64 KiB, and a few large ones: about 26 MiB together.
SIZES = [0, 1, 2, 4095, 4096, 4097, 65535, 65536, 65537] * 12 + [1 << 20] * 8 + [5_000_001] * 3
RATE = 6000     # KiB a second, so that the outage falls into the transfer


class Rsync(Program):
    name = "rsync"
    needs = ("rsync", *("sshd", "ssh", "ssh-keygen"))
    origin_port = 7023
    without_tele = "ended with status"

    def prepare(self, path):
        prepare_sshd(self)
        for number, size in enumerate(SIZES):
            folder = os.path.join(self.directory, "source", f"folder{number % 7}")
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, f"file{number}"), "wb") as file:
                file.write(self.context.random.randbytes(size))

    def start(self, path):
        host, port = path.address
        remote = f"root@{host}:{self.directory}"
        shell = " ".join(["ssh", *client_options(self), "-p", str(port)])
        common = ["rsync", "-a", "--checksum", f"--bwlimit={RATE}", "-e", shell]
        script = 'set -e; "$@" "$SOURCE" "$REMOTE/there/"; "$@" "$REMOTE/there/" "$BACK"'
        places = {"SOURCE": f"{self.directory}/source/", "REMOTE": remote, "BACK": f"{self.directory}/back/"}
        return self.lab.start("rsync", ["bash", "-c", script, "rsync", *common], host=self.lab.client,
                              environment=places)

    def check(self, user):
        self.expect_success(user)
        source = checksums(os.path.join(self.directory, "source"))
        for folder in ("there", "back"):
            wrong = source.items() ^ checksums(os.path.join(self.directory, folder)).items()
            if wrong:
                raise Failure(f"{len(wrong)} files differ ({folder}), as {sorted(wrong)[0][0]}")
        return f"{len(source)} files there and back"


def checksums(root):
    sums = {}
    for folder, _, files in os.walk(root):
        for name in files:
            with open(os.path.join(folder, name), "rb") as file:
                path = os.path.relpath(os.path.join(folder, name), root)
                sums[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums
