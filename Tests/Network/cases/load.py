"""Honest load that is heavy or strange, and peers that do not read: it slows down what it must and ends nothing else."""

import socket
import threading

from ends import Switchboard, call
from process import Failure
from runner import Case

ORIGIN_PORT = 7960
MIB = 1 << 20


def pattern(start, count):
    """The bytes of a stream from `start` on."""
    block = bytes(range(251))
    first = start % 251
    return (block * (count // 251 + 2))[first:first + count]


def send_pattern(end, start, count):
    step = 251 * 4096
    position = start
    while position < start + count:
        part = min(step, start + count - position)
        end.sendall(pattern(position, part))
        position += part


def receive_all(end, seconds):
    """Everything until the end, compared with the pattern as it comes. Returns (bytes, what ended it)."""
    end.settimeout(seconds)
    position = 0
    while True:
        try:
            data = end.recv(MIB)
        except TimeoutError:
            return position, "nothing"
        except OSError as error:
            return position, str(error)
        if not data:
            return position, "eof"
        if data != pattern(position, len(data)):
            raise Failure(f"a wrong byte within {len(data)} bytes at offset {position}")
        position += len(data)


def urgent(direction, splicing):
    """64 MiB, an urgent byte, 10 MiB and, or not, FIN: every byte arrives in its place, as over direct TCP with SO_OOBINLINE."""
    before, after = 64 * MIB, 10 * MIB

    def story(context):
        lab = context.lab()
        flags = [f"-splice={splicing}"]
        path = context.path(lab, ORIGIN_PORT, client_flags=flags, server_flags=flags)
        notes = []
        with Switchboard(lab, ORIGIN_PORT) as switchboard:
            for ends in (True, False):
                user, origin = call(lab, path, switchboard)
                sender, receiver = (user, origin) if direction == "up" else (origin, user)
                receiver.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)

                def send():
                    sender.settimeout(60)
                    send_pattern(sender, 0, before)
                    sender.send(pattern(before, 1), socket.MSG_OOB)
                    send_pattern(sender, before + 1, after)
                    if ends:
                        sender.shutdown(socket.SHUT_WR)
                thread = threading.Thread(target=send, daemon=True)
                used = sum(process.cpu_seconds() for process in (path.client, path.server) if process)
                thread.start()
                count, seen = receive_all(receiver, 10 if ends else 2)
                if count != before + 1 + after or seen != ("eof" if ends else "nothing"):
                    raise Failure(f"{count / MIB:.2f} of {(before + 1 + after) / MIB:.2f} MiB arrived before “{seen}”")
                thread.join(5)
                if not ends:
                    context.sleep(1)
                    began = sum(process.cpu_seconds() for process in (path.client, path.server) if process)
                    context.sleep(1)
                    spent = sum(process.cpu_seconds() for process in (path.client, path.server) if process) - began
                    if spent > 0.2:
                        raise Failure(f"an idle stream costs {spent:.2f} CPU s a second after an urgent byte")
                    notes.append(f"{began - used:.1f} CPU s")
                user.close()
                origin.close()
        return "every byte in its place, with and without FIN; " + notes[0]
    return story


def cases():
    for direction in ("up", "down"):
        for splicing in ("always", "never"):
            yield Case(f"load.urgent-{direction}-{splicing}", urgent(direction, splicing), weight=3, drivers="both")
