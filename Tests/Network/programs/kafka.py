"""A real Kafka broker: idempotent messages, produced and consumed at once, in order and gap-free.

The broker tells its clients an address of its own, 127.0.0.1:9092, and in the client's namespace that is
where tele listens: the client is not told that there is a tunnel.
"""

import json
import os

from lab import SERVER_ADDRESS
from path import HERE
from process import Failure

from .program import Program, tail

MESSAGES = 20_000
TOPIC = "numbers"


class Kafka(Program):
    name = "kafka"
    needs = ("tansu", "confluent_kafka")
    origin_port = 9092
    user_port = 9092
    without_tele = "connections broke"

    def prepare(self, path):
        # Directly, the client sees the broker's real address; otherwise its own host's.
        advertised = f"{path.address[0]}:{path.address[1]}"
        tansu = self.program("tansu")
        self.origin([tansu, "broker", "--listener-url", f"tcp://0.0.0.0:{self.origin_port}",
                     "--advertised-listener-url", f"tcp://{advertised}",
                     "--storage-engine", "memory://tansu/"],
                    environment={"RUST_LOG": "error"})
        self.at_server("tansu-topic", [tansu, "topic", "create", "--broker",
                                       f"tcp://{SERVER_ADDRESS}:{self.origin_port}",
                                       "--partitions", "1", TOPIC])

    def start(self, path):
        host, port = path.address
        return self.lab.start("kafka-client", [
            os.path.join(self.options.venv, "bin", "python"),
            os.path.join(HERE, "workers", "kafka_client.py"),
            f"{host}:{port}", TOPIC, str(MESSAGES), "4000" if not self.options.long else "1500"],
            host=self.lab.client)

    def check(self, user):
        try:
            report = json.loads(user.output.splitlines()[-1])
        except (IndexError, json.JSONDecodeError):
            raise Failure(f"the Kafka client ended with status {user.status}: {tail(user.errors)}") from None
        if report["wrong"]:
            raise Failure(report["wrong"])
        if report["disconnects"]:
            raise Failure(f"{report['disconnects']} of the client's connections broke: "
                          f"{report['errors'][:1]}")
        if report["consumed"] != MESSAGES or report["delivered"] != MESSAGES or user.status:
            raise Failure(f"of {MESSAGES} messages {report['delivered']} were acknowledged and "
                          f"{report['consumed']} read; {report['errors'][:2]}")
        return f"{MESSAGES} messages in order"
