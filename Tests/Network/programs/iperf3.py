"""iperf3 as fast as it goes: four connections, and four in each direction at once."""

import json

from process import Failure

from .program import Program, tail


class Iperf3(Program):
    name = "iperf3"
    needs = ("iperf3",)
    weight = 3
    origin_port = 7201
    without_tele = "iperf3"
    flags = ("-P4", "--bidir")

    def prepare(self, path):
        # The server gives up 40 s after the test should have ended; a stopped process takes 60 s of them.
        self.seconds = 40 if self.options.long else 6
        self.origin(["iperf3", "-s", "-1", "-p", str(self.origin_port), "--forceflush"])

    def start(self, path):
        host, port = path.address
        return self.lab.start("iperf3", ["iperf3", "-c", host, "-p", str(port), *self.flags, "-J",
                                         "-t", str(self.seconds)], host=self.lab.client)

    def check(self, user):
        try:
            report = json.loads(user.output)
        except json.JSONDecodeError:
            raise Failure(f"iperf3 gave no report: {tail(user.output + user.errors)}") from None
        if user.status or "error" in report:
            raise Failure(f"iperf3 ended with status {user.status}: {report.get('error', '')}")
        notes = []
        for direction in ("sum", "sum_bidir_reverse"):
            if direction == "sum_bidir_reverse" and "--bidir" not in self.flags:
                continue
            suffix = "_bidir_reverse" if direction != "sum" else ""
            sent, received = (report["end"][f"sum_{end}{suffix}"]["bytes"] for end in ("sent", "received"))
            if not 0 < received <= sent:
                raise Failure(f"iperf3 sent {sent} and received {received} bytes")
            notes.append(f"{received * 8 / self.seconds / 1e9:.2f}")
        return f"{' and '.join(notes)} Gbit/s"


class Iperf3OneWay(Iperf3):
    name = "iperf3-one-way"
    origin_port = 7202
    flags = ("-P4",)
