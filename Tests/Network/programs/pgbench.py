"""pgbench: bank transactions that must all succeed, and books that must agree afterwards."""

import glob
import os
import re
import shutil
import subprocess
import threading

from process import Failure

from .program import Program, tail

CLIENTS = 8
template_lock = threading.Lock()


class Pgbench(Program):
    name = "pgbench"
    needs = ("postgres", "initdb", "pgbench", "psql", "setpriv")
    weight = 1
    origin_port = 7432
    without_tele = "pgbench ended with status"

    def prepare(self, path):
        # PostgreSQL refuses to run as root.
        self.as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
        shutil.chown(self.directory, "postgres", "postgres")
        data = os.path.join(self.directory, "data")
        self._command([self.program("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--no-sync",
                       "--locale=C", "--encoding=UTF8"])
        with open(os.path.join(data, "pg_hba.conf"), "a", encoding="utf-8") as file:
            file.write("host all all 0.0.0.0/0 trust\n")
        self.origin([*self.as_postgres, self.program("postgres"), "-D", data, "-p", str(self.origin_port),
                     "-c", "listen_addresses=0.0.0.0", "-c", f"unix_socket_directories={self.directory}",
                     "-c", "dynamic_shared_memory_type=mmap", "-c", "fsync=off", "-c", "autovacuum=off", "-c", "max_connections=30"])
        if not self.context.until(15, lambda: self._ready()):
            raise Failure("postgres does not answer")
        self.at_server("pgbench-initialise", [
            self.program("pgbench"), "-h", "127.0.0.1", "-p", str(self.origin_port), "-U", "postgres",
            "-q", "-i", "-s", "10" if self.options.long else "1", "postgres"])

    def start(self, path):
        host, port = path.address
        seconds = 30 if self.options.long else 8
        rate = [] if self.options.long else ["-R", "300"]
        return self.lab.start("pgbench", [
            self.program("pgbench"), "-h", host, "-p", str(port), "-U", "postgres", "-n", "-c", str(CLIENTS),
            "-j", "2", "-T", str(seconds), *rate, "postgres"], host=self.lab.client)

    def check(self, user):
        self.expect_success(user)
        failed = re.search(r"number of failed transactions: (\d+)", user.output)
        processed = re.search(r"number of transactions actually processed: (\d+)", user.output)
        if not failed or not processed:
            raise Failure(f"pgbench gave no report: {tail(user.output)}")
        if int(failed.group(1)) or re.search(r"\b(aborted|error|fatal)\b", user.errors, re.IGNORECASE):
            raise Failure(f"{failed.group(1)} transactions failed: {tail(user.errors)}")
        books = self._sql("select count(*), sum(delta) from pgbench_history union all "
                          "select 0, sum(abalance) from pgbench_accounts union all "
                          "select 0, sum(tbalance) from pgbench_tellers union all "
                          "select 0, sum(bbalance) from pgbench_branches").split()
        rows = [tuple(map(int, book.split("|"))) for book in books]
        if rows[0][0] != int(processed.group(1)):
            raise Failure(f"pgbench did {processed.group(1)} transactions, the server has {rows[0][0]}")
        if len({total for _, total in rows}) != 1:
            raise Failure(f"the books do not agree: {rows}")
        return f"{processed.group(1)} transactions, 0 failed"

    def _ready(self):
        try:
            self._sql("select 1")
            return True
        except Failure:
            return False

    def _command(self, argv):
        run = subprocess.run([*self.as_postgres, *argv], capture_output=True, text=True, cwd=self.directory)
        if run.returncode:
            raise Failure(f"{os.path.basename(argv[0])} failed: {tail(run.stderr)}")

    def _sql(self, statement):
        self.questions = getattr(self, "questions", 0) + 1
        return self.at_server(f"psql-{self.questions}", [
            self.program("psql"), "-h", "127.0.0.1", "-p", str(self.origin_port), "-U", "postgres",
            "-Atc", statement, "postgres"])


def programs_of_postgres():
    """Debian keeps most of PostgreSQL's programs out of the PATH."""
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    return folders[-1] if folders else None
