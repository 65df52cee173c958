/// Variable-length integers of 1, 2, 4 or 8 bytes for values below 2^62 (RFC 9000 §16).
public enum Varint {
    public static let maximum: UInt64 = (1 << 62) - 1
    public static let maximumByteCount = 8

    /// How many bytes `value` takes. `value` ≤ `maximum`.
    @inlinable
    public static func byteCount(_ value: UInt64) -> Int {
        if value < 1 << 6 { return 1 }
        if value < 1 << 14 { return 2 }
        if value < 1 << 30 { return 4 }
        return 8
    }
}

extension RawSpan {
    /// The byte at `offset`, or nil behind the end.
    @inlinable
    func byte(at offset: inout Int) -> UInt8? {
        guard offset < byteCount else { return nil }
        defer { offset += 1 }
        return unsafeLoad(fromByteOffset: offset, as: UInt8.self)
    }

    /// The integer at `offset`, which then stands behind it; nil when it is not all there.
    @inlinable
    func varint(at offset: inout Int) -> UInt64? {
        guard offset < byteCount else { return nil }
        let first = unsafeLoad(fromByteOffset: offset, as: UInt8.self)
        let count = 1 << Int(first >> 6)
        guard byteCount - offset >= count else { return nil }
        var value = UInt64(first & 0x3f)
        var index = 1
        while index < count {
            value = value << 8 | UInt64(unsafeLoad(fromByteOffset: offset + index, as: UInt8.self))
            index += 1
        }
        offset += count
        return value
    }

    /// A big-endian integer of fixed width, or nil when it is not all there.
    @inlinable
    func integer<Integer: FixedWidthInteger & BitwiseCopyable>(_ type: Integer.Type, at offset: inout Int) -> Integer? {
        guard byteCount - offset >= MemoryLayout<Integer>.size else { return nil }
        defer { offset += MemoryLayout<Integer>.size }
        return Integer(bigEndian: unsafeLoadUnaligned(fromByteOffset: offset, as: Integer.self))
    }
}
