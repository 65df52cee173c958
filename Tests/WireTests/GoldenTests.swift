import Testing
import Wire

/// Each message against the bytes of the document, both ways.
struct GoldenTests {
    let brink = Brink()

    /// protocol 3.1, 13.1
    @Test func framesAreWrittenAsTheDocumentShows() {
        for golden in goldenAll {
            if let bytes = encoded(golden.message) { #expect(bytes == golden.bytes, "\(golden.number)") }
        }
    }

    /// protocol 1.4, 3.1
    @Test func framesAreReadAsTheDocumentShows() {
        for golden in goldenAll {
            let outcome = Outcome.value(golden.message, byteCount: golden.bytes.count)
            #expect(brink.frame(golden.bytes) == outcome, "\(golden.number)")
            #expect(brink.frame(golden.bytes + [0xff, 0x00, 0x42]) == outcome, "\(golden.number), with bytes behind it")
        }
    }

    /// protocol 3.11, 4.1
    @Test func helloIsWrittenAndReadAsTheDocumentShows() {
        for golden in goldenHellos {
            #expect(encoded(golden.message) == golden.bytes, "\(golden.number)")
            let outcome = Outcome.value(golden.message, byteCount: golden.bytes.count)
            #expect(brink.hello(golden.bytes) == outcome, "\(golden.number)")
            #expect(brink.hello(golden.bytes + [0x41]) == outcome, "\(golden.number), with an early byte behind it")
        }
    }

    /// protocol 4.8
    @Test func aProofStandsLast() {
        #expect(Hello.leastByteCount == 92 && Hello.provenByteCount == 60)
        #expect(Welcome.leastByteCount == 128 && Welcome.provenByteCount == 96)
        for golden in goldenHellos { #expect(golden.bytes.count == Hello.leastByteCount) }
        for golden in goldenAnswers {
            guard case .welcome = golden.message else { continue }
            #expect(golden.bytes.count == Welcome.leastByteCount)
        }
    }

    @Test func aTruncatedMessageWaitsForMore() {
        for golden in goldenAll {
            for count in 0..<golden.bytes.count {
                #expect(brink.frame(golden.bytes.prefix(count)) == .incomplete, "\(golden.number), \(count) bytes")
            }
        }
        for golden in goldenHellos {
            for count in 0..<golden.bytes.count {
                #expect(brink.hello(golden.bytes.prefix(count)) == .incomplete, "\(golden.number), \(count) bytes")
            }
        }
    }

    /// protocol 3.3
    @Test func whetherAFrameCountsInTheSequenceIsABitOfItsType() {
        for golden in goldenAll {
            #expect(golden.message.isSequenced == (golden.bytes[0] & FrameType.sequenced != 0), "\(golden.number)")
        }
    }

    /// Every frame but the unknown ones has golden bytes; a new frame without any fails here.
    /// protocol 3.4
    @Test func everyTypeIsShown() {
        let shown = Set(goldenAll.map { $0.bytes[0] })
        #expect(shown.subtracting([0xa0, 0xe0]) == Set(knownTypes))
    }
}

let knownTypes: [UInt8] = [0x01, 0x02, 0x03, 0x04, 0x05, 0x11, 0x12, 0x41, 0x42, 0x43, 0x44, 0x45]
