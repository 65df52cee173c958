"""Both ends of user connections, held by the suite, to end them in any way and see what the other sees.

A user's connection begins with eight bytes that name it; the switchboard hands out the accepted end by name.
"""

import errno
import socket
import struct
import subprocess
import threading
import time

from process import Failure

NAME = struct.Struct(">Q")
RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class Switchboard:
    """An origin in the server's namespace whose accepted connections the suite holds."""

    def __init__(self, lab, port):
        self.listener = lab.server.listen(port)
        self.arrived, self.next = {}, 0
        self.changed = threading.Condition()
        self.open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                end, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._greet, args=(end,), daemon=True).start()

    def _greet(self, end):
        end.settimeout(60)
        try:
            name = receive_exactly(end, NAME.size)
        except (OSError, Failure):
            end.close()
            return
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.changed:
            self.arrived[NAME.unpack(name)[0]] = end
            self.changed.notify_all()

    def name(self):
        with self.changed:
            self.next += 1
            return self.next

    def accepted(self, name, seconds):
        with self.changed:
            if not self.changed.wait_for(lambda: name in self.arrived, seconds):
                raise Failure(f"a user's connection did not reach the origin within {seconds} s")
            return self.arrived.pop(name)

    def drop_unclaimed(self):
        """Closes the ends whose users gave up before the suite asked for them: half-closed connections are held
        for as long as an origin keeps them."""
        with self.changed:
            for end in self.arrived.values():
                end.close()
            self.arrived.clear()

    def close(self):
        # A close alone does not wake the thread that accepts.
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def call(lab, path, switchboard, seconds=10):
    """A connection of a user: (user's end, origin's end)."""
    name = switchboard.name()
    user = lab.client.connect(path.address)
    user.sendall(NAME.pack(name))
    return user, switchboard.accepted(name, seconds)


def receive_exactly(end, count):
    data = b""
    while len(data) < count:
        part = end.recv(count - len(data))
        if not part:
            raise Failure(f"a connection ended after {len(data)} of {count} bytes")
        data += part
    return data


def exchange(user, origin, count=3000, seconds=10):
    """Both ends send and must see what the other sent."""
    for sender, receiver, text in ((user, origin, b"u"), (origin, user, b"o")):
        sender.settimeout(seconds)
        receiver.settimeout(seconds)
        try:
            sender.sendall(text * count)
            if receive_exactly(receiver, count) != text * count:
                raise Failure("wrong bytes arrived")
        except TimeoutError:
            raise Failure(f"{count} bytes did not arrive within {seconds} s") from None
        except OSError as error:
            raise Failure(f"a connection that should live is gone ({error.strerror})") from None


def observe(end, until):
    """What an end sees until the moment `until`: (bytes, "eof" | "reset" | "nothing" | an error's name)."""
    data = bytearray()
    while True:
        left = until - time.monotonic()
        if left <= 0:
            return bytes(data), "nothing"
        end.settimeout(left)
        try:
            part = end.recv(262144)
        except TimeoutError:
            return bytes(data), "nothing"
        except OSError as error:
            return bytes(data), name_of(error)
        if not part:
            return bytes(data), "eof"
        data += part


def name_of(error):
    return {errno.ECONNRESET: "reset", errno.EPIPE: "reset", errno.ECONNREFUSED: "refused"}.get(
        error.errno, errno.errorcode.get(error.errno, str(error)))


def require_reset(end, seconds, who):
    """The end must see a reset, never a clean end, within so many seconds; returns how long it took."""
    began = time.monotonic()
    _, seen = observe(end, began + seconds)
    if seen != "reset":
        raise Failure(f"{who} saw “{seen}” within {seconds} s, not a reset")
    return time.monotonic() - began


def reset(end):
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    end.close()


class Holder:
    """A process that holds the only descriptor of an end, so that its death is a crash."""

    def __init__(self, end):
        self.child = subprocess.Popen(["sleep", "600"], pass_fds=[end.fileno()], stdin=subprocess.DEVNULL)
        # The holder has it when it runs `sleep`; until then it is still a copy of this process.
        while b"sleep" not in open(f"/proc/{self.child.pid}/cmdline", "rb").read():
            time.sleep(0.005)
        end.close()

    def kill(self):
        self.child.kill()
        self.child.wait()


def wait_unread(end, count, seconds=10):
    """Until at least `count` bytes wait to be read at this end."""
    limit = time.monotonic() + seconds
    end.settimeout(0.2)
    while time.monotonic() < limit:
        try:
            if len(end.recv(count, socket.MSG_PEEK)) >= count:
                return
        except TimeoutError:
            pass
        time.sleep(0.01)
    raise Failure(f"{count} bytes did not arrive within {seconds} s")
