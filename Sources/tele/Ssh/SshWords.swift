/// A command line of ssh(1), read as ssh reads it, with tele's own options among them.
///
/// Options stand before the host and behind it; the first word behind the host that is no option begins the command. Ours may stand
/// wherever ssh's may.
struct SshWords: Equatable {
    /// One of ssh's: a letter, and its value where it has one.
    struct Option: Equatable {
        let letter: Character
        let value: String?
    }

    private(set) var copies = false
    /// The port of the tele server there; 0: any.
    private(set) var port: UInt16 = 0
    private(set) var wantsHelp = false
    private(set) var options: [Option] = []
    /// As it was written: host, user@host or ssh://user@host:port.
    private(set) var host: String?
    private(set) var command: [String] = []

    /// Options of ssh(1) that take a value, attached or as the next word.
    private static let valued = Set("BbcDEeFIiJLlmOoPpQRSWw")
    /// With these ssh only says something, or talks to a master that is there: it connects to nothing.
    private static let connectsNowhere = Set("GOQV")

    init(_ words: [String]) throws(CommandError) {
        var rest = words[...]
        var areOptionsOver = false
        while let word = rest.first {
            if word == "--", !areOptionsOver {
                areOptionsOver = true
                rest.removeFirst()
            } else if !areOptionsOver, word.hasPrefix("-"), word != "-" {
                rest.removeFirst()
                if try !readOwn(word, &rest) { try readBundle(word, &rest) }
            } else if host == nil {
                // ssh would take it for an option (CVE-2017-1000117 and its kin).
                guard !word.hasPrefix("-") else { throw CommandError("a host cannot be called \(quoted(word))", hint: "write tele ssh HOST") }
                host = word
                rest.removeFirst()
                // Behind "--" the rest is the command.
                if areOptionsOver { break }
            } else {
                break
            }
        }
        command = Array(rest)
    }

    private mutating func readOwn(_ word: String, _ rest: inout ArraySlice<String>) throws(CommandError) -> Bool {
        let name = word.drop { $0 == "-" }
        if name == "copy" {
            copies = true
        } else if name == "help" {
            wantsHelp = true
        } else if name == "port" || name.hasPrefix("port=") {
            let text = name == "port" ? rest.popFirst() ?? "" : String(name.dropFirst(5))
            guard let number = UInt16(text), number > 0 else { throw CommandError("\(quoted(text)) is no port", hint: "write -port=40300") }
            port = number
        } else {
            return false
        }
        return true
    }

    /// In a bundle as -vvp22 the first letter with a value ends it.
    private mutating func readBundle(_ word: String, _ rest: inout ArraySlice<String>) throws(CommandError) {
        var letters = word.dropFirst()
        while let letter = letters.popFirst() {
            guard SshWords.valued.contains(letter) else {
                options.append(Option(letter: letter, value: nil))
                continue
            }
            guard let value = letters.isEmpty ? rest.popFirst() : String(letters) else {
                throw CommandError("ssh's option -\(letter) lacks its value", hint: "see man ssh")
            }
            options.append(Option(letter: letter, value: value))
            return
        }
    }

    /// ssh will make a connection.
    var connects: Bool { host != nil && !options.contains { SshWords.connectsNowhere.contains($0.letter) } }

    /// For ssh, less what is ours. Masters that go through tele have paths of their own.
    var all: [String] { spelled(options) }

    /// The same with a ProxyCommand of ours, beside which ssh takes no -J.
    var allBesidesProxyCommand: [String] { spelled(options.filter { $0.letter != "J" }) }

    private func spelled(_ options: [Option]) -> [String] {
        SshWords.spelled(
            options.map { option in
                guard option.letter == "S", let path = option.value, path != "none" else { return option }
                return Option(letter: "S", value: path + ".tele")
            }) + (host.map { ["--", $0] } ?? []) + command
    }

    /// Those that say how the host is reached and who asks, not what for: a connection of our own needs them too.
    var ofConnection: [Option] { options.filter { "46BbcFIiKklmoPpqvy".contains($0.letter) } }

    static func spelled(_ options: [Option]) -> [String] { options.flatMap { ["-\($0.letter)"] + ($0.value.map { [$0] } ?? []) } }

    // MARK: From one process to the next

    /// In one line of text, whatever the words hold: each with its length before it.
    static func packed(_ words: [String]) -> String { words.map { "\($0.utf8.count):\($0)" }.joined() }

    static func unpacked(_ text: String) -> [String]? {
        var words: [String] = []
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            guard let colon = rest.firstIndex(of: UInt8(ascii: ":")), let count = Int(String(decoding: rest[..<colon], as: UTF8.self)),
                count >= 0, count <= rest.endIndex - colon - 1
            else { return nil }
            words.append(String(decoding: rest[(colon + 1)..<(colon + 1 + count)], as: UTF8.self))
            rest = rest[(colon + 1 + count)...]
        }
        return words
    }
}
