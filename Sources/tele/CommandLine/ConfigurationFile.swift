import CTOML
import Glibc
import Loop
import Relay

/// A configuration file: TOML with a section for the client or the server of this host, or for both. Its keys are the
/// flags without their dash; tables of mappings come on top.
struct ConfigurationFile {
    static let byteCountMaximum = 1 << 20

    let path: String
    /// What it says.
    let bytes: [UInt8]
    let section: String
    /// What the section says, as flags: `--name` or `--name=value`.
    private(set) var flags: [(name: String, spelled: String, line: Int)] = []
    /// `[client.listen]` or `[server.origins]`, and `[server.listen]` or `[client.origins]`.
    private var forward: MappingTable
    private var reverse: MappingTable
    /// Of the server's clients, by name.
    private(set) var clients: [String: ClientTable] = [:]

    var mappings: [Mapping] { forward.mappings }
    var reverseMappings: [Mapping] { reverse.mappings }

    /// `section`: which of the two is wanted; nil: the only one there is. `bytes`: what the file said; nil: it is read now.
    init(path: String, section wanted: String?, bytes: [UInt8]? = nil) throws(CommandError) {
        self.path = path
        if let bytes { self.bytes = bytes } else { self.bytes = try ConfigurationFile.text(path) }
        let entries = try TOMLEntry.read(self.bytes, path)
        for entry in entries where entry.keys.count == 1 {
            guard ["client", "server"].contains(entry.keys[0]) else {
                throw entry.fault(
                    path, "there is no section [\(visible(entry.keys[0]))]",
                    hint: ConfigurationFile.nearest(entry.keys[0], ["client", "server"])
                        ?? "the sections are [client] and [server]")
            }
            guard entry.kind == TOML_TABLE else { throw entry.fault(path, "\(entry.keys[0]) is a section", hint: "write [\(entry.keys[0])]") }
        }
        let present = ["client", "server"].filter { name in entries.contains { $0.keys[0] == name } }
        switch (wanted, present.count) {
        case (let wanted?, _) where !present.contains(wanted):
            throw CommandError.configuration("\(path) has no section [\(wanted)]", hint: "it holds what a tele \(wanted) shall do")
        case (let wanted?, _): section = wanted
        case (nil, 1): section = present[0]
        case (nil, 0): throw CommandError.configuration("\(path) has no section", hint: "begin it with [client] or [server]")
        default:
            throw CommandError.configuration("\(path) has both a client and a server", hint: "say which: -client or -server")
        }
        forward = MappingTable(path: path, section: section, isReverse: false)
        reverse = MappingTable(path: path, section: section, isReverse: true)
        var tellsAddress = false
        for entry in entries where entry.keys[0] == section && entry.keys.count > 1 {
            if entry.keys[1] == forward.name {
                try forward.read(entry)
            } else if entry.keys[1] == reverse.name {
                try reverse.read(entry)
            } else if section == "server", entry.keys[1] == "clients" {
                try readClient(entry)
            } else if let flag = try readFlag(entry) {
                flags.append((entry.keys[1], flag, entry.line))
                if entry.keys[1] == "proxy-protocol" { tellsAddress = true }
            }
        }
        if tellsAddress {
            if section == "client" { forward.tellAddresses() } else { reverse.tellAddresses() }
        }
        try forward.finish()
        try reverse.finish()
        // An empty list is what holds without one: nowhere.
        flags.removeAll { $0.spelled == "--destinations=" }
        try checkClients()
    }

    // MARK: Clients

    /// `[server.clients.NAME]`. Nil: nothing is said.
    struct ClientTable {
        var mappings: [(name: String, line: Int)]?
        var listeners: [(name: String, line: Int)]?
        var destinations: [(rule: String, line: Int)]?
        var streams: Int?
        let line: Int
    }

    private mutating func readClient(_ entry: TOMLEntry) throws(CommandError) {
        let example = "write [\(section).clients.NAME] with mappings = [\"ssh\"] and destinations = [\"10.2.0.0/16:*\"]"
        if entry.keys.count == 2, entry.kind == TOML_TABLE { return }
        guard entry.keys.count >= 3 else { throw entry.fault(path, "clients holds a table for each client", hint: example) }
        let name = entry.keys[2]
        guard (1...256).contains(name.utf8.count) else { throw entry.fault(path, "\(quoted(name)) is no name of a client", hint: example) }
        var client = clients[name] ?? ClientTable(line: entry.line)
        switch (entry.keys.count, entry.keys.last, entry.kind) {
        case (3, _, TOML_TABLE): break
        case (4, "mappings", TOML_ARRAY) where !entry.isElement: client.mappings = []
        case (4, "listeners", TOML_ARRAY) where !entry.isElement: client.listeners = []
        case (4, "destinations", TOML_ARRAY) where !entry.isElement: client.destinations = []
        case (4, "mappings", TOML_STRING) where entry.isElement: client.mappings?.append((entry.string, entry.line))
        case (4, "listeners", TOML_STRING) where entry.isElement: client.listeners?.append((entry.string, entry.line))
        case (4, "destinations", TOML_STRING) where entry.isElement: client.destinations?.append((entry.string, entry.line))
        case (4, "streams", TOML_INTEGER) where !entry.isElement && (1...1_000_000).contains(entry.integer): client.streams = Int(entry.integer)
        case (4, "streams", _): throw entry.fault(path, "streams is a number from 1 to 1000000", hint: "write streams = 100")
        case (4, "mappings", _), (4, "listeners", _), (4, "destinations", _): throw entry.fault(path, "\(entry.keys[3]) is a list of strings", hint: example)
        default:
            throw entry.fault(
                path, "a client has no key \(visible(entry.keys.last ?? ""))",
                hint: ConfigurationFile.nearest(entry.keys.last ?? "", ["mappings", "listeners", "destinations", "streams"]) ?? example)
        }
        clients[name] = client
    }

    private func checkClients() throws(CommandError) {
        for (_, client) in clients.sorted(by: { $0.value.line < $1.value.line }) {
            for (name, line) in client.mappings ?? [] where !forward.has(name) {
                throw CommandError.configuration(
                    "\(path):\(line): there is no origin \(quoted(name))",
                    hint: ConfigurationFile.nearest(name, mappings.map(\.name)) ?? "mappings lists names of [server.origins]")
            }
            for (name, line) in client.listeners ?? [] where !reverse.has(name) {
                throw CommandError.configuration(
                    "\(path):\(line): there is no listener \(quoted(name))",
                    hint: ConfigurationFile.nearest(name, reverseMappings.map(\.name)) ?? "listeners lists names of [server.listen]")
            }
        }
    }

    // MARK: Flags

    private static let notInFiles: Set<String> = ["client", "server", "config", "version", "help", "h"]

    private mutating func readFlag(_ entry: TOMLEntry) throws(CommandError) -> String? {
        let name = entry.keys[1]
        guard let flag = GoFlag.ofTele.first(where: { $0.name == name && !ConfigurationFile.notInFiles.contains(name) }) else {
            let names =
                GoFlag.ofTele.map(\.name).filter { !ConfigurationFile.notInFiles.contains($0) } + [forward.name, reverse.name]
                + (section == "server" ? ["clients"] : [])
            throw entry.fault(
                path, "there is no key \(visible(name)) in [\(section)]",
                hint: ConfigurationFile.nearest(name, names) ?? "the keys are the flags of \"tele -help\", and \(forward.name)")
        }
        guard entry.keys.count == 2 else { throw entry.fault(path, "\(name) is no table", hint: "write \(name) = …") }
        switch (flag.kind, entry.kind) {
        case (.toggle, TOML_BOOLEAN): return entry.integer == 1 ? "--\(name)" : nil
        case (.toggle, _): throw entry.fault(path, "\(name) is true or false", hint: "write \(name) = true")
        case (.value, TOML_STRING):
            if entry.isElement { return try append(entry, name) }
            return "--\(name)=\(entry.string)"
        case (.value, TOML_INTEGER) where !entry.isElement: return "--\(name)=\(entry.integer)"
        case (.value, TOML_ARRAY) where ["allow", "destinations", "out", "paths"].contains(name) && !entry.isElement: return "--\(name)="
        case (.value(let example), _):
            throw entry.fault(
                path, "\(name) has a value of a kind that it does not take",
                hint: "write \(name) = \"\(example)\"")
        }
    }

    /// One more name of a list, which stands as the last flag so far.
    private mutating func append(_ entry: TOMLEntry, _ name: String) throws(CommandError) -> String? {
        guard let last = flags.indices.last, flags[last].name == name else {
            throw entry.fault(path, "\(name) is no list", hint: "write one value")
        }
        flags[last].spelled += (flags[last].spelled.hasSuffix("=") ? "" : ",") + entry.string
        return nil
    }

    // MARK: Words

    /// What is wrong with this file, in its words: `buffer` instead of `-buffer`, and the line if it is about one. `given`: flags of the
    /// command line, as `--name`; what is wrong with one of those is no fault of the file.
    func fault(_ fault: CommandError, besides given: Set<Substring>) -> any Error {
        let words = ConfigurationFile.words(fault.sentence)
        let named = flags.last { words.contains("-\($0.name)") }
        guard named != nil || !given.contains(where: { words.contains($0.dropFirst()) && $0 != "--config" }) else { return fault }
        let place = named.map { ":\($0.line)" } ?? ""
        return CommandError.configuration("\(path)\(place): \(ConfigurationFile.undashed(fault.sentence))", hint: ConfigurationFile.undashed(fault.hint))
    }

    private static func words(_ text: String) -> [Substring] { text.split { $0 == " " || $0 == "=" || $0 == "," } }

    private static func undashed(_ text: String) -> String {
        var result = ""
        var last: Character = " "
        for (character, next) in zip(text, Array(text.dropFirst()) + [" "]) {
            if !(character == "-" && next.isLetter && last == " ") { result.append(character) }
            last = character
        }
        return result
    }

    static func nearest(_ word: String, _ words: [String]) -> String? {
        Spelling.nearest(to: word, among: words).map { "did you mean \($0)?" }
    }

    private static func text(_ path: String) throws(CommandError) -> [UInt8] {
        func fault(_ code: Int32) -> CommandError {
            CommandError.configuration("cannot read \(path) (\(SystemError(code)))", hint: "check the path of -config")
        }
        let fd = open(path, O_RDONLY | O_CLOEXEC)
        guard fd >= 0 else { throw fault(errno) }
        defer { close(fd) }
        var bytes = [UInt8](repeating: 0, count: byteCountMaximum + 1)
        var filled = 0
        while filled < bytes.count {
            let count = bytes.withUnsafeMutableBytes { read(fd, $0.baseAddress! + filled, $0.count - filled) }
            guard count >= 0 else { throw fault(errno) }
            if count == 0 { return Array(bytes[..<filled]) }
            filled += count
        }
        throw CommandError.configuration("\(path) is larger than 1 MiB", hint: "is it the right file?")
    }
}
