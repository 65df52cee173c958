/// The words for ssh: its options, the host, and what comes behind.
struct SshWords: Equatable {
    let options: [String]
    let host: String
    let command: [String]

    var all: [String] { options + (host.isEmpty ? [] : [host]) + command }

    /// Options of ssh(1) that take a value, attached or as the next word.
    private static let valued = Set("BbcDEeFIiJLlmOopQRSWw")

    /// `isComplete`: there must be a host.
    init(_ words: [String], isComplete: Bool) throws(UsageFault) {
        var options: [String] = []
        var rest = words[...]
        while let word = rest.first, word.hasPrefix("-"), word != "-", word != "--" {
            options.append(word)
            rest = rest.dropFirst()
            // In a bundle as -vvp22 the first letter with a value ends it.
            guard let letter = word.dropFirst().firstIndex(where: { SshWords.valued.contains($0) }) else { continue }
            if word.index(after: letter) == word.endIndex {
                guard let value = rest.first else { throw UsageFault("ssh's option \(visible(word)) lacks its value", hint: "see man ssh") }
                options.append(value)
                rest = rest.dropFirst()
            }
        }
        if rest.first == "--" { rest = rest.dropFirst() }
        guard let host = rest.first ?? (isComplete ? nil : "") else {
            throw UsageFault("the host is missing", hint: "write tele ssh HOST")
        }
        // ssh would take it for an option (CVE-2017-1000117 and its kin).
        guard !host.hasPrefix("-") else { throw UsageFault("a host cannot be called \(quoted(host))", hint: "write tele ssh HOST") }
        self.options = options
        self.host = host
        command = Array(rest.dropFirst())
    }
}
