import CTOML
import Glibc
import Loop
import Relay

/// A configuration file: TOML with a section for the client or the server of this host, or for both. Its keys are the
/// flags without their dash; tables of mappings come on top.
struct ConfigurationFile {
    static let byteCountMaximum = 1 << 20

    let path: String
    let section: String
    /// What the section says, as flags: `--name` or `--name=value`.
    private(set) var flags: [(name: String, spelled: String, line: Int)] = []
    private(set) var mappings: [Mapping] = []
    /// Of the server's clients, by name.
    private(set) var clients: [String: ClientTable] = [:]
    private var mappingLines: [Int] = []
    /// Hosts that keep their own names, of the mapping at each index, and the first of their loopback addresses.
    private var clusters: [Int: Cluster] = [:]
    /// The index in `mappings` of each name.
    private var places: [String: Int] = [:]

    /// `section`: which of the two is wanted; nil: the only one there is.
    init(path: String, section wanted: String?) throws(CommandError) {
        self.path = path
        let entries = try TOMLEntry.read(ConfigurationFile.text(path), path)
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
        var tellsAddress = false
        for entry in entries where entry.keys[0] == section && entry.keys.count > 1 {
            if entry.keys[1] == table {
                try readMapping(entry)
            } else if section == "server", entry.keys[1] == "clients" {
                try readClient(entry)
            } else if let flag = try readFlag(entry) {
                flags.append((entry.keys[1], flag, entry.line))
                if entry.keys[1] == "proxy-protocol" { tellsAddress = true }
            }
        }
        if tellsAddress { for index in mappings.indices { mappings[index].tellsAddress = true } }
        try expandClusters()
        // An empty list is what holds without one: nowhere.
        flags.removeAll { $0.spelled == "--destinations=" }
        try checkMappings()
        try checkClients()
    }

    /// The table with the mappings.
    private var table: String { section == "client" ? "listen" : "origins" }

    // MARK: Clients

    /// `[server.clients.NAME]`. Nil: nothing is said.
    struct ClientTable {
        var mappings: [(name: String, line: Int)]?
        var destinations: [(rule: String, line: Int)]?
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
        case (4, "destinations", TOML_ARRAY) where !entry.isElement: client.destinations = []
        case (4, "mappings", TOML_STRING) where entry.isElement: client.mappings?.append((entry.string, entry.line))
        case (4, "destinations", TOML_STRING) where entry.isElement: client.destinations?.append((entry.string, entry.line))
        case (4, "mappings", _), (4, "destinations", _): throw entry.fault(path, "\(entry.keys[3]) is a list of strings", hint: example)
        default:
            throw entry.fault(
                path, "a client has no key \(visible(entry.keys.last ?? ""))",
                hint: ConfigurationFile.nearest(entry.keys.last ?? "", ["mappings", "destinations"]) ?? example)
        }
        clients[name] = client
    }

    private func checkClients() throws(CommandError) {
        for (_, client) in clients.sorted(by: { $0.value.line < $1.value.line }) {
            for (name, line) in client.mappings ?? [] where places[name] == nil {
                throw CommandError.configuration(
                    "\(path):\(line): there is no origin \(quoted(name))",
                    hint: ConfigurationFile.nearest(name, mappings.map(\.name)) ?? "mappings lists names of [server.origins]")
            }
        }
    }

    // MARK: Flags

    private static let notInFiles: Set<String> = ["client", "server", "config", "version", "help", "h"]

    private mutating func readFlag(_ entry: TOMLEntry) throws(CommandError) -> String? {
        let name = entry.keys[1]
        guard let flag = GoFlag.ofTele.first(where: { $0.name == name && !ConfigurationFile.notInFiles.contains(name) }) else {
            let names = GoFlag.ofTele.map(\.name).filter { !ConfigurationFile.notInFiles.contains($0) } + [table] + (section == "server" ? ["clients"] : [])
            throw entry.fault(
                path, "there is no key \(visible(name)) in [\(section)]",
                hint: ConfigurationFile.nearest(name, names) ?? "the keys are the flags of \"tele -help\", and \(table)")
        }
        guard entry.keys.count == 2 else { throw entry.fault(path, "\(name) is no table", hint: "write \(name) = …") }
        switch (flag.kind, entry.kind) {
        case (.toggle, TOML_BOOLEAN): return entry.integer == 1 ? "--\(name)" : nil
        case (.toggle, _): throw entry.fault(path, "\(name) is true or false", hint: "write \(name) = true")
        case (.value, TOML_STRING):
            if entry.isElement { return try append(entry, name) }
            return "--\(name)=\(entry.string)"
        case (.value, TOML_INTEGER) where !entry.isElement: return "--\(name)=\(entry.integer)"
        case (.value, TOML_ARRAY) where ["allow", "destinations"].contains(name) && !entry.isElement: return "--\(name)="
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

    // MARK: Mappings

    private mutating func readMapping(_ entry: TOMLEntry) throws(CommandError) {
        switch (entry.keys.count, entry.kind) {
        case (2, TOML_TABLE): return
        case (3, TOML_STRING) where !entry.isElement: try add(entry, entry.string)
        case (3, TOML_TABLE): try add(entry, nil)
        case (4, TOML_STRING) where entry.keys[3] == "address" && !entry.isElement:
            mappings[place(entry)].address = try address(entry, entry.string)
        case (4, TOML_BOOLEAN) where entry.keys[3] == "proxy-protocol" && section == "client":
            mappings[place(entry)].tellsAddress = entry.integer == 1
        case (4, TOML_STRING) where entry.keys[3] == "mode" && section == "client" && !entry.isElement:
            guard let mode = Settings.mode(entry.string) else {
                throw entry.fault(path, "\(quoted(entry.string)) is not a file mode", hint: "write mode = \"0660\" for user and group, \"0666\" for everyone")
            }
            mappings[place(entry)].access.mode = mode
        case (4, TOML_STRING) where entry.keys[3] == "refuse-after" && section == "client" && !entry.isElement:
            guard let seconds = Settings.refusal(entry.string) else {
                throw entry.fault(path, "\(quoted(entry.string)) is not a duration from 0s to 31d", hint: "write refuse-after = \"30s\" or \"never\"")
            }
            mappings[place(entry)].refuseAfterSeconds = seconds
        case (4, TOML_ARRAY) where entry.keys[3] == "names" && section == "client" && !entry.isElement:
            clusters[place(entry), default: Cluster()].names = []
        case (4, TOML_STRING) where entry.keys[3] == "names" && section == "client" && entry.isElement:
            clusters[place(entry), default: Cluster()].names.append((entry.string, entry.line))
        case (4, TOML_STRING) where entry.keys[3] == "loopback" && section == "client" && !entry.isElement:
            guard let first = Cluster.number(entry.string) else {
                throw entry.fault(path, "\(quoted(entry.string)) is no address of 127.0.0.0/8", hint: "write loopback = \"127.77.0.1\"")
            }
            clusters[place(entry), default: Cluster()].first = first
        case (4, TOML_STRING) where entry.keys[3] == "kind" && section == "client" && !entry.isElement:
            guard let kind = Mapping.Kind(rawValue: entry.string) else {
                throw entry.fault(
                    path, "\(quoted(entry.string)) is not a kind of listener",
                    hint: "the kinds are \(Mapping.Kind.allCases.map(\.rawValue).joined(separator: ", "))")
            }
            mappings[place(entry)].kind = kind
        case (4, TOML_STRING) where entry.keys[3] == "group" && section == "client" && !entry.isElement:
            guard SocketAccess.number(of: entry.string) != nil else {
                throw entry.fault(path, "\(quoted(entry.string)) is not a group on this host", hint: "use a name from /etc/group, or a group ID")
            }
            mappings[place(entry)].access.group = entry.string
        case (4, _) where ConfigurationFile.keysOfMapping.contains(entry.keys[3]):
            let why =
                switch entry.keys[3] {
                case "address": "an address is a string"
                case "proxy-protocol": "proxy-protocol is true or false, on the client"
                case "names": "names is a list of strings, on the client"
                default: "\(entry.keys[3]) is a string, on the client"
                }
            throw entry.fault(path, why, hint: "write { address = \"unix:/run/tele/db\", mode = \"0660\", group = \"staff\" }")
        case (4..., _):
            throw entry.fault(
                path, "a mapping has no key \(visible(entry.keys[3]))",
                hint: ConfigurationFile.nearest(entry.keys[3], ConfigurationFile.keysOfMapping)
                    ?? "it has address and, on the client, kind, names, loopback, proxy-protocol, refuse-after, mode and group")
        default:
            throw entry.fault(path, "a mapping is a name and an address", hint: "write ssh = \"localhost:22\" under [\(section).\(table)]")
        }
    }

    private static let keysOfMapping = ["address", "kind", "names", "loopback", "proxy-protocol", "refuse-after", "mode", "group"]

    private mutating func add(_ entry: TOMLEntry, _ text: String?) throws(CommandError) {
        let name = entry.keys[2]
        guard Mapping.isName(name) else {
            throw entry.fault(
                path, "a mapping cannot be called \(quoted(name))",
                hint: "at most \(Mapping.nameMaximum) letters, digits, dots, dashes and underlines")
        }
        // Of a table the address follows.
        let place = if let text { try address(entry, text) } else { HostPort(host: "", port: 0) }
        places[name] = mappings.count
        mappings.append(Mapping(name: name, address: place))
        mappingLines.append(entry.line)
    }

    /// The mapping that the entry is in: its table came before it.
    private func place(_ entry: TOMLEntry) -> Int { places[entry.keys[2]]! }

    private func address(_ entry: TOMLEntry, _ text: String) throws(CommandError) -> HostPort {
        let address: HostPort
        do throws(HostPort.Malformed) { address = try HostPort(parsing: text) } catch {
            throw entry.fault(path, "\(quoted(text)) \(error.reason)", hint: "write HOST:PORT, :PORT, [IPV6]:PORT or unix:/PATH")
        }
        if section == "server", address.port == 0, address.path == nil {
            throw entry.fault(path, "\(quoted(text)) has port 0, which cannot be dialled", hint: "write the port that is listened on there")
        }
        return address
    }

    /// `names = ["kafka-1.corp:9092", …]`: each host has a loopback address of its own, at which its ports are those that it has itself.
    private struct Cluster {
        var names: [(text: String, line: Int)] = []
        var first: UInt32?

        static let usual: UInt32 = 0x7f4d_0001

        /// An address of 127.0.0.0/8 as a number.
        static func number(_ text: String) -> UInt32? {
            let parts = text.split(separator: ".", omittingEmptySubsequences: false).map { UInt8($0) }
            guard parts.count == 4, !parts.contains(nil), parts[0] == 127 else { return nil }
            return parts.reduce(0) { $0 << 8 | UInt32($1!) }
        }

        static func text(_ number: UInt32) -> String { [24, 16, 8, 0].map { "\(number >> $0 & 0xff)" }.joined(separator: ".") }
    }

    /// Each name becomes a mapping. Names that are added at the end of a list leave the addresses of the others as they were.
    private mutating func expandClusters() throws(CommandError) {
        var expanded: [Mapping] = []
        var lines: [Int] = []
        var next = Cluster.usual
        for (index, mapping) in mappings.enumerated() {
            guard let cluster = clusters[index] else {
                expanded.append(mapping)
                lines.append(mappingLines[index])
                continue
            }
            func fault(_ line: Int, _ sentence: String, _ hint: String) -> CommandError {
                CommandError.configuration("\(path):\(line): \(sentence)", hint: hint)
            }
            guard mapping.address == HostPort(host: "", port: 0), mapping.kind == .fixed, !cluster.names.isEmpty else {
                throw fault(
                    mappingLines[index], "\(mapping.name) has names, and an address or kind besides, or no names",
                    "write \(mapping.name) = { names = [\"kafka-1.corp:9092\", \"kafka-2.corp:9092\"] }")
            }
            next = cluster.first ?? next
            var addresses: [String: UInt32] = [:]
            for (text, line) in cluster.names {
                var one = mapping
                guard one.lead(to: text), let name = one.dialledName, let port = one.destinationPort else {
                    throw fault(line, "\(quoted(text)) is not NAME:PORT", "write the name that the cluster tells its clients, and its port")
                }
                if addresses[name] == nil {
                    guard next >> 24 == 127 else { throw fault(line, "no loopback address is left for \(text)", "write a lower loopback = …") }
                    addresses[name] = next
                    next += 1
                }
                one.name = String("\(mapping.name)/\(name):\(port)".prefix(200))
                one.address = HostPort(host: Cluster.text(addresses[name]!), port: port)
                expanded.append(one)
                lines.append(line)
            }
        }
        (mappings, mappingLines) = (expanded, lines)
    }

    private func checkMappings() throws(CommandError) {
        guard mappings.count <= Mapping.countMaximum else {
            throw CommandError.configuration("\(path) has more than \(Mapping.countMaximum) mappings", hint: "start several processes")
        }
        var byTarget: [UInt64: String] = [:]
        var byAddress: [HostPort: String] = [:]
        for (index, mapping) in mappings.enumerated() {
            func fault(_ sentence: String, _ hint: String) -> CommandError {
                CommandError.configuration("\(path):\(mappingLines[index]): \(sentence)", hint: hint)
            }
            if mapping.address.port == 0, mapping.address.path == nil {
                throw fault("\(mapping.name) has no port", "write \(mapping.name) = \"127.0.0.1:22999\"")
            }
            if let other = byTarget.updateValue(mapping.name, forKey: mapping.target) {
                throw fault("\(mapping.name) and \(other) have the same number", "rename one of them")
            }
            if section == "client", let other = byAddress.updateValue(mapping.name, forKey: mapping.address) {
                throw fault("\(mapping.name) and \(other) listen on the same address", "give each its own")
            }
        }
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

    private static func nearest(_ word: String, _ words: [String]) -> String? {
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
