"""Who is kept out, and what a stranger on the path can do: keys, certificates, changed and overheard bytes."""

import os
import signal
import subprocess
import time

import path as paths
from ends import Switchboard, call, exchange, observe
from lab import SERVER_ADDRESS
from path import CARRIER_PORT, binary, make_authority, make_certificate, quietly, secrets
from process import Failure
from runner import Case, Skip

from cases.promises import MIDDLEBOX_PORT, Middlebox

ORIGIN_PORT = 7980


def files(context):
    """A folder of this case with the run's key and certificates, and some that must not open."""
    folder = context.lab_folder
    for name in ("key", "ca.pem", "ca.key", "server.pem", "server.key", "client.pem", "client.key"):
        quietly(["cp", "-p", f"{secrets()}/{name}", folder])
    quietly([binary(), "keygen", f"-out={folder}/other", "-name=suite"])
    quietly([binary(), "keygen", f"-out={folder}/stranger", "-name=stranger"])
    make_authority(folder, "elsewhere")
    make_certificate(folder, "foreign", "elsewhere", f"DNS:foreign,IP:{SERVER_ADDRESS}")
    make_certificate(folder, "expired", "ca", f"DNS:expired,IP:{SERVER_ADDRESS}", days="-1")
    make_certificate(folder, "elsewhere-name", "ca", "DNS:elsewhere.test")
    return folder


def certificates(folder, name):
    return [f"-cert={folder}/{name}.pem", f"-cert-key={folder}/{name}.key", f"-ca={folder}/ca.pem"]


def prepared(context):
    if paths.SECURITY != "none":
        raise Skip("this case brings keys of its own")
    lab = context.lab()
    context.lab_folder = lab.directory
    return lab, files(context)


def refused_without(context, lab, server_flags, client_flags, words):
    """The client must not get through, and says why; the server tells strangers nothing."""
    path = context.path(lab, ORIGIN_PORT, server_flags=server_flags, client_flags=client_flags)
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        name = switchboard.name()
        user = lab.client.connect(path.address)
        user.sendall(name.to_bytes(8, "big"))
        try:
            switchboard.accepted(name, 0.7)
        except Failure:
            pass
        else:
            raise Failure(f"a client with {client_flags} got through to a server with {server_flags}")
        user.close()
    said = path.client.errors
    if not any(word in said for word in words):
        raise Failure(f"the client with {client_flags} said none of {words}: {said.strip().splitlines()[-1][:200]}")
    if "carrier up" in said:
        raise Failure(f"a client with {client_flags} has a carrier")
    path.client.kill()
    path.server.kill()
    context.paths.remove(path)
    # io_uring is torn down after a killed process is gone: its listener is not the next one's.
    if not context.until(5, lambda: not listens(lab.client, path.address[1]) and not listens(lab.server, CARRIER_PORT)):
        raise Failure("a killed process still listens")


def listens(host, port):
    words = ["ip", "netns", "exec", host.name, "ss", "-Hltn", f"sport = :{port}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip() != ""


def wrong_keys(context):
    lab, folder = prepared(context)
    key = [f"-key={folder}/key"]
    pairs = [
        (key, [f"-key={folder}/other"], ["does not accept this key"]),
        (key, [f"-key={folder}/stranger"], ["does not accept this key"]),
        (key, [], ["does the server want a key", "the server wants a key"]),
        ([], key, ["is the server run with -key"]),
        (certificates(folder, "server"), key, ["does not accept", "does not have the key", "certificate"]),
        (key, certificates(folder, "client"), ["does not accept"]),
    ]
    for server, client, words in pairs:
        refused_without(context, lab, server, client, words)
    return f"{len(pairs)} wrong pairs refused, each with a sentence"


def wrong_certificates(context):
    lab, folder = prepared(context)
    server = certificates(folder, "server")
    pairs = [
        (server, certificates(folder, "foreign"), ["does not accept", "certificate"]),
        (server, certificates(folder, "expired"), ["does not accept", "certificate"]),
        (server, [], ["does the server want a key", "the server wants a key"]),
        (certificates(folder, "foreign"), certificates(folder, "client"), ["certificate"]),
        (certificates(folder, "expired"), certificates(folder, "client"), ["certificate"]),
        (certificates(folder, "elsewhere-name"), certificates(folder, "client"), ["certificate"]),
        ([*server, "-allow=somebody"], certificates(folder, "client"), ["closed", "refused", "does not accept"]),
        (server, [*certificates(folder, "client"), "-allow=somebody"], ["-allow"]),
    ]
    for one, other, words in pairs:
        refused_without(context, lab, one, other, words)
    path = context.path(lab, ORIGIN_PORT, server_flags=[*server, "-allow=tele-client"],
                        client_flags=[*certificates(folder, "client"), "-allow=tele-server"])
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        exchange(*call(lab, path, switchboard))
    return f"{len(pairs)} wrong pairs refused; the right names get through"


def strangers_with_openssl(context):
    """What `openssl s_client` learns: nothing."""
    lab, folder = prepared(context)
    context.path(lab, ORIGIN_PORT, server_flags=[f"-key={folder}/key"])
    for extra in ([], ["-tls1_2"], ["-psk", "00" * 32, "-psk_identity", "suite"]):
        run = subprocess.run(["ip", "netns", "exec", lab.client.name, "openssl", "s_client", "-connect",
                              f"{SERVER_ADDRESS}:{CARRIER_PORT}", *extra], input="hello\n", capture_output=True,
                             text=True, timeout=10)
        if "BEGIN CERTIFICATE" in run.stdout or "Cipher is TLS" in run.stdout.replace("New, ", "") \
                or run.returncode == 0 and not extra:
            raise Failure(f"openssl s_client {' '.join(extra)} got somewhere: {run.stdout[:300]}")
    return "s_client with TLS 1.3, with 1.2 and with a guessed key: no handshake"


def removed_key(context):
    """SIGHUP after a line is taken out: that client's connections end, the other's go on; a bad file changes nothing."""
    lab, folder = prepared(context)
    both = f"{folder}/both"
    with open(both, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(open(f"{folder}/key", encoding="utf-8").read() + open(f"{folder}/stranger", encoding="utf-8").read())
    good = context.path(lab, ORIGIN_PORT, server_flags=[f"-key={both}"], client_flags=[f"-key={folder}/key"])
    other = context.path(lab, ORIGIN_PORT, start=False, client_flags=[f"-key={folder}/stranger"], user_port=17981)
    other.start_client()
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, good, switchboard)
        victim, victim_origin = call(lab, other, switchboard)
        exchange(victim, victim_origin)
        text = open(both, encoding="utf-8").read()
        with open(both, "w", encoding="utf-8") as file:
            file.write("nonsense\n")
        good.server.signal(signal.SIGHUP)
        context.sleep(0.3)
        exchange(victim, victim_origin)
        with open(both, "w", encoding="utf-8") as file:
            file.write(text.splitlines(keepends=True)[0])
        good.server.signal(signal.SIGHUP)
        for end, who in ((victim, "user"), (victim_origin, "origin")):
            _, seen = observe(end, time.monotonic() + 2)
            if seen != "reset":
                raise Failure(f"the {who} of a removed key saw “{seen}”")
        exchange(user, origin)
        if "configuration unchanged" not in good.server.errors:
            raise Failure("the bad file was not complained about")
        if open(f"{folder}/key", encoding="utf-8").read().split(":")[1].strip() in good.server.errors:
            raise Failure("the log holds a key")
    return "the removed key's connections were reset, the other's went on"


def renewed_certificates(context):
    """Files of certificates change, one after the other as tools write them: the next carrier uses the new ones, without a signal. When
    an authority is taken out, who is known by it only is let go; a certificate that expires soon is told of."""
    lab, folder = prepared(context)
    make_authority(folder, "second")
    with open(f"{folder}/both.pem", "w", encoding="utf-8") as file:
        file.write(open(f"{folder}/ca.pem", encoding="utf-8").read() + open(f"{folder}/second.pem", encoding="utf-8").read())
    server = [f"-cert={folder}/server.pem", f"-cert-key={folder}/server.key", f"-ca={folder}/both.pem"]
    client = [f"-cert={folder}/client.pem", f"-cert-key={folder}/client.key", f"-ca={folder}/both.pem"]
    control = f"{lab.directory}/client.sock"
    path = context.path(lab, ORIGIN_PORT, server_flags=server, client_flags=[*client, f"-control={control}"])
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, path, switchboard)
        exchange(user, origin)
        if "certificate expires soon" not in path.server.errors or not any(f"days={days}" in path.server.errors for days in (1, 2)):
            raise Failure("a certificate of two days is not told of")
        if not paths.status_of(control)["certificateExpiry"] - time.time() < 3 * 86400:
            raise Failure("status does not say when the certificate expires")
        # The server's certificate comes from the second authority now; for two seconds the key does not fit it.
        make_certificate(folder, "renewed", "second", f"DNS:tele-server.test,IP:{SERVER_ADDRESS}")
        os.rename(f"{folder}/renewed.pem", f"{folder}/server.pem")
        context.sleep(2)
        os.rename(f"{folder}/renewed.key", f"{folder}/server.key")
        if not context.until(10, lambda: "certificates reloaded" in path.server.errors):
            raise Failure("renewed files are not read")
        if "reload failed" in path.server.errors:
            raise Failure("files that were half renewed are complained about")
        exchange(user, origin)
        # The first authority is taken out on the client, which the server does not need any more.
        os.rename(f"{folder}/both.pem", f"{folder}/old.pem")
        quietly(["cp", f"{folder}/second.pem", f"{folder}/both.pem"])
        # Both read it: the server lets the client go, whose certificate the first authority signed.
        if not context.until(10, lambda: "session ended" in path.server.errors):
            raise Failure("a client whose authority is gone keeps its session")
        _, seen = observe(origin, time.monotonic() + 3)
        if seen != "reset":
            raise Failure(f"its origin saw “{seen}”")
        # It gets a certificate that is trusted, and is served.
        make_certificate(folder, "fresh", "second", "DNS:tele-client")
        os.rename(f"{folder}/fresh.key", f"{folder}/client.key")
        os.rename(f"{folder}/fresh.pem", f"{folder}/client.pem")
        exchange(*call(lab, path, switchboard, 15))
    # A passphrase: nobody is there to be asked.
    quietly(["openssl", "pkey", "-in", f"{folder}/server.key", "-aes128", "-passout", "pass:secret", "-out", f"{folder}/locked.key"])
    run = subprocess.run([binary(), "-server", "-in=127.0.0.1:1", "-out=127.0.0.1:0", f"-cert={folder}/server.pem",
                          f"-cert-key={folder}/locked.key", f"-ca={folder}/both.pem"], capture_output=True, text=True, timeout=5)
    if run.returncode != 78 or "it is encrypted" not in run.stderr:
        raise Failure(f"an encrypted key ended with {run.returncode}: {run.stderr}")
    return "renewed by themselves, one after the other; an authority taken out ends who depends on it"


def bad_files(context):
    """Files that are no key files, or that others may read: refused before anything listens."""
    lab, folder = prepared(context)
    for name, text, mode in (("empty", "", 0o600), ("short", "a:1234\n", 0o600), ("loose", open(f"{folder}/key").read(), 0o660),
                             ("nameless", ":" + "0" * 64 + "\n", 0o600), ("world", open(f"{folder}/key").read(), 0o604)):
        with open(f"{folder}/{name}", "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(f"{folder}/{name}", mode)
    os.symlink("/dev/zero", f"{folder}/endless")
    lines = [[f"-key={folder}/{name}"] for name in ("empty", "short", "loose", "world", "nameless", "endless", "absent")]
    lines += [["-require-key"], certificates(folder, "absent"), [f"-cert={folder}/server.pem", f"-cert-key={folder}/client.key",
                                                                 f"-ca={folder}/ca.pem"]]
    for flags in lines:
        run = subprocess.run([binary(), "-client", "-in=127.0.0.1:0", "-out=127.0.0.1:1", *flags], capture_output=True,
                             text=True, timeout=5)
        heads = [line.split(": ", 2)[:2] for line in run.stderr.strip().splitlines()]
        if run.returncode != 78 or heads != [["tele", "error"], ["tele", "hint"]]:
            raise Failure(f"{flags} ended with {run.returncode}: {run.stderr[:300]}")
    environment = {**os.environ, "TELE_REQUIRE_KEY": "1"}
    run = subprocess.run([binary(), "-client", "-in=127.0.0.1:0", "-out=127.0.0.1:1"], capture_output=True, timeout=5,
                         env=environment)
    if run.returncode != 78:
        raise Failure(f"TELE_REQUIRE_KEY=1 without a key ended with {run.returncode}")
    return f"{len(lines) + 1} refused"


def changed_bytes(context):
    """One bit of the carrier changed, again and again: no wrong byte arrives, and the connection goes on."""
    lab, folder = prepared(context)
    box = Middlebox(lab)
    path = context.path(lab, ORIGIN_PORT, start=False, server_flags=[f"-key={folder}/key"], client_flags=[f"-key={folder}/key"])
    path.start_server()
    path.carrier_host, path.carrier_port = "127.0.0.1", MIDDLEBOX_PORT
    path.start_client()
    count = 1000 if context.options.long else 150
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, path, switchboard)
        for number in range(count):
            box.tell(f"flip {'up' if number % 2 else 'down'} {number * 7 if number < 500 else context.random.randrange(200_000)}")
            exchange(user, origin, count=context.random.choice((20, 3000, 90_000)))
        path.check_alive()
    epochs = path.client.errors.count("session resumed")
    if epochs < count / 10:
        raise Failure(f"only {epochs} of {count} changes were noticed")
    return f"{count} bits changed, {epochs} times a new carrier, every byte right"


def overheard_bytes(context):
    """What passes between the two processes holds neither payload nor key nor secret."""
    lab, folder = prepared(context)
    box = Middlebox(lab)
    box.tell(f"record {lab.directory}/heard")
    path = context.path(lab, ORIGIN_PORT, start=False, server_flags=[f"-key={folder}/key"], client_flags=[f"-key={folder}/key"])
    path.start_server()
    path.carrier_host, path.carrier_port = "127.0.0.1", MIDDLEBOX_PORT
    path.start_client()
    with Switchboard(lab, ORIGIN_PORT) as switchboard:
        user, origin = call(lab, path, switchboard)
        for end, other in ((user, origin), (origin, user)):
            end.sendall(b"attack at dawn " * 4000)
            received = b""
            while len(received) < 60_000:
                received += other.recv(65536)
    context.sleep(0.2)
    with open(f"{lab.directory}/heard", "rb") as file:
        heard = file.read()
    key = bytes.fromhex(open(f"{folder}/key", encoding="utf-8").read().split(":")[1].strip())
    for secret in (b"attack", b"dawn", key, key.hex().encode(), b"TELE\x01"):
        if secret in heard:
            raise Failure(f"{secret[:12]!r} was heard")
    if len(heard) < 120_000:
        raise Failure("nothing was heard at all")
    return f"{len(heard)} bytes overheard, nothing in them"


def cases():
    for story in (wrong_keys, wrong_certificates, strangers_with_openssl, removed_key, renewed_certificates, bad_files, changed_bytes,
                  overheard_bytes):
        yield Case(f"keys.{story.__name__.replace('_', '-')}", story, only_tele=True,
                   drivers="either" if story in (changed_bytes, wrong_keys) else "one")
