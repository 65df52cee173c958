/// What a completion belongs to: a kind of operation, an index into the owner's table, and the generation of that entry,
/// so that a late completion finds nobody.
public struct Token: Hashable, Sendable {
    public let rawValue: UInt64

    /// `generation` counts modulo 2^24.
    @inlinable
    public init(kind: UInt8, index: UInt32, generation: UInt32) {
        rawValue = UInt64(kind) << 56 | UInt64(generation & 0xff_ffff) << 32 | UInt64(index)
    }

    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public var kind: UInt8 { UInt8(rawValue >> 56) }
    @inlinable public var generation: UInt32 { UInt32(rawValue >> 32) & 0xff_ffff }
    @inlinable public var index: UInt32 { UInt32(truncatingIfNeeded: rawValue) }
}
