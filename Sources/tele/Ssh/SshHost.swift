import Glibc
import Relay

/// The far side of `tele ssh`, as seen from here: a shell that finds tele there, and what `tele ssh-host` answers.
enum SshHost {
    /// Nothing of the user's configuration that is meant for the session reaches a connection of our own; the first value counts.
    private static let overrides = [
        "ControlMaster=no", "ControlPath=none", "RemoteCommand=none", "RequestTTY=no", "ForkAfterAuthentication=no", "StdinNull=no",
        "SessionType=default", "ClearAllForwardings=yes", "PermitLocalCommand=no", "Tunnel=no", "ForwardX11=no", "ForwardAgent=no",
        "ExitOnForwardFailure=no", "EscapeChar=none",
    ].flatMap { ["-o", $0] }

    private static func ssh(_ options: [String], _ host: String, _ command: String) -> [String] {
        ["ssh"] + overrides + options + ["--", host, command]
    }

    /// For /bin/sh, on its stdin: the login shell sees two words of it, and no process list shows the key. Looks in the usual places,
    /// because PATH is whatever sshd says. `mark`: what our lines begin with; others may print before them, also without a newline.
    private static func script(_ mark: String, _ sshPort: UInt16, _ wanted: UInt16, _ key: SshKey) -> String {
        """
        umask 077
        t=
        for c in "$(command -v tele 2> /dev/null)" "$HOME/.local/bin/tele" "$HOME/bin/tele" /usr/local/bin/tele /usr/bin/tele; do
        if [ -f "$c" ] && [ -x "$c" ]; then t=$c; break; fi
        done
        if [ -z "$t" ]; then
        PATH=$PATH:/usr/bin:/bin
        echo
        echo "\(mark) missing $(uname -sm)"
        exit 0
        fi
        exec "$t" ssh-host \(mark) \(sshPort) \(wanted) << '\(mark)'
        \(key.line)
        \(mark)

        """
    }

    /// The port of this user's server on the host, which runs afterwards.
    static func serverPort(_ host: String, _ options: [String], sshPort: UInt16, wanted: UInt16, key: SshKey) throws -> UInt16 {
        let mark = "tele-ssh-" + String(UInt64.random(in: .min ... .max), radix: 36)
        let (status, output) = try SshProcess.run(ssh(options, host, "exec /bin/sh"), input: script(mark, sshPort, wanted, key))
        let line = output.firstRange(of: mark + " ").map { output[$0.upperBound...].prefix { $0 != "\n" } }
        let said = line.map { $0.split(separator: " ", maxSplits: 1).map(String.init) } ?? []
        switch said.first {
        case "port":
            if said.count == 2, let port = UInt16(said[1]), port > 0 { return port }
        case "missing":
            throw CommandError.ssh(
                "tele is not installed on \(visible(host)) (\(visible(said.last ?? "")))",
                hint: "\"tele ssh -copy \(visible(host))\" copies this one to ~/.local/bin there")
        case "trouble":
            throw CommandError.ssh(
                "cannot start a tele server on \(visible(host)): \(visible(said.last ?? "", limit: 300))",
                hint: "\"ssh \(visible(host))\" still works")
        default: break
        }
        if status == ExitStatus.usage.rawValue {
            throw CommandError.ssh(
                "the tele on \(visible(host)) is older than this one",
                hint: "\"tele ssh -copy \(visible(host))\" copies this one to ~/.local/bin there")
        }
        throw CommandError.ssh(
            status == 255 ? "ssh cannot reach \(visible(host))" : "the shell on \(visible(host)) does not do what it is told (status \(status))",
            hint: status == 255 ? "its own words stand above; does \"ssh \(visible(host))\" work?" : "does \"ssh \(visible(host)) exec /bin/sh\" work?")
    }

    /// This very program; it is tried there before it takes its place.
    static func copy(_ own: String, _ words: SshWords) throws {
        // On one line, and with nothing that a csh reads otherwise.
        let there =
            "umask 022; d=$HOME/.local/bin; mkdir -p $d && cat > $d/.tele-new && chmod 755 $d/.tele-new "
            + "&& $d/.tele-new -version > /dev/null && mv $d/.tele-new $d/tele"
        let host = words.host ?? ""
        let (status, _) = try SshProcess.run(ssh(SshWords.spelled(words.ofConnection), host, "exec /bin/sh -c '\(there)'"), inputFile: own)
        guard status == 0 else {
            throw CommandError.ssh(
                "cannot install tele on \(visible(host)): the copy does not fit or does not run there",
                hint: "it must be for that machine, and static: Packaging/build makes one")
        }
    }
}
