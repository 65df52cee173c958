import Glibc
import Relay

/// `tele ssh`: what ssh does with the same words, through a tele server on the host.
///
/// It becomes ssh itself, with the user's words untouched and a ProxyCommand of ours (`SshProxy`): so everything that ssh can do works as
/// it does. The ProxyCommand has a server found or started on the host, over a connection of its own, and carries the bytes.
///
///     tele ssh WORDS ─becomes─▶ ssh -o ProxyCommand=… WORDS ─starts─▶ tele ssh-proxy ─starts─▶ ssh … sh ─▶ tele ssh-host ─▶ tele -server
///
/// A host behind another one (ProxyJump, or a ProxyCommand that is ssh) is reached by a `tele ssh -W` to that one: the tele server is on the
/// first host of the way, and what lies behind it does not fail when the network here does.
struct SshCommand {
    private let words: SshWords

    init(_ arguments: [String]) throws(CommandError) { words = try SshWords(arguments) }

    func run() throws -> ExitStatus {
        if words.wantsHelp || words.options.isEmpty && words.host == nil { return try StandardStreams.print(Help.ssh) }
        guard words.connects else {
            let talksToMaster = words.options.contains { $0.letter == "O" }
            return try SshProcess.become(["ssh"] + (talksToMaster ? control : []) + words.all)
        }
        guard let own = SshCommand.ownPath else { throw CommandError.ssh("cannot find this program's own file", hint: "is /proc mounted?") }
        let (status, route) = try askSsh()
        guard status == 0 else { return .ssh }
        guard let program = quotedForProxyCommand(own) else {
            throw CommandError.ssh("this program stands in a folder whose name has a line break", hint: "move it")
        }
        if let way = route.way {
            try countHop()
            if isatty(STDERR_FILENO) == 1 {
                let note = "tele: \(visible(words.host ?? "")) is reached through \(visible(way.host)), where the tele server runs\n"
                try? StandardStreams.write(Array(note.utf8), to: STDERR_FILENO)
            }
            return try becomeSsh(proxyCommand: "\(program) ssh \(way.words)")
        }
        if words.copies { try SshHost.copy(own, words) }
        // Not in the ProxyCommand: a shell reads that, and a host may be called anything (CVE-2023-51385).
        let told = [route.address, "\(route.port)", "\(words.port)", words.host!] + SshWords.spelled(words.ofConnection)
        setenv(SshProxy.variable, SshWords.packed(told), 1)
        return try becomeSsh(proxyCommand: "\(program) ssh-proxy")
    }

    /// Two hosts that are each other's jump host: each would start the next, without end.
    private func countHop() throws(CommandError) {
        let count = getenv(SshCommand.hops).flatMap { Int(String(cString: $0)) } ?? 0
        guard (0..<SshCommand.hopsMaximum).contains(count) else {
            throw CommandError.ssh("the way to \(visible(words.host ?? "")) leads in a circle of jump hosts", hint: "set ProxyJump none for the first of them")
        }
        setenv(SshCommand.hops, "\(count + 1)", 1)
    }

    private static let hops = "TELE_SSH_HOPS"
    private static let hopsMaximum = 16

    private func becomeSsh(proxyCommand: String) throws -> ExitStatus {
        let options = [
            "-o", "ProxyCommand=\(proxyCommand)", "-o", "ProxyUseFdpass=no",
            // An outage is what tele is for: ssh must not end a session for it, nor while the server is being set up.
            "-o", "ServerAliveInterval=0", "-o", "ConnectTimeout=86400",
        ]
        return try SshProcess.become(["ssh"] + control + options + words.allBesidesProxyCommand)
    }

    /// Masters that go through tele have paths of their own: a session of ours never uses another's connection.
    private var control: [String] {
        let place = SshKey.variable("XDG_RUNTIME_DIR").map { "\($0)/tele" } ?? SshKey.folder ?? ""
        // With ssh's own ending a socket's path may be so long; and ssh reads blanks and quotes in its own way.
        guard !place.isEmpty, place.utf8.count <= 40, !place.contains(where: { " \t\"'\\".contains($0) }) else {
            return ["-o", "ControlPath=none"]
        }
        mkdir(place, 0o700)
        return ["-o", "ControlPath=\(place.replacing("%", with: "%%"))/m-%C"]
    }

    private struct Route {
        var address: String
        var port: UInt16
        /// By another host, and how a `tele ssh` gets there. Nil: straight.
        var way: (host: String, words: String)?
    }

    /// Where ssh would go with these words, asked before anything begins; and its status, when it does not take them.
    private func askSsh() throws -> (status: Int32, route: Route) {
        let (status, answer) = try SshProcess.run(["ssh", "-G"] + words.all, input: "")
        var route = Route(address: words.host ?? "", port: 22)
        for line in answer.split(separator: "\n") {
            let parts = line.split(separator: " ", maxSplits: 1).map(String.init)
            guard parts.count == 2 else { continue }
            switch parts[0] {
            case "hostname": route.address = parts[1]
            case "port": route.port = UInt16(parts[1]) ?? 22
            case "proxyjump" where parts[1] != "none": route.way = try way(through: parts[1])
            case "proxycommand" where parts[1] != "none": route.way = try way(by: parts[1])
            default: break
            }
        }
        return (status, route)
    }

    /// What `tele ssh` is told besides, as text of a ProxyCommand.
    private var ownOptions: String { (words.copies ? "-copy " : "") + (words.port > 0 ? "-port=\(words.port) " : "") }

    /// `jumps`: HOST,HOST,…, the nearest first. As ssh does it: the last one is connected to by those before it, with the user's own file, and
    /// passes the bytes on.
    private func way(through jumps: String) throws(CommandError) -> (host: String, words: String) {
        let hosts = jumps.split(separator: ",").map(String.init)
        var told: [String] = []
        for option in words.options where option.letter == "F" || option.letter == "v" { told += SshWords.spelled([option]) }
        if hosts.count > 1 { told += ["-J", hosts.dropLast().joined(separator: ",")] }
        guard let last = hosts.last, let spelled = quoted(told), let host = quoted([last.hasPrefix("ssh://") ? last : "ssh://\(last)"]) else {
            throw CommandError.ssh("ProxyJump \(visible(jumps)) cannot be followed", hint: "\"ssh -J\" lists hosts, separated by commas")
        }
        return (hosts[0], "\(ownOptions)\(spelled)-W '[%h]:%p' -- \(host)")
    }

    /// One that is ssh becomes a `tele ssh`; what others do is unknown.
    private func way(by command: String) throws(CommandError) -> (host: String, words: String) {
        let program = command.prefix { $0 != " " }
        guard program == "ssh" || program.hasSuffix("/ssh"), command.contains(" -W") else {
            throw CommandError.ssh(
                "ssh reaches \(visible(words.host ?? "")) by a program (proxycommand \(visible(command)))",
                hint: "tele needs a way of its own: run a server there and use \"tele connect\"")
        }
        return (command.split(separator: " ").last.map(String.init) ?? "", ownOptions + command.dropFirst(program.count + 1))
    }

    /// Each with a blank behind it.
    private func quoted(_ words: [String]) -> String? {
        var text = ""
        for word in words {
            guard let quoted = quotedForProxyCommand(word) else { return nil }
            text += quoted + " "
        }
        return text
    }

    static var ownPath: String? {
        var bytes = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("/proc/self/exe", &bytes, bytes.count - 1)
        return count > 0 ? String(decoding: bytes[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self) : nil
    }
}

/// A word in a ProxyCommand: ssh expands `%`, and the user's shell, whichever it is, reads the rest. A backslash quotes in all of them.
/// Nil: it cannot be quoted.
func quotedForProxyCommand(_ word: String) -> String? {
    guard !word.utf8.contains(0x0a) else { return nil }
    let plain = Set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._+-".utf8)
    var quoted: [UInt8] = []
    for byte in word.utf8 {
        if byte == UInt8(ascii: "%") { quoted.append(byte) } else if byte < 0x80, !plain.contains(byte) { quoted.append(UInt8(ascii: "\\")) }
        quoted.append(byte)
    }
    return String(decoding: quoted, as: UTF8.self)
}
