/// Writes into memory that the caller sized by this specification's limits; running over its end is our own fault
/// and traps.
public struct ByteWriter {
    @usableFromInline let bytes: UnsafeMutableRawBufferPointer
    /// Bytes written.
    public private(set) var count = 0

    public init(_ bytes: UnsafeMutableRawBufferPointer) {
        self.bytes = bytes
    }

    public mutating func append(_ byte: UInt8) {
        precondition(count < bytes.count, "frame buffer too small")
        bytes[count] = byte
        count += 1
    }

    public mutating func append(varint value: UInt64) {
        precondition(value <= Varint.maximum, "varint out of range")
        switch Varint.byteCount(value) {
        case 1: append(UInt8(value))
        case 2: append(integer: UInt16(value) | 0x4000)
        case 4: append(integer: UInt32(value) | 0x8000_0000)
        default: append(integer: value | 0xc000_0000_0000_0000)
        }
    }

    /// Big-endian.
    public mutating func append<Integer: FixedWidthInteger>(integer value: Integer) {
        let size = MemoryLayout<Integer>.size
        precondition(bytes.count - count >= size, "frame buffer too small")
        bytes.storeBytes(of: value.bigEndian, toByteOffset: count, as: Integer.self)
        count += size
    }

    public mutating func append(contentsOf source: some Collection<UInt8>) {
        for byte in source { append(byte) }
    }
}
