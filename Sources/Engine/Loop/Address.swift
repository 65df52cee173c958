import Glibc

/// A resolved IPv4 or IPv6 address with a port.
public struct Address: Equatable, Hashable, Sendable, CustomStringConvertible {
    /// sockaddr_in or sockaddr_in6, as the kernel takes it.
    private var storage: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    public let length: socklen_t

    /// Nil when the family is neither.
    public init?(_ pointer: UnsafePointer<sockaddr>, _ length: socklen_t) {
        let family = Int32(pointer.pointee.sa_family)
        let needed = family == AF_INET ? MemoryLayout<sockaddr_in>.size : MemoryLayout<sockaddr_in6>.size
        guard family == AF_INET || family == AF_INET6, Int(length) >= needed else { return nil }
        self.length = socklen_t(needed)
        withUnsafeMutableBytes(of: &storage) { $0.copyMemory(from: UnsafeRawBufferPointer(start: pointer, count: needed)) }
    }

    public static func == (left: Address, right: Address) -> Bool {
        left.length == right.length && left.storage == right.storage
    }

    public func hash(into hasher: inout Hasher) {
        hasher.combine(storage.0)
        hasher.combine(storage.1)
        hasher.combine(storage.2)
        hasher.combine(storage.3)
    }

    public func withPointer<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
        withUnsafeBytes(of: storage) { body($0.baseAddress!.assumingMemoryBound(to: sockaddr.self), length) }
    }

    public var family: Int32 { withPointer { pointer, _ in Int32(pointer.pointee.sa_family) } }

    public var isLoopback: Bool {
        withUnsafeBytes(of: storage) { bytes in
            if family == AF_INET { return bytes[4] == 127 }
            let isMapped = bytes[8..<18].allSatisfy { $0 == 0 } && bytes[18] == 0xff && bytes[19] == 0xff
            return (isMapped && bytes[20] == 127) || (bytes[8..<23].allSatisfy { $0 == 0 } && bytes[23] == 1)
        }
    }

    /// Every interface, so reachable by strangers.
    public var isAny: Bool {
        withUnsafeBytes(of: storage) { bytes in
            family == AF_INET ? bytes[4..<8].allSatisfy { $0 == 0 } : bytes[8..<24].allSatisfy { $0 == 0 }
        }
    }

    /// The same address in numbers, as `10.0.0.1:22` or `[::1]:22`.
    public var description: String {
        var host = [CChar](repeating: 0, count: Int(NI_MAXHOST))
        var port = [CChar](repeating: 0, count: Int(NI_MAXSERV))
        let failed = withPointer {
            getnameinfo($0, $1, &host, socklen_t(host.count), &port, socklen_t(port.count),
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
