/// Where the mapping of a local socket stands in this process: among the listeners, where its user was accepted, or among the origins, where
/// its connection was dialled. It keeps its number for as long as a socket names it.
struct MappingPlace: Hashable {
    private static let originBit: UInt16 = 0x8000
    /// Places of each kind.
    static let countMaximum = 1 << 15

    let rawValue: UInt16

    init(rawValue: UInt16) { self.rawValue = rawValue }

    static func listener(_ index: Int) -> MappingPlace { MappingPlace(rawValue: UInt16(index)) }
    static func origin(_ index: Int) -> MappingPlace { MappingPlace(rawValue: UInt16(index) | originBit) }

    var isOrigin: Bool { rawValue & MappingPlace.originBit != 0 }
    /// Among those of its kind.
    var index: Int { Int(rawValue & ~MappingPlace.originBit) }
    /// A small number where few places of either kind are in use.
    var dense: Int { 2 * index + (isOrigin ? 1 : 0) }

    init(dense: Int) { self = dense & 1 == 1 ? .origin(dense >> 1) : .listener(dense >> 1) }
}
