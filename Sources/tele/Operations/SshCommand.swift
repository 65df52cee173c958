import Glibc
import Proxy

/// `tele ssh`: ssh through a tele server on the host. Asks ssh what it makes of the words (`ssh -G`), has a server started
/// there over a first ssh, and becomes the second one, whose ProxyCommand is `tele connect`.
struct SshCommand {
    private var copies = false
    private var port: UInt16 = 0
    private let words: SshWords
    private let wantsHelp: Bool

    init(_ arguments: [String]) throws(UsageFault) {
        var rest: [String] = []
        var wantsHelp = false
        // Ours stand before the host; everything else is ssh's.
        for (index, word) in arguments.enumerated() {
            let isAhead = index == rest.count + (copies ? 1 : 0) + (port > 0 ? 1 : 0) && rest.allSatisfy { $0.hasPrefix("-") }
            switch word {
            case "-copy", "--copy": if isAhead { copies = true } else { rest.append(word) }
            case "-help", "--help": if rest.isEmpty { wantsHelp = true } else { rest.append(word) }
            case _ where isAhead && (word.hasPrefix("-port=") || word.hasPrefix("--port=")):
                guard let number = UInt16(word.drop { $0 != "=" }.dropFirst()), number > 0 else {
                    throw UsageFault("\(visible(word)) is no port", hint: "write -port=40300")
                }
                port = number
            default: rest.append(word)
            }
        }
        self.wantsHelp = wantsHelp || rest.isEmpty
        words = try SshWords(rest, isComplete: !self.wantsHelp)
    }

    func run() throws -> ExitStatus {
        if wantsHelp { return try StandardStreams.print(Help.ssh) }
        let route = try SshRoute(words)
        guard let own = SshCommand.ownPath else { throw Trouble("cannot find this program's own file", hint: "is /proc mounted?") }
        if copies { try copy(own) }
        let key = try SshKey(host: route.host)
        let port = try startServer(route, key)
        // ssh puts "exec" before it.
        let connect = [quotedForShell(own), "connect", "-out=\(route.address(port))", "-key=\(quotedForShell(key.path))", "-log-level=error"]
        return try SshProcess.become(["ssh", "-o", "ProxyCommand=\(connect.joined(separator: " "))"] + words.all)
    }

    struct Trouble: Error {
        let sentence: String
        let hint: String
        init(_ sentence: String, hint: String) {
            self.sentence = sentence
            self.hint = hint
        }
    }

    // MARK: The far side

    /// What the host's shell does: finds tele, adds the key, starts a server unless one runs, says its port. Its last line is
    /// for us.
    private func script(_ sshPort: UInt16) -> String {
        #"""
        umask 077
        read -r key || exit 1
        say() { echo "tele-ssh: $*"; exit 0; }
        for t in "$(command -v tele)" "$HOME/.local/bin/tele"; do [ -x "$t" ] && break; done
        [ -x "$t" ] || say missing "$(uname -sm)"
        d=${XDG_RUNTIME_DIR:-$HOME/.cache}/tele/ssh
        mkdir -p "$d" || say "trouble cannot make $d"
        touch "$d/keys"
        p=$(cat "$d/pid" 2> /dev/null)
        n=$(readlink "/proc/${p:-none}/exe" | sed 's| (deleted)$||; s|.*/||')
        a=$(cat "$d/address" 2> /dev/null)
        wanted=\#(port)
        [ "$wanted" = 0 ] || [ "${a##*:}" = "$wanted" ] || n=
        if [ "$n" = tele ] && [ -n "$a" ]; then
            grep -qxF "$key" "$d/keys" || { echo "$key" >> "$d/keys"; kill -HUP "$p"; }
            say port "${a##*:}"
        fi
        echo "$key" > "$d/keys"
        rm -f "$d/address"
        if [ "$wanted" != 0 ]; then echo ":$wanted" > "$d/wanted"; else echo ":0" > "$d/wanted"; fi
        setsid "$t" -server "-in=localhost:\#(sshPort)" "-out=$(cat "$d/wanted")" "-key=$d/keys" -idle-exit=1m             > "$d/address" 2> "$d/log" < /dev/null &
        echo $! > "$d/pid"
        i=0
        while [ $i -lt 50 ]; do
            grep -qs "listening for carriers" "$d/log" && { [ "$wanted" = 0 ] || echo ":$wanted" > "$d/address"; }
            [ -s "$d/address" ] && say port "$(sed 's/.*://' "$d/address")"
            kill -0 "$(cat "$d/pid")" 2> /dev/null || break
            sleep 0.1
            i=$((i + 1))
        done
        say trouble "$(grep 'error' "$d/log" | head -n 1)"
        """#
    }

    private func startServer(_ route: SshRoute, _ key: SshKey) throws -> UInt16 {
        let (status, output) = try SshProcess.run(["ssh", "-T"] + words.options + [words.host, "exec sh -c \(quotedForShell(script(route.port)))"],
                                                  input: key.line + "\n")
        guard status == 0, let last = output.split(separator: "\n").last(where: { $0.hasPrefix("tele-ssh: ") }) else {
            throw Trouble("ssh to \(visible(words.host)) ended with status \(status)", hint: "does \"ssh \(visible(words.host))\" work?")
        }
        let said = last.dropFirst(10).split(separator: " ", maxSplits: 1).map(String.init)
        switch said.first {
        case "port":
            guard let port = said.last.flatMap({ UInt16($0) }), port > 0 else { break }
            return port
        case "missing":
            throw Trouble("there is no tele on \(visible(words.host)) (\(visible(said.last ?? "")))",
                          hint: "\"tele ssh -copy \(visible(words.host))\" copies this one to ~/.local/bin there")
        default: break
        }
        throw Trouble("the tele server on \(visible(words.host)) does not start (\(visible(said.dropFirst().joined(separator: " "), limit: 200)))",
                      hint: "its log is there, in ~/.cache/tele/ssh/log or under $XDG_RUNTIME_DIR")
    }

    /// This very program; it is tried there before it takes its place.
    private func copy(_ own: String) throws {
        let there = #"umask 022; d=$HOME/.local/bin; mkdir -p "$d" && cat > "$d/.tele-new" && chmod 755 "$d/.tele-new" && "$d/.tele-new" -version > /dev/null && mv "$d/.tele-new" "$d/tele""#
        let (status, _) = try SshProcess.run(["ssh", "-T"] + words.options + [words.host, "exec sh -c \(quotedForShell(there))"], inputFile: own)
        guard status == 0 else {
            throw Trouble("the copy of this program does not run on \(visible(words.host))",
                          hint: "it must be for that machine, and static: Packaging/build makes one")
        }
    }

    private static var ownPath: String? {
        var bytes = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("/proc/self/exe", &bytes, bytes.count - 1)
        return count > 0 ? String(decoding: bytes[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self) : nil
    }
}

/// A word that a shell takes as it is.
func quotedForShell(_ word: String) -> String {
    "'" + word.split(separator: "'", omittingEmptySubsequences: false).joined(separator: #"'\''"#) + "'"
}
