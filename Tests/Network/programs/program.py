"""What every real program has in common: an origin, a user's client, and a judgement of what they did."""

import os
import shutil

from process import Failure


class Program:
    name = ""
    #: The executables that it needs.
    needs = ()
    #: How much of the machine it wants; see `runner.Case`.
    weight = 1
    origin_port = 7000
    #: tele's port for it, if it must be a certain one.
    user_port = None
    #: Seconds after the start of the user's client at which the network fails.
    fault_after = 1.5
    #: Seconds within which the client ends after the network is well again.
    patience = 60
    #: What its failure over the relay says when a middlebox resets connections.
    without_tele = ""

    def __init__(self, context, lab):
        self.context, self.lab, self.options = context, lab, context.options
        self.directory = os.path.join(lab.directory, self.name)
        os.makedirs(self.directory, exist_ok=True)

    def prepare(self, path):
        """Start the origin and lay out its data, directly in the server's namespace."""
        raise NotImplementedError

    def start(self, path):
        """Start the user's client; returns its process."""
        raise NotImplementedError

    def check(self, user):
        """Raise a Failure unless the ended client and the origin saw the right thing; returns a note."""
        raise NotImplementedError

    # Helpers

    def origin(self, argv, port=None, **options):
        process = self.lab.start(f"{self.name}-origin", argv, host=self.lab.server, **options)
        process.wait_for_port(port or self.origin_port, seconds=20)
        return process

    def at_server(self, name, argv, seconds=60, **options):
        """A command in the server's namespace that must succeed; returns its output."""
        process = self.lab.start(name, argv, host=self.lab.server, **options)
        if process.wait(seconds):
            raise Failure(f"{name} failed: {(process.errors or process.output).strip()[-300:]}")
        return process.output

    def expect_success(self, user):
        if user.status:
            raise Failure(f"{self.name} ended with status {user.status}: {tail(user.errors or user.output)}")

    def program(self, name):
        return self.options.programs.get(name) or shutil.which(name) or name


def tail(text):
    return " / ".join(line.strip() for line in text.strip().splitlines()[-3:])[-400:] or "(nothing written)"
