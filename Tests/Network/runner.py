"""Chooses cases, runs several at once where they do not disturb each other, prints one line for each."""

import fnmatch
import random
import threading
import time
import traceback
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Callable

from lab import Lab
from path import Path
from process import Failure, WrongBytes


class Skip(Exception):
    """Why a case cannot run here."""


class Stopped(Exception):
    """The run was asked to end."""


@dataclass
class Case:
    name: str
    run: Callable
    #: How much of the machine it wants, of `CAPACITY`: sleepers 1, workers 2 or 3, measurements all.
    weight: int = 1
    #: The programs that it needs.
    needs: tuple = ()
    #: "one": runs with the chosen driver, uring if none was chosen; "both": with both then; "either": with one that the seed chooses, and with both
    #: where `Options.every` asks for it; "long": with both in long campaigns.
    drivers: str = "one"
    #: Of the cases of one kind the seed chooses so many, where nothing asks for more.
    kind: str | None = None
    of_kind: int = 2
    #: A fault that stops a tele process, and cases about tele's processes, say nothing about other paths.
    only_tele: bool = False
    #: With keys or certificates it says nothing.
    only_plain: bool = False
    #: Part of the short set that runs for every change; the others are for long campaigns.
    short: bool = True
    #: Measured directly: it has no tele and so no driver.
    direct: bool = False
    #: Always over this path.
    path: str | None = None
    #: What must be wrong when it runs over another path: (path, text that the failure contains).
    canaries: tuple = ()


CAPACITY = 10


@dataclass
class Options:
    driver: str | None = None
    path: str = "tele"
    security: str = "none"
    rounds: int = 1
    seconds: float | None = None
    outage: float = 4
    stop: float = 5
    long: bool = False
    #: Whether the cases were asked for by name.
    named: bool = False
    #: Nothing is left to the seed.
    all: bool = False
    seed: int = 1
    ci: bool = False
    venv: str | None = None
    programs: dict = field(default_factory=dict)

    @property
    def every(self):
        return self.all or self.named or self.long


@dataclass
class Job:
    case: Case
    path: str
    driver: str | None
    round: int = 1
    expect: str | None = None
    #: How often it may be tried again, alone, when it failed beside others.
    again: int = 0

    @property
    def title(self):
        how = f" [{self.path}{' ' + self.driver if self.driver else ''}]"
        return self.case.name + how + (f" #{self.round}" if self.round > 1 else "")


class Context(ExitStack):
    """What a case sees: its options, its laboratories, chance from its seed, and interruptible time."""

    def __init__(self, job, options, stopping):
        super().__init__()
        self.job, self.options, self.stopping = job, options, stopping
        self.random = random.Random(f"{options.seed}/{job.case.name}/{job.round}")
        self.paths, self.labs = [], []
        self.table = []

    def lab(self):
        self.labs.append(self.enter_context(Lab()))
        return self.labs[-1]

    def logs(self):
        """The last log lines of all tele processes, or how one crashed, for a person who asks why a case failed."""
        return [f"{process.name}: {line}" for lab in self.labs if not lab.closed for process in lab.tele
                for line in process.crash or process.errors.splitlines()[-12:]] + [line for lab in self.labs if lab.closed for line in lab.crashes]

    def crashes(self):
        """What Swift says of crashes of tele, in all laboratories."""
        return [line for lab in self.labs for line in (lab.crashes if lab.closed else lab.look_for_crashes())]

    def path(self, lab, origin_port, kind=None, **options):
        path = Path(lab, kind or self.job.path, self.job.driver or "auto", origin_port, **options)
        self.paths.append(path)
        return path

    def sleep(self, seconds):
        if self.stopping.wait(seconds):
            raise Stopped

    def until(self, limit, condition):
        """Whether `condition()` came true within `limit` seconds."""
        end = time.monotonic() + limit
        while not condition():
            if time.monotonic() > end:
                return False
            self.sleep(0.02)
        return True

    def show(self, line):
        """A line of a table, printed under the case's own line."""
        self.table.append(line)


class Runner:
    def __init__(self, options, capacity=None):
        self.options = options
        self.stopping = threading.Event()
        self.capacity = self.free = capacity or CAPACITY
        self.changed = threading.Condition()
        self.printing = threading.Lock()
        self.passed = self.failed = self.skipped = 0
        self.retries = []
        #: What failed beside others, by name: the last line says so.
        self.tried_again = []

    def run(self, jobs):
        """All of them, several at a time; then, one by one, those that failed and may be tried again."""
        self._run(jobs)
        while self.retries and not self.stopping.is_set():
            self._run([self.retries.pop(0)])
        return self.failed == 0

    def _run(self, jobs):
        threads = []
        waiting = list(jobs)
        while waiting and not self.stopping.is_set():
            with self.changed:
                # The first that fits, so that light cases fill the gaps beside heavy ones.
                job = next((job for job in waiting if self._share(job) <= self.free), None)
                if job is None:
                    self.changed.wait(0.2)
                    continue
                self.free -= self._share(job)
            waiting.remove(job)
            thread = threading.Thread(target=self._one, args=(job,), daemon=True)
            thread.start()
            threads.append(thread)
        while any(thread.is_alive() for thread in threads) and not self.stopping.is_set():
            self.stopping.wait(0.1)

    def _share(self, job):
        return min(job.case.weight, self.capacity)

    def _one(self, job):
        began = time.monotonic()
        context = Context(job, self.options, self.stopping)
        try:
            verdict, text = self._judge(job, context)
        finally:
            with self.changed:
                self.free += self._share(job)
                self.changed.notify()
        if verdict:
            self._report(verdict, job, time.monotonic() - began, text, context)

    def _judge(self, job, context):
        details = []
        try:
            with context:
                try:
                    reason = self._obstacle(job.case)
                    if reason:
                        raise Skip(reason)
                    note = job.case.run(context) or ""
                    for path in context.paths:
                        path.check_alive()
                    if context.crashes():
                        raise Failure("tele crashed, and nobody noticed")
                except (Skip, Stopped):
                    raise
                except Exception:
                    details = context.logs()
                    job.again = 0 if context.crashes() else job.again
                    raise
            verdict, text = "PASS", note
        except Skip as skip:
            verdict, text = ("FAIL" if self.options.ci else "SKIP"), f"cannot run here: {skip}"
        except Stopped:
            return None, ""
        except (Failure, AssertionError) as failure:
            verdict, text = "FAIL", str(failure)
            job.again = 0 if isinstance(failure, WrongBytes) else job.again
        except Exception as error:
            verdict, text = "FAIL", f"{type(error).__name__}: {error}"
            details += traceback.format_exc().splitlines()[-6:]
        if self.stopping.is_set():
            return None, ""
        if job.expect is not None and verdict != "SKIP":
            context.table = []
            return self._canary(job, verdict, text)
        context.table += [f"| {line}" for line in details] if verdict == "FAIL" else []
        return verdict, text

    def _canary(self, job, verdict, text):
        if verdict == "FAIL" and job.expect in text:
            return "PASS", f"caught: {text}"
        if verdict == "FAIL":
            return "FAIL", f"failed, but not because of “{job.expect}”: {text}"
        return "FAIL", f"not noticed: {text}"

    def _obstacle(self, case):
        for program in case.needs:
            if program not in self.options.programs:
                return f"the program {program} is not installed (see packages.txt; --install gets it)"
        return None

    def _report(self, verdict, job, seconds, text, context):
        with self.printing:
            if verdict == "FAIL" and job.again > 0:
                verdict = "AGAIN"
                job.again -= 1
                self.tried_again.append(job.title)
                self.retries.append(job)
            self.passed += verdict == "PASS"
            self.failed += verdict == "FAIL"
            self.skipped += verdict == "SKIP"
            print(f"{verdict}  {job.title}  {seconds:.1f} s  {text}", flush=True)
            for line in context.table:
                print(f"      {line}", flush=True)

    def skip_all(self, jobs, reason):
        for job in jobs:
            verdict = "FAIL" if self.options.ci else "SKIP"
            context = Context(job, self.options, self.stopping)
            self._report(verdict, job, 0, f"cannot run here: {reason}", context)

    def closing_line(self):
        line = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        return line + (f", a second try needed by {', '.join(self.tried_again)}" if self.tried_again else "")


def choose(cases, patterns):
    if not patterns:
        return cases
    chosen = [case for case in cases if any(matches(case.name, pattern) for pattern in patterns)]
    for pattern in patterns:
        if not any(matches(case.name, pattern) for case in cases):
            raise Failure(f"no case is called {pattern}; --list shows the names")
    return chosen


def matches(name, pattern):
    """A pattern is a name, a beginning of a name up to a dot, or has the wildcards of a shell."""
    return name == pattern or name.startswith(pattern + ".") or fnmatch.fnmatchcase(name, pattern)


def sample(cases, options):
    """Those that run: of each kind a few, which differ from run to run, so that over time all do."""
    if options.every:
        return cases
    kinds = {}
    for case in cases:
        kinds.setdefault(case.kind, []).append(case)
    chosen = set()
    for kind, members in kinds.items():
        chance = random.Random(f"{options.seed}/{kind}")
        chosen.update(case.name for case in (members if kind is None else chance.sample(members, min(len(members), members[0].of_kind))))
    return [case for case in cases if case.name in chosen]


def drivers_of(case, options):
    if options.driver == "both" or options.driver is None and (
            case.drivers == "both" or case.drivers == "long" and options.long or case.drivers == "either" and options.every):
        return ["uring", "epoll"]
    if options.driver is None and case.drivers == "either":
        return [random.Random(f"{options.seed}/{case.name}/driver").choice(("uring", "epoll"))]
    return [options.driver or "uring"]


def jobs_of(cases, options):
    jobs = []
    for case in sample(cases, options):
        if not case.short and not options.long and not options.named:
            continue
        path = "direct" if case.direct else case.path or options.path
        if case.only_tele and path not in Path.WITH_TELE or case.only_plain and options.security != "none":
            continue
        for driver in drivers_of(case, options) if path in Path.WITH_TELE else [None]:
            jobs += [Job(case, path, driver, round) for round in range(1, options.rounds + 1)]
    return jobs


def canaries_of(cases):
    return [Job(case, path, None, expect=text) for case in cases for path, text in case.canaries]
