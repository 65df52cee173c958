import Glibc

/// An IPv4 or IPv6 address with a port, or the path of a Unix-domain socket, as the kernel takes it.
public struct Address: Equatable, Hashable, Sendable, CustomStringConvertible {
    /// Longest path of a Unix-domain socket: what sockaddr_un holds, less the zero at its end.
    public static let pathMaximum = 107

    /// sockaddr_in, sockaddr_in6 or sockaddr_un.
    private var bytes: [UInt8]

    /// Nil when the family is none of these.
    public init?(_ pointer: UnsafePointer<sockaddr>, _ length: socklen_t) {
        let needed: Int
        switch Int32(pointer.pointee.sa_family) {
        case AF_INET: needed = MemoryLayout<sockaddr_in>.size
        case AF_INET6: needed = MemoryLayout<sockaddr_in6>.size
        case AF_UNIX: needed = min(Int(length), MemoryLayout<sockaddr_un>.size)
        default: return nil
        }
        guard Int(length) >= needed, needed >= MemoryLayout<sa_family_t>.size else { return nil }
        bytes = Array(UnsafeRawBufferPointer(start: pointer, count: needed))
    }

    /// `path`: at most `pathMaximum` bytes.
    public init(path: String) {
        precondition(path.utf8.count <= Address.pathMaximum, "a path that no address holds")
        let family = sa_family_t(AF_UNIX)
        bytes = withUnsafeBytes(of: family, Array.init) + Array(path.utf8) + [0]
    }

    public func withPointer<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
        bytes.withUnsafeBytes { body($0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t($0.count)) }
    }

    public var family: Int32 { withPointer { pointer, _ in Int32(pointer.pointee.sa_family) } }

    /// A path that can be reached by others; empty for a socket without a name.
    public var path: String? {
        guard family == AF_UNIX else { return nil }
        return String(decoding: bytes.dropFirst(MemoryLayout<sa_family_t>.size).prefix { $0 != 0 }, as: UTF8.self)
    }

    /// The host's 4 or 16 bytes in network order; an IPv4 address inside an IPv6 one as 4. Empty for a path.
    public var host: ArraySlice<UInt8> {
        switch family {
        case AF_INET: bytes[4..<8]
        case AF_INET6: isMapped ? bytes[20..<24] : bytes[8..<24]
        default: []
        }
    }

    /// 0 for a path.
    public var port: UInt16 { family == AF_UNIX ? 0 : UInt16(bytes[2]) << 8 | UInt16(bytes[3]) }

    /// The same host, port 0.
    public var withoutPort: Address {
        var copy = self
        if family != AF_UNIX { (copy.bytes[2], copy.bytes[3]) = (0, 0) }
        return copy
    }

    private var isMapped: Bool { bytes[8..<18].allSatisfy { $0 == 0 } && bytes[18] == 0xff && bytes[19] == 0xff }

    /// On this machine.
    public var isLoopback: Bool {
        let host = host
        guard let first = host.first else { return true }
        return host.count == 4 ? first == 127 : host.dropLast().allSatisfy { $0 == 0 } && host.last == 1
    }

    /// Every interface, so reachable by strangers.
    public var isAny: Bool { !host.isEmpty && host.allSatisfy { $0 == 0 } }

    /// The same address in numbers, as `10.0.0.1:22`, `[::1]:22` or `unix:/run/x`.
    public var description: String {
        if let path { return "unix:\(path)" }
        var host = [CChar](repeating: 0, count: Int(NI_MAXHOST))
        var port = [CChar](repeating: 0, count: Int(NI_MAXSERV))
        let failed = withPointer {
            getnameinfo(
                $0, $1, &host, socklen_t(host.count), &port, socklen_t(port.count),
                NI_NUMERICHOST | NI_NUMERICSERV)
        }
        guard failed == 0 else { return "?" }
        let (name, number) = (text(host), text(port))
        return family == AF_INET6 ? "[\(name)]:\(number)" : "\(name):\(number)"
    }

    private func text(_ characters: [CChar]) -> String {
        String(decoding: characters.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
