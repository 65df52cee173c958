"""What a machine gives or lacks: users, groups, folders, memory; and thousands of mappings."""

import os
import pwd
import resource
import signal
import subprocess
import time

from ends import Switchboard, call, exchange
from groups import memory_group
from path import binary, status_of
from process import Failure
from runner import Case, Skip

from cases.mappings import Files, Route

ORIGIN_PORT = 7990
NOBODY = 65534
MANY = 5000
#: "mail" is in no group of nobody's; "games" is.
GROUP = "games"


def as_nobody(*words, groups=(), environment=None):
    """What a command of an ordinary user says: (status, stdout, stderr)."""
    listed = f"--groups={','.join(groups)}" if groups else "--clear-groups"
    run = subprocess.run(["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", listed, *words], capture_output=True, text=True, timeout=15,
                         env=environment)
    return run.returncode, run.stdout, run.stderr


def unix_listeners(context):
    """Mode and group of a Unix listener, by its table and by flags, under a umask that shuts everybody out; also after a reload."""
    lab = context.lab()
    folder = lab.directory
    before = os.umask(0o077)
    try:
        path = Files(context, lab, {
            "team": f'{{ address = "unix:{folder}/team", mode = "0660", group = "{GROUP}" }}', "all": f'{{ address = "unix:{folder}/all", mode = "0666" }}',
            "own": f"unix:{folder}/own"}, {name: f"127.0.0.1:{ORIGIN_PORT}" for name in ("team", "all", "own", "late")})
    finally:
        os.umask(before)
    connect = ("python3", "-c", "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])")

    def may(name, **who):
        return as_nobody(*connect, f"{folder}/{name}", **who)[0] == 0
    if [may("team"), may("team", groups=[GROUP]), may("all"), may("own", groups=[GROUP])] != [False, True, True, False]:
        raise Failure("the modes of the sockets are not those of the file")
    if os.stat(f"{folder}/team").st_mode & 0o777 != 0o660:
        raise Failure("the mode of the socket is another one")
    path.write("client", f'out = "{path.control("x").rpartition("/")[0] and "10.213.2.2:40300"}"\nsocket-mode = "0660"\nsocket-group = "{GROUP}"', "listen",
               {"all": f'{{ address = "unix:{folder}/all", mode = "0600" }}', "late": f"unix:{folder}/late"})
    path.client.signal(signal.SIGHUP)
    if not context.until(5, lambda: os.path.exists(f"{folder}/late") and not may("all")):
        raise Failure("a reload does not change who may connect")
    if [may("late"), may("late", groups=[GROUP]), os.path.exists(f"{folder}/team")] != [False, True, False]:
        raise Failure("a listener that a reload made has another mode")
    for flag, words in (("-socket-mode=8", "is not a file mode"), ("-socket-group=nobodyknows", "is not a group on this host")):
        run = subprocess.run([binary(), "-client", f"-in=unix:{folder}/x", "-out=:1", flag], capture_output=True, text=True, timeout=5)
        if run.returncode != 64 or words not in run.stderr:
            raise Failure(f"{flag}: {run.stderr}")
    return "who may connect is what the file says, by mode and group"


def without_runtime_folder(context):
    """An ordinary user without a session, as in cron and containers: status finds its process, and nobody else's folder is trusted."""
    lab = context.lab()
    os.chmod(lab.directory, 0o777)
    name = f"/tmp/tele-{NOBODY}"
    if os.path.lexists(name):
        raise Skip(f"{name} is there already")
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    def start(name, port):
        client = lab.start(name, ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env", "-i", binary(), "-client",
                                  f"-in=127.0.0.1:{port}", "-out=127.0.0.1:1", "-log-level=debug"], host=lab.client)
        if not context.until(5, lambda: "cannot reach the server" in client.errors):
            raise Failure(f"it does not start: {client.errors}")
        return client
    try:
        # Somebody else was here first.
        os.mkdir(name, 0o777)
        os.chmod(name, 0o777)
        client = start("wary", 9401)
        if os.listdir(name):
            raise Failure("a control socket in a folder of somebody else")
        client.kill()
        os.rmdir(name)
        client = start("client", 9402)
        status, said, complaint = as_nobody(binary(), "status", environment=environment)
        if status or f"tele client {client.pid}" not in said:
            raise Failure(f"status does not find it: {said} {complaint}")
        if os.stat(name).st_mode & 0o777 != 0o700:
            raise Failure("its folder is open to others")
        client.kill()
    finally:
        subprocess.run(["rm", "-rf", name], check=False)
    return "found again without XDG_RUNTIME_DIR; a folder of somebody else is left alone"


def many_mappings(context):
    """Five thousand mappings: they start, reload and end in seconds, and a reload keeps nobody waiting."""
    lab = context.lab()
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2 * MANY:
        raise Skip("needs 10 000 descriptors")
    began = time.monotonic()
    names = [f"m{number}" for number in range(MANY)]
    # Every second origin is a name.
    origins = {name: f"{'localhost' if number % 2 else '127.0.0.1'}:{ORIGIN_PORT}" for number, name in enumerate(names)}
    listen = {name: f"127.0.0.1:{10_000 + number}" for number, name in enumerate(names)}
    path = Files(context, lab, listen, origins)
    started = time.monotonic() - began
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        ends = [call(lab, Route(10_000 + number), switchboard) for number in (0, 1, MANY - 1)]
        for pair in ends:
            exchange(*pair)
        status = path.status("client")
        if len(status["mappings"]) != MANY:
            raise Failure(f"status shows {len(status['mappings'])} mappings")
        slowest = 0
        # The long one uses up all places that an origin may have.
        for turn in range(10 if context.options.long else 3):
            # All names change but those in use.
            kept = {"m0", "m1", f"m{MANY - 1}"}
            path.write("server", 'out = ":40300"', "origins", {name if name in kept else f"{name}-{turn}": value for name, value in origins.items()})
            path.write("client", 'out = "10.213.2.2:40300"', "listen",
                       {name if name in kept else f"{name}-{turn}": value for name, value in listen.items()})
            for process in (path.server, path.client):
                process.signal(signal.SIGHUP)
            end = time.monotonic() + 2
            while time.monotonic() < end:
                before = time.monotonic()
                exchange(*ends[0], count=10)
                slowest = max(slowest, time.monotonic() - before)
                time.sleep(0.005)
        exchange(*call(lab, Route(10_500), switchboard))
        if "mapping not started" in path.client.errors + path.server.errors:
            raise Failure("a mapping was left out by a reload")
    if started > 10 or slowest > 1:
        raise Failure(f"started after {started:.1f} s; during reloads somebody waited {slowest * 1000:.0f} ms")
    return f"{MANY} mappings up after {started:.1f} s; during three reloads nobody waited more than {slowest * 1000:.0f} ms"


def small_container(context):
    """A control group with little memory: tele holds less by itself, and says so when it was told to hold more."""
    lab = context.lab()
    notes = []
    with memory_group(lab, 96 << 20) as group:
        for flags, words in (([], None), (["-memory=1GiB"], "-memory exceeds the memory limit")):
            inside = lab.start(f"inside{len(notes)}", ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", binary(), "-client",
                                                      "-in=127.0.0.1:0", "-out=127.0.0.1:1", f"-control={lab.directory}/{len(notes)}.sock", *flags])
            if not context.until(5, lambda: "listening for users" in inside.errors):
                raise Failure(f"it does not start: {inside.errors}")
            held = status_of(f"{lab.directory}/{len(notes)}.sock")["heldBytesMaximum"]
            if words and words not in inside.errors or not words and held > 48 << 20:
                raise Failure(f"with {flags} it holds {held >> 20} MiB and says: {inside.errors[-300:]}")
            notes.append(f"{held >> 20} MiB")
            inside.kill()
            inside.wait(5)
    return f"of 96 MiB it takes {notes[0]}; told to take {notes[1]} it warns"


def metrics_by_name(context):
    """Bytes and connections of each mapping and of each client, exact; names that are many are bounded; and an idle path's round trip is its
    own, not that of delayed acknowledgments."""
    lab = context.lab()
    folder = lab.directory
    for name in ("anna", "bert"):
        subprocess.run([binary(), "keygen", f"-out={folder}/{name}", f"-name={name}"], check=True, capture_output=True)
    with open(f"{folder}/keys", "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write("".join(open(f"{folder}/{name}", encoding="utf-8").read() for name in ("anna", "bert")))
    count = 120
    path = Files(context, lab, {f"m{number}": f"127.0.0.1:{9500 + number}" for number in range(count)},
                 {f"m{number}": f"127.0.0.1:{ORIGIN_PORT}" for number in range(count)},
                 client=f'key = "{folder}/anna"\n', server=f'key = "{folder}/keys"\nmetrics = "127.0.0.1:9140"\n')
    other = lab.start("bert", [binary(), "-client", "-in=127.0.0.1:9490", "-out=10.213.2.2:40300", f"-key={folder}/bert", "-control=none"],
                      host=lab.client)
    other.wait_for_port(9490)

    def metrics():
        with lab.server.connect(("127.0.0.1", 9140)) as end:
            end.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            page = b""
            while part := end.recv(1 << 16):
                page += part
        lines = [line for line in page.decode().splitlines() if line and not line.startswith("#") and " " in line]
        return dict(line.rsplit(" ", 1) for line in lines)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        pairs = [call(lab, Route(9500 + number), switchboard) for number in range(3)]
        for _ in range(4):
            exchange(*pairs[1], count=1000)
        pairs[2][0].close()
        # Eight bytes name each connection.
        wanted = {'tele_mapping_sent_bytes_total{mapping="m1"}': 4008, 'tele_mapping_received_bytes_total{mapping="m1"}': 4000,
                  'tele_mapping_open{mapping="m1"}': 1, 'tele_mapping_opened_total{mapping="m2"}': 1, 'tele_client_open{client="anna"}': 1,
                  'tele_client_sent_bytes_total{client="anna"}': 4024, 'tele_client_open{client="bert"}': 1,
                  'tele_client_sent_bytes_total{client="bert"}': 0}

        def differences():
            page = metrics()
            return {name: page.get(name) for name, value in wanted.items() if page.get(name) != str(value)}
        if not context.until(5, lambda: not differences()):
            raise Failure(f"metrics: {differences()}")
        # More names than are told apart.
        more = [call(lab, Route(9500 + number), switchboard) for number in range(3, count)]
        page = metrics()
        names = [name for name in page if name.startswith("tele_mapping_open{")]
        total = sum(int(page[name]) for name in names)
        if len(names) != 101 or total != count:
            raise Failure(f"{len(names)} names, {total} connections of {count}")
        other.kill()
        if not context.until(5, lambda: metrics().get('tele_client_sent_bytes_total{client="anna"}') == str(4024 + 8 * len(more))):
            raise Failure("what is far down is not counted")
        context.sleep(3)
        idle = path.status("client")["sessions"][0]["roundTripSeconds"]
        if idle > 0.003:
            raise Failure(f"an idle path of 0.1 ms is shown as {idle * 1000:.1f} ms")
    return f"each mapping and client by its name, 100 and the others; idle round trip {idle * 1000:.2f} ms"


def outage_of_the_silent(context):
    """Only the server has something to say while the path is silent, and it is over before the client asks: its status has the outage too."""
    lab = context.lab()
    control = f"{lab.directory}/client.sock"
    path = context.path(lab, ORIGIN_PORT, client_flags=[f"-control={control}"])
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, path, switchboard)
        exchange(user, origin)
        # Until PINGs are far apart.
        context.sleep(9)
        for turn in range(2):
            lab.forward("drop")
            origin.sendall(b"x" * 100)
            context.sleep(4)
            lab.forward()
            user.settimeout(10)
            user.recv(100)
            if not context.until(5, lambda: len(status_of(control)["outages"]) == turn + 1):
                raise Failure(f"outages of the client: {status_of(control)['outages']}; {path.client.errors[-300:]}")
            length = status_of(control)["outages"][-1]["lengthSeconds"]
            if not 2 < length < 6:
                raise Failure(f"an outage of 4 s is shown as {length:.1f} s")
            context.sleep(6)
    return f"shown as {length:.1f} s"


def check(context):
    """`tele check` finds listeners that collide, an origin that is tele itself, and, as root, accepts the key of the unit's user."""
    lab = context.lab()
    folder = lab.directory

    def judge(text, status, *words):
        with open(f"{folder}/checked.toml", "w", encoding="utf-8") as file:
            file.write(text)
        run = subprocess.run([binary(), "check", f"-config={folder}/checked.toml"], capture_output=True, text=True, timeout=10)
        if run.returncode != status or any(word not in run.stdout + run.stderr for word in words):
            raise Failure(f"{text!r} ended with {run.returncode}: {run.stdout}{run.stderr}")
    client = '[client]\nout = "host:40300"\n'
    judge(f'{client}[client.listen]\na = ":80"\nb = "127.0.0.1:80"\n', 78, "both listen at")
    judge(f'{client}[client.listen]\na = "localhost:80"\nb = "[::1]:80"\n', 78, "both listen at")
    judge(f'{client}metrics = "127.0.0.1:80"\n[client.listen]\na = "0.0.0.0:80"\n', 78, "both listen at")
    judge(f'{client}[client.listen]\na = "127.0.0.1:80"\nb = "127.0.0.2:80"\nc = "[::1]:80"\n', 0, "is fine")
    judge('[server]\nin = ":40300"\nout = ":40300"\n', 78, "where this tele server itself listens")
    judge('[server]\nin = "db9:40300"\nout = ":40300"\n', 0, "is fine")
    judge('[client]\nout = "host:40300"\nhold = "1h"\n', 78, "hold is a flag of the server")
    subprocess.run([binary(), "keygen", f"-out={folder}/key"], check=True, capture_output=True)
    os.chown(f"{folder}/key", NOBODY, NOBODY)
    judge(f'{client}key = "{folder}/key"\n', 0, "is fine")
    os.chmod(f"{folder}/key", 0o644)
    judge(f'{client}key = "{folder}/key"\n', 78, "accessible to others", f"owner {NOBODY}")
    return f"collisions, loops and keys of {pwd.getpwuid(NOBODY).pw_name}"


def cases():
    return [
        Case("machine.unix-listeners", unix_listeners, only_tele=True, only_plain=True),
        Case("machine.without-runtime-folder", without_runtime_folder, only_tele=True, only_plain=True),
        Case("machine.many-mappings", many_mappings, only_tele=True, weight=2),
        Case("machine.small-container", small_container, only_tele=True, only_plain=True),
        Case("machine.outage-of-the-silent", outage_of_the_silent, only_tele=True),
        Case("machine.metrics-by-name", metrics_by_name, only_tele=True, only_plain=True),
        Case("machine.check", check, only_tele=True, only_plain=True),
    ]
