"""Produces numbered messages at a steady rate and reads them back meanwhile; prints one line of JSON.

    kafka_client.py BROKERS TOPIC COUNT MESSAGES_PER_SECOND [PARTITIONS]

With several partitions the numbers go to them in turn.
"""

import json
import sys
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition

broker, topic, count, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
partitions = int(sys.argv[5]) if len(sys.argv) > 5 else 1
PATIENCE = 150
report = {"delivered": 0, "consumed": 0, "disconnects": 0, "errors": [], "wrong": ""}
disconnects = {}
ended = threading.Event()


def text(number):
    return b"message %d %s" % (number, b"x" * (number * 7919 % 200))


def note_error(error):
    report["errors"].append(str(error))


def note_statistics(who):
    def note(document):
        brokers = json.loads(document)["brokers"].values()
        disconnects[who] = sum(each.get("disconnects", 0) for each in brokers)
    return note


def settings(who, **more):
    # A request may wait through an outage of a minute; the library's own patience is exactly that long.
    return {"bootstrap.servers": broker, "socket.timeout.ms": 1000 * PATIENCE,
            "error_cb": note_error, "stats_cb": note_statistics(who), "statistics.interval.ms": 500, **more}


def delivered(error, message):
    if error:
        note_error(error)
    else:
        report["delivered"] += 1


def produce():
    producer = Producer(settings("producer", **{"enable.idempotence": True, "linger.ms": 5}))
    began = time.monotonic()
    for number in range(count):
        while True:
            try:
                producer.produce(topic, text(number), partition=number % partitions, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
        ahead = began + number / rate - time.monotonic()
        if ahead > 0.01:
            time.sleep(ahead)
    producer.flush(PATIENCE)
    # One more round of statistics, so that a connection lost at the end is counted.
    for _ in range(6):
        producer.poll(0.1)
    ended.set()


def consume():
    consumer = Consumer(settings("consumer", **{"group.id": "reader", "enable.auto.commit": False,
                                                "auto.offset.reset": "earliest"}))
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    limit = time.monotonic() + PATIENCE
    expected = list(range(partitions))
    while time.monotonic() < limit and not (report["consumed"] == count and ended.is_set()):
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error():
            note_error(message.error())
            continue
        due = expected[message.partition()]
        if message.value() != text(due):
            report["wrong"] = f"message {due} was due, {message.value()[:40]} came"
            break
        expected[message.partition()] += partitions
        report["consumed"] += 1
    consumer.close()


producing = threading.Thread(target=produce, daemon=True)
producing.start()
consume()
producing.join(10)
report["disconnects"] = sum(disconnects.values())
print(json.dumps(report))
sys.exit(1 if report["wrong"] else 0)
