/// Which destinations a server dials for its clients. Nothing is allowed that no rule names. A name is judged, and then each of its
/// addresses: the address that was judged is the one that is dialled, so a name server that answers otherwise a moment later changes
/// nothing. Pure.
public struct DestinationRules: Equatable, Sendable {
    /// One rule: `HOST:PORT`. The host is a name in which `*` stands for any characters but a dot, `*` alone for every name, or an address,
    /// or a network (`10.2.0.0/16`, `[fd00::]/8`). The port is a number, a range (`8000-8100`) or `*`.
    public struct Rule: Equatable, Sendable {
        enum Host: Equatable, Sendable {
            case names([[UInt8]])
            case everyName
            case network([UInt8], prefix: Int)
        }
        let host: Host
        let ports: ClosedRange<UInt16>

        public init?(_ text: String) {
            guard let colon = text.lastIndex(of: ":"), let ports = Rule.ports(text[text.index(after: colon)...]),
                let host = Rule.host(text[..<colon])
            else { return nil }
            (self.host, self.ports) = (host, ports)
        }

        private static func ports(_ text: Substring) -> ClosedRange<UInt16>? {
            if text == "*" { return 1...UInt16.max }
            let ends = text.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false)
                .compactMap { $0.utf8.allSatisfy { (0x30...0x39).contains($0) } ? UInt16($0) : nil }
            guard let first = ends.first, let last = ends.last, first > 0, first <= last, ends.count == (text.contains("-") ? 2 : 1) else { return nil }
            return first...last
        }

        private static func host(_ text: Substring) -> Host? {
            if text == "*" { return .everyName }
            let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
            var place = parts[0]
            let hasBrackets = place.first == "[" && place.last == "]"
            if hasBrackets { place = place.dropFirst().dropLast() }
            if hasBrackets == place.contains(":"), let address = Destination.address(place) {
                let most = address.count * 8
                guard parts.count == 2 else { return .network(Destination.unmapped(address), prefix: Destination.unmapped(address).count * 8) }
                guard let prefix = Int(parts[1]), (0...most).contains(prefix), parts[1].utf8.count <= 3 else { return nil }
                return .network(address, prefix: prefix)
            }
            guard parts.count == 1, !hasBrackets else { return nil }
            // The pattern is a name when its stars are letters.
            guard Destination.name(text.map { $0 == "*" ? "x" : String($0) }.joined()) != nil else { return nil }
            var name = text.lowercased()
            if name.hasSuffix(".") { name.removeLast() }
            return .names(name.utf8.split(separator: 0x2e, omittingEmptySubsequences: false).map(Array.init))
        }

        /// The last label is written out: whoever wrote the rule knows whose names these are.
        var namesDomain: Bool {
            if case .names(let labels) = host { !(labels.last?.contains(0x2a) ?? true) } else { false }
        }

        func matches(name: String) -> Bool {
            switch host {
            case .everyName: return true
            case .network: return false
            case .names(let patterns):
                let labels = name.utf8.split(separator: 0x2e, omittingEmptySubsequences: false).map(Array.init)
                return labels.count == patterns.count && zip(patterns, labels).allSatisfy { Rule.matches($0[...], $1[...]) }
            }
        }

        private static func matches(_ pattern: ArraySlice<UInt8>, _ label: ArraySlice<UInt8>) -> Bool {
            // The last star that was met, and how much it has taken: a label has at most 63 bytes.
            var (pattern, label) = (pattern, label)
            var star: (rest: ArraySlice<UInt8>, label: ArraySlice<UInt8>)?
            while let byte = label.first {
                if let wanted = pattern.first, wanted != 0x2a, wanted == byte {
                    pattern = pattern.dropFirst()
                    label = label.dropFirst()
                } else if pattern.first == 0x2a {
                    pattern = pattern.dropFirst()
                    star = (pattern, label)
                } else if let last = star {
                    label = last.label.dropFirst()
                    pattern = last.rest
                    star = (last.rest, label)
                } else {
                    return false
                }
            }
            return pattern.allSatisfy { $0 == 0x2a }
        }

        func contains(_ address: [UInt8]) -> Bool {
            guard case .network(let network, let prefix) = host, network.count == address.count else { return false }
            return (0..<prefix).allSatisfy { (network[$0 / 8] ^ address[$0 / 8]) & (0x80 >> UInt8($0 % 8)) == 0 }
        }
    }

    public var rules: [Rule]

    public init(_ rules: [Rule] = []) { self.rules = rules }

    public var isEmpty: Bool { rules.isEmpty }

    /// Whether it is worth looking up. An address is judged by `permits`.
    public func mayPermit(_ destination: Destination) -> Bool {
        switch destination.host {
        case .address(let address): permits(destination, address)
        case .name(let name):
            rules.contains {
                guard $0.ports.contains(destination.port) else { return false }
                if case .network = $0.host { return true }
                return $0.matches(name: name)
            }
        }
    }

    /// `address`: one of those that the destination has, 4 or 16 bytes. A network's rule allows the addresses in it, whatever they are;
    /// a name's rule those that lead away from this host, and private ones only if it names a domain.
    public func permits(_ destination: Destination, _ address: [UInt8]) -> Bool {
        let address = Destination.unmapped(address)
        return rules.contains { rule in
            guard rule.ports.contains(destination.port) else { return false }
            if rule.contains(address) { return true }
            guard case .name(let name) = destination.host, rule.matches(name: name) else { return false }
            switch AddressKind(address) {
            case .public: return true
            case .private: return rule.namesDomain
            case .special: return false
            }
        }
    }
}

/// What an address is, as far as it matters for who may be led there (RFC 6890, and the addresses at which clouds tell a machine its
/// secrets).
enum AddressKind: Equatable {
    /// Anywhere in the Internet.
    case `public`
    /// A network of somebody's own.
    case `private`
    /// This host, this link, many hosts, nobody, or a cloud's metadata.
    case special

    init(_ address: [UInt8]) {
        self = address.count == 4 ? .ipv4(address) : .ipv6(address)
    }

    private static func ipv4(_ address: [UInt8]) -> AddressKind {
        switch (address[0], address[1], address[2], address[3]) {
        case (0, _, _, _), (127, _, _, _), (169, 254, _, _), (224..., _, _, _), (192, 0, 0, _): .special
        case (100, 100, 100, 200), (168, 63, 129, 16): .special
        case (10, _, _, _), (172, 16...31, _, _), (192, 168, _, _), (100, 64...127, _, _), (198, 18...19, _, _): .private
        default: .public
        }
    }

    private static func ipv6(_ address: [UInt8]) -> AddressKind {
        // An IPv4 address in another dress: compatible (also :: and ::1), translated (RFC 6052), by 6to4 and by Teredo.
        if address[..<12].allSatisfy({ $0 == 0 }) { return .special }
        if address.starts(with: [0, 0x64, 0xff, 0x9b]) { return translated(Array(address[12...])) }
        if address.starts(with: [0x20, 0x02]) { return translated(Array(address[2..<6])) }
        if address.starts(with: [0x20, 0x01, 0, 0]) { return .special }
        if address[0] == 0xff { return .special }
        if address[0] == 0xfe { return .special }
        if address == [0xfd, 0, 0x0e, 0xc2] + [UInt8](repeating: 0, count: 10) + [0x02, 0x54] { return .special }
        if address[0] & 0xfe == 0xfc { return .private }
        return .public
    }

    private static func translated(_ address: [UInt8]) -> AddressKind { ipv4(address) == .public ? .public : .special }
}
