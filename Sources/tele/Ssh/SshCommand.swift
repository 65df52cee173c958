import Glibc
import Relay

/// `tele ssh`: what ssh does with the same words, through a tele server on the host.
///
/// It becomes ssh itself, with the user's words untouched and a ProxyCommand of ours (`SshProxy`): so everything that ssh can do works as
/// it does. The ProxyCommand has a server found or started on the host, over a connection of its own, and carries the bytes.
///
///     tele ssh WORDS ─becomes─▶ ssh -o ProxyCommand=… WORDS ─starts─▶ tele ssh-proxy ─starts─▶ ssh … sh ─▶ tele ssh-host ─▶ tele -server
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
        if words.copies { try SshHost.copy(own, words) }
        guard let program = quotedForProxyCommand(own) else {
            throw CommandError.ssh("this program stands in a folder whose name has a line break", hint: "move it")
        }
        // Not in the ProxyCommand: a shell reads that, and a host may be called anything (CVE-2023-51385).
        let told = [route.address, "\(route.port)", "\(words.port)", words.host!] + SshWords.spelled(words.ofConnection)
        setenv(SshProxy.variable, SshWords.packed(told), 1)
        let options = [
            "-o", "ProxyCommand=\(program) ssh-proxy", "-o", "ProxyUseFdpass=no",
            // An outage is what tele is for: ssh must not end a session for it, nor while the server is being set up.
            "-o", "ServerAliveInterval=0", "-o", "ConnectTimeout=86400",
        ]
        return try SshProcess.become(["ssh"] + control + options + words.all)
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

    /// Where ssh would go with these words, asked before anything begins; and its status, when it does not take them.
    private func askSsh() throws -> (status: Int32, route: (address: String, port: UInt16)) {
        let (status, answer) = try SshProcess.run(["ssh", "-G"] + words.all, input: "")
        var route = (address: words.host ?? "", port: UInt16(22))
        for line in answer.split(separator: "\n") {
            let parts = line.split(separator: " ", maxSplits: 1).map(String.init)
            guard parts.count == 2 else { continue }
            switch parts[0] {
            case "hostname": route.address = parts[1]
            case "port": route.port = UInt16(parts[1]) ?? 22
            case "proxycommand" where parts[1] != "none", "proxyjump" where parts[1] != "none":
                throw CommandError.ssh(
                    "ssh reaches \(visible(words.host ?? "")) by another host (\(parts[0]) \(visible(parts[1])))",
                    hint: "tele needs a way of its own: run a server there and use \"tele connect\"")
            default: break
            }
        }
        return (status, route)
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
