"""A Kafka cluster of so many brokers (librdkafka's), which advertise 127.0.0.1 and a port each: prints the ports, and runs until it is killed.

    kafka_mock.py BROKERS TOPIC
"""

import sys
import time

from confluent_kafka import Producer

producer = Producer({"bootstrap.servers": "unused", "test.mock.num.brokers": int(sys.argv[1])})
# It is made when it is first asked for.
producer.list_topics(sys.argv[2], 10)
ports = sorted(broker.port for broker in producer.list_topics(timeout=10).brokers.values())
print(*ports, flush=True)
while True:
    time.sleep(1)
