"""Produces numbered messages at a steady rate and reads them back meanwhile; prints one line of JSON.

    kafka_client.py BROKER TOPIC COUNT MESSAGES_PER_SECOND
"""

import json
import sys
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition

broker, topic, count, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
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
                producer.produce(topic, text(number), on_delivery=delivered)
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
    consumer.assign([TopicPartition(topic, 0, 0)])
    limit = time.monotonic() + PATIENCE
    expected = 0
    while time.monotonic() < limit and not (expected == count and ended.is_set()):
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error():
            note_error(message.error())
        elif message.value() != text(expected):
            report["wrong"] = f"message {expected} was due, {message.value()[:40]} came"
            break
        else:
            expected += 1
            report["consumed"] = expected
    consumer.close()


producing = threading.Thread(target=produce, daemon=True)
producing.start()
consume()
producing.join(10)
report["disconnects"] = sum(disconnects.values())
print(json.dumps(report))
sys.exit(1 if report["wrong"] else 0)
