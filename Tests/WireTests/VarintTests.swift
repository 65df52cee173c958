import Testing
import Wire

/// RFC 9000 §16 and its appendix A.1, seen through a PING, whose body is one varint.
struct VarintTests {
    let brink = Brink()

    /// protocol 3.2
    @Test func bordersTakeTheFewestBytes() {
        let borders: [(UInt64, [UInt8])] = [
            (0, [0x00]), (1, [0x01]), (62, [0x3e]), (63, [0x3f]),
            (64, [0x40, 0x40]), (65, [0x40, 0x41]), (16_382, [0x7f, 0xfe]), (16_383, [0x7f, 0xff]),
            (16_384, [0x80, 0x00, 0x40, 0x00]), (1_073_741_823, [0xbf, 0xff, 0xff, 0xff]),
            (1_073_741_824, [0xc0, 0x00, 0x00, 0x00, 0x40, 0x00, 0x00, 0x00]),
            (4_611_686_018_427_387_903, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            (37, [0x25]), (15_293, [0x7b, 0xbd]), (494_878_333, [0x9d, 0x7f, 0x3e, 0x7d]),
            (151_288_809_941_952_652, [0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]),
        ]
        for (value, bytes) in borders {
            #expect(Varint.byteCount(value) == bytes.count, "\(value)")
            #expect(written { $0.append(varint: value) } == bytes, "\(value)")
            #expect(
                brink.frame(frame(FrameType.ping, bytes))
                    == .value(.ping(token: value), byteCount: 2 + bytes.count), "\(value)")
            #expect(encoded(.ping(token: value)) == frame(FrameType.ping, bytes), "\(value)")
        }
        #expect(Varint.maximum == 4_611_686_018_427_387_903)
    }

    /// protocol 3.2
    @Test func longFormsMeanTheSame() {
        for value in [0, 37, 63] as [UInt64] {
            for size in [1, 2, 4, 8] {
                #expect(
                    brink.frame(frame(FrameType.ping, varint(value, in: size)))
                        == .value(.ping(token: value), byteCount: 2 + size))
            }
        }
        // RFC 9000 appendix A.1: 40 25 is 37, as 25 is.
        #expect(brink.frame([0x02, 0x02, 0x40, 0x25]) == .value(.ping(token: 37), byteCount: 4))
    }

    @Test func largerValuesAreOurOwnFault() async {
        await #expect(processExitsWith: .failure) {
            _ = written { $0.append(varint: Varint.maximum + 1) }
        }
    }

    @Test func aFrameBufferThatIsTooSmallIsOurOwnFault() async {
        await #expect(processExitsWith: .failure) {
            withUnsafeTemporaryAllocation(byteCount: 2, alignment: 8) { memory in
                var writer = ByteWriter(memory)
                writer.appendPing(token: 1)
            }
        }
        await #expect(processExitsWith: .failure) {
            withUnsafeTemporaryAllocation(byteCount: 5, alignment: 8) { memory in
                var writer = ByteWriter(memory)
                writer.appendPing(token: 1 << 20)
            }
        }
    }
}
