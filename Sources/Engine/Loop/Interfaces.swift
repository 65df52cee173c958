import CSystem
import Glibc

/// A network interface of this host from which an address can be reached.
public struct Interface: Hashable, Sendable {
    /// Its number, as long as it exists (if_nametoindex(3)).
    public let index: UInt32
    /// The local address of what leaves through it.
    public let source: Address

    /// The interfaces from which `address` can be reached, the one that the routes choose first; loopback never. `names`: only these, in this
    /// order; empty: all, but none beside a tunnel, because what a VPN's route covers shall not leave past it.
    public static func reaching(_ address: Address, names: [String] = []) -> [Interface] {
        guard !address.isLoopback, address.path == nil else { return [] }
        guard names.isEmpty else {
            return names.compactMap { name in
                let index = if_nametoindex(name)
                return index == 0 ? nil : Socket.source(to: address, through: index).map { Interface(index: index, source: $0) }
            }
        }
        guard let usual = Socket.source(to: address) else { return [] }
        let there = all(address.family)
        var found: [Interface] = []
        for interface in there {
            guard let source = Socket.source(to: address, through: interface.index) else { continue }
            if source == usual, interface.is_tunnel != 0 { return [Interface(index: interface.index, source: source)] }
            found.append(Interface(index: interface.index, source: source))
        }
        return found.filter { $0.source == usual } + found.filter { $0.source != usual }
    }

    /// More are not looked at: a host with so many has them for containers.
    private static let maximum = 32

    private static func all(_ family: Int32) -> [system_interface] {
        [system_interface](unsafeUninitializedCapacity: maximum) { buffer, count in
            count = system_interfaces(family, buffer.baseAddress, maximum)
        }
    }

    /// As people know it. Empty: it is gone.
    public static func name(_ index: UInt32) -> String {
        var text = [CChar](repeating: 0, count: Int(IF_NAMESIZE))
        guard if_indextoname(index, &text) != nil else { return "" }
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
