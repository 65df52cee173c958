/// Where a user's program wants to go: a name or an address, and a port. Each destination has one spelling, so that what is judged is
/// what is dialled: lower case, no trailing dot, addresses as numbers. Spellings that resolvers and programs read differently (octal and
/// hexadecimal parts, one number for four, zones) are no destinations.
public struct Destination: Hashable, Sendable, CustomStringConvertible {
    public enum Host: Hashable, Sendable {
        case name(String)
        /// 4 or 16 bytes in network order; an IPv4 address inside an IPv6 one has 4.
        case address([UInt8])
    }

    public let host: Host
    public let port: UInt16

    /// Nil: port 0, or an address that has neither 4 nor 16 bytes.
    public init?(address: [UInt8], port: UInt16) {
        guard port != 0, address.count == 4 || address.count == 16 else { return nil }
        self.init(host: .address(Self.unmapped(address)), port: port)
    }

    private init(host: Host, port: UInt16) { (self.host, self.port) = (host, port) }

    /// `host`: a name or an address as a person writes it, IPv6 with or without brackets. Nil: neither.
    public init?(host text: some StringProtocol, port: UInt16) {
        var text = text[...]
        if text.first == "[" {
            guard text.last == "]", text.contains(":") else { return nil }
            text = text.dropFirst().dropLast()
        }
        if let address = Self.address(text) {
            self.init(address: address, port: port)
            return
        }
        guard port != 0, let name = Self.name(text) else { return nil }
        self.init(host: .name(name), port: port)
    }

    public var description: String { "\(hostText(brackets: true)):\(port)" }

    /// As a resolver takes it.
    public var hostText: String { hostText(brackets: false) }

    private func hostText(brackets: Bool) -> String {
        switch host {
        case .name(let name): name
        case .address(let bytes) where bytes.count == 4: bytes.map(String.init).joined(separator: ".")
        case .address(let bytes):
            (brackets ? "[" : "")
                + stride(from: 0, to: 16, by: 2).map { String(UInt16(bytes[$0]) << 8 | UInt16(bytes[$0 + 1]), radix: 16) }.joined(separator: ":")
                + (brackets ? "]" : "")
        }
    }

    // MARK: On the wire

    /// Of the host's text.
    public static let hostMaximum = 253
    public static let headMaximum = 1 + hostMaximum + 2

    /// The first bytes of its stream (docs/protocol.md §6.16): the length of the host's text, the text, the port.
    public var head: [UInt8] {
        let text = Array(hostText.utf8)
        return [UInt8(text.count)] + text + [UInt8(port >> 8), UInt8(port & 0xff)]
    }

    public enum Head: Equatable { case incomplete, invalid, whole(Destination, byteCount: Int) }

    /// Reads the beginning of a stream.
    public static func head(of bytes: some RandomAccessCollection<UInt8>) -> Head {
        guard let first = bytes.first else { return .incomplete }
        let count = Int(first)
        guard count > 0, count <= hostMaximum else { return .invalid }
        guard bytes.count >= 1 + count + 2 else { return .incomplete }
        let body = Array(bytes.prefix(1 + count + 2).dropFirst())
        let port = UInt16(body[count]) << 8 | UInt16(body[count + 1])
        guard let text = String(validating: body[..<count], as: UTF8.self), let destination = Destination(host: text, port: port),
            destination.hostText == text
        else { return .invalid }
        return .whole(destination, byteCount: 1 + count + 2)
    }

    // MARK: Spellings

    /// Letters, digits, dashes and underlines in labels of at most 63; the last label is no number, which old resolvers take for a part of
    /// an address (127.1, 0x7f.1, 2130706433). Nil: it is no name.
    static func name(_ text: some StringProtocol) -> String? {
        var text = text.lowercased()
        if text.hasSuffix(".") { text.removeLast() }
        guard (1...hostMaximum).contains(text.utf8.count) else { return nil }
        let labels = text.utf8.split(separator: 0x2e, omittingEmptySubsequences: false)
        for label in labels {
            guard (1...63).contains(label.count), label.first != 0x2d, label.last != 0x2d else { return nil }
            for byte in label { guard isLetter(byte) || isDigit(byte) || byte == 0x2d || byte == 0x5f else { return nil } }
        }
        guard let last = labels.last, !last.allSatisfy(isDigit), !last.starts(with: [0x30, 0x78]) else { return nil }
        return text
    }

    private static func isLetter(_ byte: UInt8) -> Bool { (0x61...0x7a).contains(byte) }
    private static func isDigit(_ byte: UInt8) -> Bool { (0x30...0x39).contains(byte) }

    /// 4 or 16 bytes. IPv4 is four decimal numbers without leading zeros, IPv6 as RFC 4291 §2.2 says, without a zone.
    static func address(_ text: some StringProtocol) -> [UInt8]? {
        text.utf8.contains(0x3a) ? ipv6(text) : ipv4(text)
    }

    private static func ipv4(_ text: some StringProtocol) -> [UInt8]? {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 4 else { return nil }
        var bytes: [UInt8] = []
        for part in parts {
            guard (1...3).contains(part.utf8.count), part.utf8.allSatisfy(isDigit), part.utf8.count == 1 || part.first != "0", let byte = UInt8(part)
            else { return nil }
            bytes.append(byte)
        }
        return bytes
    }

    private static func ipv6(_ text: some StringProtocol) -> [UInt8]? {
        let halves = text.split(separator: "::", maxSplits: 2, omittingEmptySubsequences: false)
        guard halves.count <= 2 else { return nil }
        guard let front = groups(halves[0], endsAddress: halves.count == 1) else { return nil }
        guard halves.count == 2 else { return front.count == 16 ? front : nil }
        guard let back = groups(halves[1], endsAddress: true), front.count + back.count <= 14 else { return nil }
        return front + [UInt8](repeating: 0, count: 16 - front.count - back.count) + back
    }

    /// `endsAddress`: the last may be an IPv4 address.
    private static func groups(_ text: some StringProtocol, endsAddress: Bool) -> [UInt8]? {
        guard !text.isEmpty else { return [] }
        var bytes: [UInt8] = []
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        for (place, part) in parts.enumerated() {
            if endsAddress, place == parts.count - 1, part.contains(".") {
                guard let last = ipv4(part) else { return nil }
                bytes += last
            } else {
                guard (1...4).contains(part.utf8.count), part.utf8.allSatisfy({ isDigit($0) || isLetter($0 | 0x20) && ($0 | 0x20) <= 0x66 }),
                    let group = UInt16(part, radix: 16)
                else { return nil }
                bytes += [UInt8(group >> 8), UInt8(group & 0xff)]
            }
        }
        return bytes.count <= 16 ? bytes : nil
    }

    /// ::ffff:a.b.c.d is a.b.c.d (RFC 4291 §2.5.5.2).
    static func unmapped(_ address: [UInt8]) -> [UInt8] {
        address.count == 16 && address[..<10].allSatisfy { $0 == 0 } && address[10] == 0xff && address[11] == 0xff ? Array(address[12...]) : address
    }
}
