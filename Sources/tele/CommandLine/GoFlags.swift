/// Reads a command line by the conventions of Go's flag package, which goteleport used, and brings it into
/// the one spelling `--name=value` that leaves ArgumentParser nothing to guess.
///
/// `-name` and `--name` are the same flag; a value follows after `=` or as the next word; a toggle takes a
/// value only after `=`; flags come in any order; of a flag given twice the last one counts.
struct GoFlags {
    private let flags: [GoFlag]
    /// Where to look when there is nothing better to say.
    private let help: String

    /// How many words that are no flags may come, in any place.
    private let wordsMaximum: Int

    init(_ flags: [GoFlag], listedBy command: String, words: Int = 0) {
        self.flags = flags
        wordsMaximum = words
        help = "run \"\(command)\" for the list of flags"
    }

    func normalised(_ arguments: [String]) throws(CommandError) -> [String] { try read(arguments).flags }

    func read(_ arguments: [String]) throws(CommandError) -> (flags: [String], words: [String]) {
        var result: [String] = []
        var words: [String] = []
        var rest = arguments[...]
        while let word = rest.popFirst() {
            guard let (name, attached) = split(word) else {
                guard words.count < wordsMaximum else { throw unexpected(word) }
                words.append(word)
                continue
            }
            guard let flag = flags.first(where: { $0.name == name }) else {
                throw unknown(spelled: word, name)
            }
            result.removeAll { $0 == "--\(name)" || $0.hasPrefix("--\(name)=") }
            switch flag.kind {
            case .toggle:
                if let attached, try !truth(of: attached, name) { break }
                result.append(name == "h" ? "--help" : "--\(name)")
            case .value(let example):
                let value = if let attached { attached } else { next(&rest) }
                guard !value.isEmpty else {
                    throw CommandError("-\(name) needs a value", hint: "write it as -\(name)=\(example)")
                }
                result.append("--\(name)=\(value)")
            }
        }
        return (result, words)
    }

    /// `-name=value` as its name and its value; nil for a word that is not a flag.
    private func split(_ word: String) -> (name: String, attached: String?)? {
        guard word.hasPrefix("-") else { return nil }
        let body = word.dropFirst(word.hasPrefix("--") ? 2 : 1)
        guard let first = body.first, first != "-", first != "=" else { return nil }
        guard let equals = body.firstIndex(of: "=") else { return (String(body), nil) }
        return (String(body[..<equals]), String(body[body.index(after: equals)...]))
    }

    private func truth(of value: String, _ name: String) throws(CommandError) -> Bool {
        switch value.lowercased() {
        case "true", "t", "1": return true
        case "false", "f", "0": return false
        default:
            throw CommandError(
                "-\(name) is true or false, not \(quoted(value))",
                hint: "write -\(name) or -\(name)=false")
        }
    }

    /// The value in the next word. A word with a dash is the next flag, so the value was forgotten.
    private func next(_ rest: inout ArraySlice<String>) -> String {
        guard let word = rest.first, !word.hasPrefix("-") else { return "" }
        rest.removeFirst()
        return word
    }

    /// Words of other programs for what tele calls otherwise.
    private static let otherWords = [
        "stop": "did you mean \"tele drain\"?", "quit": "did you mean \"tele drain\"?", "kill": "did you mean \"tele drain -now\"?",
        "version": "did you mean \"tele -version\"?", "reload": "\"systemctl reload\" or \"kill -HUP PID\" reloads the configuration",
        "start": "\"tele -client\", \"tele -server\" or \"tele -config=FILE\" starts a process",
        "run": "\"tele -client\", \"tele -server\" or \"tele -config=FILE\" starts a process",
        "genkey": "did you mean \"tele keygen\"?", "metrics": "\"tele help metrics\" explains -metrics", "proxy": "did you mean \"-proxy=URL\"?",
    ]

    private func unexpected(_ word: String) -> CommandError {
        let written = flags.first { word == $0.name || word.hasPrefix("\($0.name)=") }
        if written != nil {
            return CommandError(
                "unexpected argument \(quoted(word))", hint: "flags begin with a dash: -\(word)")
        }
        if ["true", "false"].contains(word) {
            return CommandError(
                "unexpected argument \(quoted(word))",
                hint: "a flag without a value of its own takes it after =, as in -server=\(word)")
        }
        if let other = GoFlags.otherWords[word.lowercased()] {
            return CommandError("there is no command \(quoted(word))", hint: other)
        }
        if let near = Spelling.nearest(to: word, among: Completions.topics + ["help"]) {
            return CommandError("there is no command \(quoted(word))", hint: "did you mean \"tele \(near)\"?")
        }
        return CommandError(
            "unexpected argument \(quoted(word))", hint: help)
    }

    private func unknown(spelled word: String, _ name: String) -> CommandError {
        let near = Spelling.nearest(to: name, among: flags.map(\.name).filter { $0 != "h" })
        return CommandError(
            "there is no flag \(visible("-\(name)"))",
            hint: near.map { "did you mean -\($0)?" } ?? help)
    }
}

/// Text that came from outside, in quotes and without characters that could drive a terminal.
func quoted(_ text: String) -> String { "\"\(visible(text))\"" }

/// The first characters of a text, control characters as `?`.
func visible(_ text: String, limit: Int = 80) -> String {
    let shown = text.unicodeScalars.prefix(limit).map { Escape.unprintable($0) ? "?" : String($0) }
    return shown.joined() + (text.unicodeScalars.count > limit ? "…" : "")
}
