import Testing
import Wire

/// HELLO and WELCOME: what a stranger may send, and what not (docs/protocol.md §4).
struct HandshakeTests {
    let brink = Brink()

    /// A HELLO whose eight-byte field at `offset` says `value`.
    private func hello(_ value: UInt64, at offset: Int) -> [UInt8] {
        var bytes = goldenHellos[1].bytes
        for index in 0..<8 { bytes[offset + index] = UInt8(truncatingIfNeeded: value >> (8 * (7 - index))) }
        return bytes
    }

    /// protocol 2.4
    @Test func aStrangerIsKnownByItsFirstWrongByte() {
        let golden = goldenHellos[0].bytes
        for index in 0..<4 {
            for wrong in UInt8.min...UInt8.max where wrong != golden[index] {
                var bytes = golden
                bytes[index] = wrong
                for count in 0...index { #expect(brink.hello(bytes.prefix(count)) == .incomplete) }
                for count in (index + 1)...bytes.count {
                    #expect(brink.hello(bytes.prefix(count)) == .fault("the peer does not speak tele"))
                }
            }
        }
    }

    /// protocol 2.4
    @Test(arguments: ["GET / HTTP/1.1\r\n", "SSH-2.0-OpenSSH_9.2\r\n", "\u{16}\u{03}\u{01}", "tele", "T\n"])
    func otherProtocolsAreStrangers(_ words: String) {
        #expect(brink.hello(words.utf8) == .fault("the peer does not speak tele"))
    }

    /// protocol 2.5
    @Test func theLengthIsJudgedBeforeTheBodyComes() {
        for length in [0, 1, 83, 1025, 0xffff] {
            let preface = bytes("54 45 4c 45 01 01") + [UInt8(length >> 8), UInt8(length & 0xff)]
            #expect(brink.hello(preface) == .fault("HELLO has an impossible length"), "\(length)")
        }
        #expect(brink.hello(bytes("54 45 4c 45 01 01 00 54")) == .incomplete)
        #expect(brink.hello(bytes("54 45 4c 45 01 01 04 00")) == .incomplete)
    }

    /// protocol 2.7
    @Test func parametersOfLaterVersionsArePassedOver() {
        for more in [1, 64, 940] {
            let bytes = hello(with: [0] + [UInt8](repeating: 0xee, count: more - 1))
            #expect(brink.hello(bytes) == .value(goldenHellos[1].message, byteCount: 92 + more))
            #expect(brink.hello(bytes.dropLast()) == .incomplete)
        }
        guard case .welcome(var welcome) = goldenAnswers[1].message else {
            Issue.record("no WELCOME")
            return
        }
        (welcome.server, welcome.holdSeconds, welcome.subflows) = (goldenServer, 7, 5)
        for more in [0, 1, 64, 877] {
            let body = Array(goldenAnswers[1].bytes[3...]) + [0] + goldenServerBytes + [0, 0, 0, 7, 5] + [UInt8](repeating: 0xee, count: more)
            #expect(brink.frame(frame(FrameType.welcome, body)) == .value(.welcome(welcome), byteCount: 150 + more))
        }
    }

    /// A HELLO with more bytes behind its proof.
    private func hello(with more: [UInt8]) -> [UInt8] {
        var bytes = goldenHellos[1].bytes
        let length = 84 + more.count
        bytes[6] = UInt8(length >> 8)
        bytes[7] = UInt8(length & 0xff)
        return bytes + more
    }

    /// protocol 4.1, 4.2, 4.23
    @Test func originsStandBehindTheProof() {
        let one: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 5]
        for count in [1, 2, Specification.clientOriginsMaximum] {
            var expected = goldenHellos[1].message
            expected.origins = [UInt64](repeating: 5, count: count)
            let bytes = hello(with: [UInt8(count)] + (0..<count).flatMap { _ in one })
            #expect(brink.hello(bytes) == .value(expected, byteCount: 93 + 8 * count))
            #expect(expected.byteCount == bytes.count && encoded(expected) == bytes)
            #expect(brink.hello(hello(with: bytes[92...] + [9, 9])) == .value(expected, byteCount: 95 + 8 * count), "and a later version's bytes")
        }
        let tooMany = Specification.clientOriginsMaximum + 1
        let wrongs: [[UInt8]] = [[1], [1] + one.dropLast(), [2] + one, [UInt8(tooMany)] + (0..<tooMany).flatMap { _ in one }]
        for wrong in wrongs {
            #expect(brink.hello(hello(with: wrong)) == .fault("HELLO names more origins than it holds"))
        }
        #expect(brink.hello(hello(with: [1, 0x40] + one.dropFirst())) == .fault("HELLO names an impossible origin"))
    }

    /// protocol 4.2, 4.23
    @Test func answersStandBehindTheProof() {
        guard case .welcome(var welcome) = goldenAnswers[1].message else {
            Issue.record("no WELCOME")
            return
        }
        welcome.answers = [.served, .unknown, .forbidden, .unknown]
        let body = Array(goldenAnswers[1].bytes[3...]) + [4, 0, 1, 2, 77]
        #expect(brink.frame(frame(FrameType.welcome, body)) == .value(.welcome(welcome), byteCount: 133))
        #expect(brink.frame(frame(FrameType.welcome, body.dropLast())) == .fault("WELCOME ends inside a field"))
    }

    /// protocol 4.2, 4.24
    @Test func aServerStandsBehindTheAnswers() {
        guard case .welcome(var welcome) = goldenAnswers[1].message else {
            Issue.record("no WELCOME")
            return
        }
        let plain = Array(goldenAnswers[1].bytes[3...])
        for answers in [[], [.served, .forbidden]] as [[Welcome.OriginAnswer]] {
            (welcome.answers, welcome.server, welcome.holdSeconds) = (answers, goldenServer, 604_800)
            let body = plain + [UInt8(answers.count)] + answers.map(\.rawValue) + goldenServerBytes + bytes("00 09 3a 80")
            #expect(encoded(.welcome(welcome)) == frame(FrameType.welcome, body))
            #expect(brink.frame(frame(FrameType.welcome, body)) == .value(.welcome(welcome), byteCount: 3 + body.count))
            // A server that is older says less.
            (welcome.server, welcome.holdSeconds) = (nil, 0)
            for count in [0, 15, 16, 19] {
                let short = plain + [UInt8(answers.count)] + answers.map(\.rawValue) + (goldenServerBytes + [0, 0, 0]).prefix(count)
                #expect(brink.frame(frame(FrameType.welcome, short)) == .value(.welcome(welcome), byteCount: 3 + short.count))
            }
        }
    }

    /// protocol 4.3, 4.24
    @Test func aServerStandsBehindTheReason() {
        for reason in ["", "unknown session"] {
            let refusal = Refusal(code: .sessionUnknown, attempt: 7, reason: reason, server: goldenServer)
            let body: [UInt8] = [2, 7] + reason.utf8 + [0] + goldenServerBytes
            #expect(encoded(.refuse(refusal)) == frame(FrameType.refuse, body))
            #expect(brink.frame(frame(FrameType.refuse, body)) == .value(.refuse(refusal), byteCount: 2 + body.count))
            let later = body + [1, 0, 2]
            #expect(brink.frame(frame(FrameType.refuse, later)) == .value(.refuse(refusal), byteCount: 2 + later.count))
        }
        // A zero byte with less behind it is one of the reason's.
        #expect(
            brink.frame(frame(FrameType.refuse, [2, 7, 0x61, 0] + goldenServerBytes.dropLast()))
                == .value(.refuse(Refusal(code: .sessionUnknown, attempt: 7, reason: "a????????????????")), byteCount: 21))
    }

    /// protocol 2.3
    @Test func aVersionRangeIsNotEmpty() {
        var bytes = goldenHellos[0].bytes
        for (minimum, maximum) in [(2, 1), (255, 0)] as [(UInt8, UInt8)] {
            (bytes[4], bytes[5]) = (minimum, maximum)
            #expect(brink.hello(bytes) == .fault("HELLO has an empty version range"))
            #expect(brink.hello(bytes.prefix(8)) == .fault("HELLO has an empty version range"))
        }
        for (minimum, maximum) in [(0, 0), (0, 255), (2, 3), (255, 255)] as [(UInt8, UInt8)] {
            (bytes[4], bytes[5]) = (minimum, maximum)
            var expected = goldenHellos[0].message
            (expected.versionMinimum, expected.versionMaximum) = (minimum, maximum)
            #expect(brink.hello(bytes) == .value(expected, byteCount: 92), "another version's HELLO has this layout too")
        }
    }

    /// Attempt, received, replay and the data limit stand at these offsets.
    /// protocol 5.11
    @Test(arguments: [24, 32, 40, 52])
    func offsetsOfHelloStayBelow2To62(_ offset: Int) {
        guard case .value(let hello, 92) = brink.hello(hello(Varint.maximum, at: offset)) else {
            Issue.record("the largest value is refused")
            return
        }
        let fields = [24: hello.attempt, 32: hello.received, 40: hello.replay, 52: hello.dataLimit]
        #expect(fields[offset] == Varint.maximum)
        for value in [Varint.maximum + 1, 1 << 63, .max] as [UInt64] {
            #expect(brink.hello(self.hello(value, at: offset)) == .fault("HELLO names an impossible offset"))
        }
    }

    /// protocol 4.14
    @Test func earlyBytesAreLimited() {
        var bytes = goldenHellos[1].bytes
        bytes.replaceSubrange(48..<52, with: [0x00, 0x01, 0x00, 0x00])
        guard case .value(let hello, 92) = brink.hello(bytes) else {
            Issue.record("64 KiB are refused")
            return
        }
        #expect(hello.earlyByteCount == 65_536)
        for early in [[0x00, 0x01, 0x00, 0x01], [0xff, 0xff, 0xff, 0xff]] as [[UInt8]] {
            bytes.replaceSubrange(48..<52, with: early)
            #expect(brink.hello(bytes) == .fault("HELLO names an impossible offset"))
        }
    }

    /// protocol 4.2
    @Test func welcomeIsWhole() {
        for golden in goldenAnswers.prefix(2) {
            let body = Array(golden.bytes[3...])
            for count in 0..<125 {
                #expect(
                    brink.frame(frame(FrameType.welcome, Array(body.prefix(count))))
                        == .fault("WELCOME ends inside a field"), "\(count)")
            }
        }
    }

    /// Received and the data limit stand at these offsets of the frame.
    /// protocol 5.11
    @Test(arguments: [64, 72])
    func offsetsOfWelcomeStayBelow2To62(_ offset: Int) {
        var bytes = goldenAnswers[1].bytes
        bytes.replaceSubrange(offset..<(offset + 8), with: [0x3f] + [UInt8](repeating: 0xff, count: 7))
        guard case .value(.welcome(let welcome), 128) = brink.frame(bytes) else {
            Issue.record("the largest value is refused")
            return
        }
        #expect((offset == 64 ? welcome.received : welcome.dataLimit) == Varint.maximum)
        for first in [0x40, 0x80, 0xff] as [UInt8] {
            bytes[offset] = first
            #expect(brink.frame(bytes) == .fault("WELCOME names an impossible offset"))
        }
    }

    /// protocol 4.9
    @Test func everyBitOfAProofCounts() {
        let words = goldenSecret.words
        let proof = MAC(words.0, words.1, words.2, words.3)
        #expect(proof == MAC(words.0, words.1, words.2, words.3))
        for bit in 0..<256 {
            var other = proof
            let mask: UInt64 = 1 << (bit % 64)
            switch bit / 64 {
            case 0: other.words.0 ^= mask
            case 1: other.words.1 ^= mask
            case 2: other.words.2 ^= mask
            default: other.words.3 ^= mask
            }
            #expect(other != proof, "bit \(bit)")
        }
    }
}
