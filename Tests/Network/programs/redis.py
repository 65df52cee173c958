"""redis-benchmark with 50 pipelined clients. A command lost or done twice shows in what INCR counts."""

import re

from process import Failure

from .program import Program, tail

CLIENTS, PIPELINE = 50, 16


class Redis(Program):
    name = "redis"
    needs = ("redis-server", "redis-benchmark", "redis-cli")
    weight = 2
    origin_port = 7379
    fault_after = 0.7
    patience = 90
    without_tele = "ended with status"

    def prepare(self, path):
        self.count = 1_600_000 if self.options.long else 560_000
        self.origin(["redis-server", "--port", str(self.origin_port), "--bind", "0.0.0.0", "--save", "",
                     "--appendonly", "no", "--protected-mode", "no", "--dir", self.directory])

    def start(self, path):
        host, port = path.address
        return self.lab.start("redis-benchmark", [
            "redis-benchmark", "-h", host, "-p", str(port), "-t", "incr,set,get", "-n", str(self.count),
            "-c", str(CLIENTS), "-P", str(PIPELINE), "-q"], host=self.lab.client)

    def check(self, user):
        self.expect_success(user)
        text = user.output.replace("\r", "\n")
        if re.search(r"\berr(or)?\b", text + user.errors, re.IGNORECASE):
            raise Failure(f"redis-benchmark says: {tail(text + user.errors)}")
        rates = re.findall(r"^(\w+): ([\d.]+) requests per second", text, re.MULTILINE)
        if [name for name, _ in rates] != ["SET", "GET", "INCR"]:
            raise Failure(f"redis-benchmark did not finish its three tests: {tail(text)}")
        done = {command: self._calls(command) for command in ("incr", "set", "get")}
        counter = int(self._ask("GET", "counter:__rand_int__").strip() or 0)
        if counter != self.count or done["incr"] != self.count or done["set"] != self.count:
            raise Failure(f"{self.count} commands of each kind were sent; {done} arrived, "
                          f"the counter is {counter}")
        return ", ".join(f"{name} {float(rate) / 1000:.0f} k/s" for name, rate in rates)

    def _ask(self, *command):
        return self.at_server(f"redis-cli-{'-'.join(command)}".lower().replace(":", ""),
                              ["redis-cli", "-p", str(self.origin_port), *command])

    def _calls(self, command):
        if not hasattr(self, "_statistics"):
            self._statistics = self._ask("INFO", "commandstats")
        found = re.search(rf"^cmdstat_{command}:calls=(\d+)", self._statistics, re.MULTILINE)
        return int(found.group(1)) if found else 0
