/// Where ssh goes, as its configuration says (`ssh -G`).
struct SshRoute {
    let host: String
    let port: UInt16

    init(_ words: SshWords) throws {
        let (status, output) = try SshProcess.run(["ssh", "-G"] + words.options + [words.host], input: "")
        guard status == 0 else {
            throw SshCommand.Trouble("ssh does not take these words (status \(status))", hint: "does \"ssh \(visible(words.host))\" work?")
        }
        try self.init(answer: output, host: words.host)
    }

    /// `answer`: a line for each setting, its name in lower case first.
    init(answer: String, host: String) throws {
        var settings: [String: String] = [:]
        for line in answer.split(separator: "\n") {
            let parts = line.split(separator: " ", maxSplits: 1).map(String.init)
            if parts.count == 2 { settings[parts[0]] = settings[parts[0]] ?? parts[1] }
        }
        for name in ["proxycommand", "proxyjump"] where !["none", nil].contains(settings[name]) {
            throw SshCommand.Trouble("ssh reaches \(visible(host)) by another host (\(name) \(visible(settings[name] ?? "")))",
                                     hint: "tele needs a way of its own: run a server there and use \"tele connect\"")
        }
        self.host = settings["hostname"] ?? host
        port = settings["port"].flatMap { UInt16($0) } ?? 22
    }

    func address(_ port: UInt16) -> String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}
