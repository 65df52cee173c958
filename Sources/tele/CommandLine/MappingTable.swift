import CTOML
import Loop
import Relay

/// The mappings of one table of a configuration file.
struct MappingTable {
    let path: String
    let section: String
    /// `listen` or `origins`.
    let name: String
    /// Users connect to the addresses; else they are dialled.
    let isListening: Bool
    /// Users may choose where they go.
    private let chooses: Bool
    private(set) var mappings: [Mapping] = []
    private var lines: [Int] = []
    /// Hosts that keep their own names, of the mapping at each index, and the first of their loopback addresses.
    private var clusters: [Int: Cluster] = [:]
    /// The index in `mappings` of each name.
    private var places: [String: Int] = [:]

    /// `isReverse`: users of these mappings connect to the server.
    init(path: String, section: String, isReverse: Bool) {
        (self.path, self.section) = (path, section)
        isListening = (section == "client") != isReverse
        chooses = isListening && !isReverse
        name = isListening ? "listen" : "origins"
    }

    func has(_ mapping: String) -> Bool { places[mapping] != nil }

    mutating func tellAddresses() { for index in mappings.indices { mappings[index].tellsAddress = true } }

    /// All entries have been read.
    mutating func finish() throws(CommandError) {
        try expandClusters()
        try check()
    }

    mutating func read(_ entry: TOMLEntry) throws(CommandError) {
        switch (entry.keys.count, entry.kind) {
        case (2, TOML_TABLE): return
        case (3, TOML_STRING) where !entry.isElement: try add(entry, entry.string)
        case (3, TOML_TABLE): try add(entry, nil)
        case (4, TOML_STRING) where entry.keys[3] == "address" && !entry.isElement:
            mappings[place(entry)].address = try address(entry, entry.string)
        case (4, TOML_BOOLEAN) where entry.keys[3] == "proxy-protocol" && isListening:
            mappings[place(entry)].tellsAddress = entry.integer == 1
        case (4, TOML_STRING) where entry.keys[3] == "mode" && isListening && !entry.isElement:
            guard let mode = Settings.mode(entry.string) else {
                throw entry.fault(path, "\(quoted(entry.string)) is not a file mode", hint: "write mode = \"0660\" for user and group, \"0666\" for everyone")
            }
            mappings[place(entry)].access.mode = mode
        case (4, TOML_STRING) where entry.keys[3] == "refuse-after" && isListening && !entry.isElement:
            guard let seconds = Settings.refusal(entry.string) else {
                throw entry.fault(path, "\(quoted(entry.string)) is not a duration from 0s to 31d", hint: "write refuse-after = \"30s\" or \"never\"")
            }
            mappings[place(entry)].refuseAfterSeconds = seconds
        case (4, TOML_ARRAY) where entry.keys[3] == "names" && chooses && !entry.isElement:
            clusters[place(entry), default: Cluster()].names = []
        case (4, TOML_STRING) where entry.keys[3] == "names" && chooses && entry.isElement:
            clusters[place(entry), default: Cluster()].names.append((entry.string, entry.line))
        case (4, TOML_STRING) where entry.keys[3] == "loopback" && chooses && !entry.isElement:
            guard let first = Cluster.number(entry.string) else {
                throw entry.fault(path, "\(quoted(entry.string)) is no address of 127.0.0.0/8", hint: "write loopback = \"127.77.0.1\"")
            }
            clusters[place(entry), default: Cluster()].first = first
        case (4, TOML_STRING) where entry.keys[3] == "passwords" && chooses && !entry.isElement:
            mappings[place(entry)].passwordFile = entry.string
        case (4, TOML_STRING) where entry.keys[3] == "kind" && chooses && !entry.isElement:
            guard let kind = Mapping.Kind(rawValue: entry.string) else {
                throw entry.fault(
                    path, "\(quoted(entry.string)) is not a kind of listener",
                    hint: "the kinds are \(Mapping.Kind.allCases.map(\.rawValue).joined(separator: ", "))")
            }
            mappings[place(entry)].kind = kind
        case (4, TOML_STRING) where entry.keys[3] == "group" && isListening && !entry.isElement:
            guard SocketAccess.number(of: entry.string) != nil else {
                throw entry.fault(path, "\(quoted(entry.string)) is not a group on this host", hint: "use a name from /etc/group, or a group ID")
            }
            mappings[place(entry)].access.group = entry.string
        case (4, _) where MappingTable.keys.contains(entry.keys[3]):
            let why =
                switch entry.keys[3] {
                case "address": "an address is a string"
                case "proxy-protocol": "proxy-protocol is true or false, where users connect"
                case "names": "names is a list of strings, in [client.listen]"
                case "kind", "loopback", "passwords": "\(entry.keys[3]) is a string, in [client.listen]"
                default: "\(entry.keys[3]) is a string, where users connect"
                }
            throw entry.fault(path, why, hint: "write { address = \"unix:/run/tele/db\", mode = \"0660\", group = \"staff\" }")
        case (4..., _):
            throw entry.fault(
                path, "a mapping has no key \(visible(entry.keys[3]))",
                hint: ConfigurationFile.nearest(entry.keys[3], MappingTable.keys)
                    ?? "it has address and, where users connect, proxy-protocol, refuse-after, mode and group; on the client kind, passwords, names and loopback besides"
            )
        default:
            throw entry.fault(path, "a mapping is a name and an address", hint: "write ssh = \"localhost:22\" under [\(section).\(name)]")
        }
    }

    private static let keys = ["address", "kind", "passwords", "names", "loopback", "proxy-protocol", "refuse-after", "mode", "group"]

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
        lines.append(entry.line)
    }

    /// The mapping that the entry is in: its table came before it.
    private func place(_ entry: TOMLEntry) -> Int { places[entry.keys[2]]! }

    private func address(_ entry: TOMLEntry, _ text: String) throws(CommandError) -> HostPort {
        let address: HostPort
        do throws(HostPort.Malformed) { address = try HostPort(parsing: text) } catch {
            throw entry.fault(path, "\(quoted(text)) \(error.reason)", hint: "write HOST:PORT, :PORT, [IPV6]:PORT or unix:/PATH")
        }
        if !isListening, address.port == 0, address.path == nil {
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
        var expandedLines: [Int] = []
        var next = Cluster.usual
        for (index, mapping) in mappings.enumerated() {
            guard let cluster = clusters[index] else {
                expanded.append(mapping)
                expandedLines.append(lines[index])
                continue
            }
            func fault(_ line: Int, _ sentence: String, _ hint: String) -> CommandError {
                CommandError.configuration("\(path):\(line): \(sentence)", hint: hint)
            }
            guard mapping.address == HostPort(host: "", port: 0), mapping.kind == .fixed, !cluster.names.isEmpty else {
                throw fault(
                    lines[index], "\(mapping.name) has names, and an address or kind besides, or no names",
                    "write \(mapping.name) = { names = [\"kafka-1.corp:9092\", \"kafka-2.corp:9092\"] }")
            }
            next = cluster.first ?? next
            var addresses: [String: UInt32] = [:]
            var names: [(text: String, line: Int)] = []
            for (text, line) in cluster.names { names += try expandRange(text, line) }
            for (text, line) in names {
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
                expandedLines.append(line)
            }
        }
        (mappings, lines) = (expanded, expandedLines)
    }

    /// `kafka-{1..3}.corp:9092` stands for three names; with as many digits as the numbers are written with.
    private func expandRange(_ text: String, _ line: Int) throws(CommandError) -> [(text: String, line: Int)] {
        guard let opening = text.firstIndex(of: "{") else { return [(text, line)] }
        let rest = text[text.index(after: opening)...]
        func fault() -> CommandError {
            CommandError.configuration("\(path):\(line): \(quoted(text)) has a range that is not understood", hint: "write {1..3}, once in a name")
        }
        guard let closing = rest.firstIndex(of: "}"), let dots = rest.firstRange(of: ".."), dots.upperBound <= closing else { throw fault() }
        let (first, last) = (rest[..<dots.lowerBound], rest[dots.upperBound..<closing])
        let tail = rest[rest.index(after: closing)...]
        guard let from = UInt16(first), let to = UInt16(last), from <= to, to - from < 1000, !tail.contains("{"),
            (first + last).allSatisfy(\.isWholeNumber)
        else { throw fault() }
        return (from...to).map { number in
            let digits = "\(number)"
            let zeros = first.first == "0" ? String(repeating: "0", count: max(0, first.count - digits.count)) : ""
            return ("\(text[..<opening])\(zeros)\(digits)\(tail)", line)
        }
    }

    private func check() throws(CommandError) {
        guard mappings.count <= Mapping.countMaximum else {
            throw CommandError.configuration("\(path) has more than \(Mapping.countMaximum) mappings", hint: "start several processes")
        }
        var byTarget: [UInt64: String] = [:]
        var byAddress: [HostPort: String] = [:]
        for (index, mapping) in mappings.enumerated() {
            func fault(_ sentence: String, _ hint: String) -> CommandError {
                CommandError.configuration("\(path):\(lines[index]): \(sentence)", hint: hint)
            }
            if mapping.passwordFile != nil, !mapping.takesPasswords {
                throw fault("\(mapping.name) has passwords, and its kind asks for none", "write kind = \"socks5\" or \"http-connect\"")
            }
            if mapping.address.port == 0, mapping.address.path == nil {
                throw fault("\(mapping.name) has no port", "write \(mapping.name) = \"127.0.0.1:22999\"")
            }
            if let other = byTarget.updateValue(mapping.name, forKey: mapping.target) {
                throw fault("\(mapping.name) and \(other) have the same number", "rename one of them")
            }
            if isListening, let other = byAddress.updateValue(mapping.name, forKey: mapping.address) {
                throw fault("\(mapping.name) and \(other) listen on the same address", "give each its own")
            }
        }
    }
}
