import Testing
import Wire

/// The rules for any frame: types, lengths, fields (docs/protocol.md §3).
struct FrameRuleTests {
    let brink = Brink()

    // MARK: Types

    /// protocol 3.3, 3.8
    @Test func unknownOptionalFramesArePassedOver() {
        for type in UInt8.min...UInt8.max where type & FrameType.optional != 0 {
            for count in [0, 1, 63, 64, 1024] {
                let bytes = frame(type, [UInt8](repeating: 0xff, count: count))
                let outcome = Outcome.value(Frame.unknown(sequenced: type & 0x40 != 0), byteCount: bytes.count)
                #expect(brink.frame(bytes) == outcome, "type \(type), body of \(count)")
                #expect(brink.frame(bytes.dropLast()) == .incomplete, "type \(type), body of \(count)")
            }
        }
    }

    /// protocol 3.9
    @Test func unknownMandatoryFramesAreRefused() {
        for type in UInt8.min..<0x80 where !knownTypes.contains(type) {
            for count in [0, 1, 64, 1024] {
                let bytes = frame(type, [UInt8](repeating: 0, count: count))
                #expect(brink.frame(bytes) == .fault("a frame of an unknown mandatory type"), "type \(type)")
            }
        }
    }

    // MARK: Lengths

    /// protocol 3.6
    @Test func aControlFrameHasAtMost1024BytesJudgedBeforeTheyCome() {
        let tooLong = "a control frame is longer than 1 KiB"
        for type in UInt8.min...UInt8.max where type != FrameType.data {
            #expect(brink.frame([type] + varint(1024, in: 2)) == .incomplete, "type \(type)")
            #expect(brink.frame([type] + varint(1025, in: 2)) == .fault(tooLong), "type \(type)")
            #expect(brink.frame([type] + varint(1025, in: 4)) == .fault(tooLong), "type \(type)")
            #expect(brink.frame([type] + varint(Varint.maximum, in: 8)) == .fault(tooLong), "type \(type)")
        }
    }

    /// protocol 3.5
    @Test func dataHasAtMost1MiBJudgedBeforeItComes() {
        let longest = [0x42] + varint(1 << 20, in: 4)
        #expect(brink.frame(longest) == .incomplete)
        #expect(
            brink.frame(longest + [0x00])
                == .value(.data(stream: 0, payloadByteCount: (1 << 20) - 1), byteCount: 6))
        #expect(
            brink.frame(longest + varint(Varint.maximum, in: 8))
                == .value(.data(stream: Varint.maximum, payloadByteCount: (1 << 20) - 8), byteCount: 13))
        for length in [varint((1 << 20) + 1, in: 4), varint(Varint.maximum, in: 8)] {
            #expect(brink.frame([0x42] + length) == .fault("DATA is longer than 1 MiB"))
        }
    }

    /// protocol 3.5
    @Test func dataCarriesAtLeastOneByte() {
        #expect(brink.frame([0x42, 0x00]) == .fault("DATA is too short for its stream"))
        #expect(brink.frame([0x42, 0x00, 0x00]) == .fault("DATA carries no bytes"))
        for size in [1, 2, 4, 8] {
            let stream = varint(4, in: size)
            #expect(brink.frame([0x42, UInt8(size)] + stream) == .fault("DATA carries no bytes"))
            #expect(
                brink.frame([0x42, UInt8(size + 1)] + stream)
                    == .value(.data(stream: 4, payloadByteCount: 1), byteCount: 2 + size))
            for length in 1..<size {
                let short = [0x42, UInt8(length)] + stream
                #expect(brink.frame(short) == .fault("DATA carries no bytes"))
                #expect(brink.frame(short.prefix(2 + length)) == .fault("DATA is too short for its stream"))
            }
        }
    }

    /// protocol 3.2
    @Test func lengthsAndFieldsMayTakeMoreBytesThanTheyNeed() {
        for length in [1, 2, 4, 8] {
            for field in [1, 2, 4, 8] {
                let body = varint(5, in: field)
                let bytes = frame(FrameType.ping, body, length: varint(UInt64(field), in: length))
                #expect(brink.frame(bytes) == .value(.ping(token: 5), byteCount: 1 + length + field))
            }
        }
        let longest = frame(0x80, [UInt8](repeating: 0, count: 1024), length: varint(1024, in: 8))
        #expect(brink.frame(longest) == .value(.unknown(sequenced: false), byteCount: 1 + 8 + 1024))
    }

    // MARK: Fields

    /// Type, number of fields: frames whose body is so many varints and nothing else.
    static let fixed: [(UInt8, Int)] = [(0x01, 2), (0x02, 1), (0x03, 1), (0x41, 4), (0x43, 2), (0x44, 2), (0x45, 2)]

    /// protocol 3.7
    @Test func aBodyEndsWithItsLastField() {
        for (type, fields) in FrameRuleTests.fixed {
            for size in [1, 2, 4, 8] {
                let body = (0..<fields).flatMap { varint(UInt64($0), in: size) }
                for count in 0..<body.count {
                    #expect(brink.frame(frame(type, Array(body.prefix(count)))) == .fault("a frame ends inside a field"))
                }
                for more in [1, 8, 100] {
                    let long = frame(type, body + [UInt8](repeating: 0, count: more))
                    #expect(brink.frame(long) == .fault("a frame is longer than its fields"))
                }
                guard case .value(let decoded, let count) = brink.frame(frame(type, body)) else {
                    Issue.record("type \(type), fields of \(size)")
                    continue
                }
                #expect(count == 2 + body.count)
                #expect(encoded(decoded) == frame(type, (0..<fields).map { UInt8($0) }), "fields stand in order")
            }
        }
    }

    /// protocol 4.3, 11.1
    @Test func closeAndRefuseNeedTheirNumbers() {
        #expect(brink.frame(frame(FrameType.close, [])) == .fault("a frame ends inside a field"))
        #expect(brink.frame(frame(FrameType.close, [0x40])) == .fault("a frame ends inside a field"))
        for body in [[], [0x02], [0x02, 0x40], [0x80, 0x00, 0x00]] as [[UInt8]] {
            #expect(brink.frame(frame(FrameType.refuse, body)) == .fault("REFUSE ends inside a field"))
        }
    }

    /// protocol 3.13, 3.14
    @Test func codesThatNobodyKnowsAreKept() {
        #expect(
            brink.frame(frame(FrameType.reset, [0x04] + varint(Varint.maximum, in: 8)))
                == .value(.reset(stream: 4, code: ResetCode(rawValue: Varint.maximum)), byteCount: 11))
        #expect(
            brink.frame(frame(FrameType.close, varint(99, in: 2)))
                == .value(.close(code: CloseCode(rawValue: 99), reason: ""), byteCount: 4))
    }

    // MARK: Reasons

    /// protocol 3.12, 12.8
    @Test func aReasonIsMadeHarmless() {
        for byte in UInt8.min...UInt8.max {
            let isPrintable = byte >= 0x20 && byte <= 0x7e
            let text = isPrintable ? String(Unicode.Scalar(byte)) : "?"
            #expect(
                brink.frame(frame(FrameType.close, [0x00, byte]))
                    == .value(.close(code: .done, reason: text), byteCount: 4))
            #expect(
                brink.frame(frame(FrameType.refuse, [0x02, 0x07, byte]))
                    == .value(.refuse(Refusal(code: .sessionUnknown, attempt: 7, reason: text)), byteCount: 5))
        }
    }

    /// protocol 3.12
    @Test func aReasonHas256Bytes() {
        for count in [255, 256, 257, 1023] {
            let bytes = frame(FrameType.close, [0x00] + [UInt8](repeating: 0x61, count: count))
            let kept = String(repeating: "a", count: min(count, 256))
            #expect(brink.frame(bytes) == .value(.close(code: .done, reason: kept), byteCount: bytes.count))
            #expect(
                encoded(.close(code: .done, reason: String(repeating: "a", count: count)))?.count
                    == 1 + 2 + 1 + kept.utf8.count)
            let refusal = Refusal(code: .done, attempt: 0, reason: String(repeating: "a", count: count))
            #expect(encoded(.refuse(refusal))?.count == 1 + 2 + 2 + kept.utf8.count)
        }
        // Cut between bytes, not between characters: the reader takes bytes for what they are.
        #expect(encoded(.close(code: .done, reason: "é")) == [0x04, 0x03, 0x00, 0xc3, 0xa9])
        #expect(
            brink.frame([0x04, 0x03, 0x00, 0xc3, 0xa9])
                == .value(.close(code: .done, reason: "??"), byteCount: 5))
    }
}
