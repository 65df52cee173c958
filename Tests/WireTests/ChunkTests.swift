import Testing
import Wire

/// The header of a chunk, and SUBFLOWS.
struct ChunkTests {
    private func decoded(_ bytes: [UInt8]) throws(ProtocolFault) -> ChunkHeader? { try ChunkHeader.decode(bytes.span.bytes) }

    /// protocol 4.29
    @Test func theHeaderIsTwelveBytes() throws {
        let header = ChunkHeader(offset: 0x0102_0304_0506_0708, byteCount: 0xabcd)
        let encoded = written { header.encode(into: &$0) }
        #expect(encoded == bytes("01 02 03 04 05 06 07 08 00 00 ab cd") && encoded.count == ChunkHeader.encodedByteCount)
        #expect(try decoded(encoded) == header)
        #expect(try decoded(encoded + [7, 7]) == header, "its bytes follow")
        for count in 0..<12 { #expect(try decoded(Array(encoded[..<count])) == nil) }
    }

    /// protocol 4.29
    @Test func lengthsAndOffsetsAreJudged() throws {
        func fault(_ text: String) -> String? {
            do throws(ProtocolFault) {
                _ = try decoded(bytes(text))
                return nil
            } catch { return error.rule.description }
        }
        #expect(fault("00 00 00 00 00 00 00 00 00 00 00 00") == "a chunk has an impossible length")
        #expect(fault("00 00 00 00 00 00 00 00 00 01 00 00") == nil)
        #expect(fault("00 00 00 00 00 00 00 00 00 01 00 01") == "a chunk has an impossible length")
        #expect(fault("3f ff ff ff ff ff ff fe 00 00 00 01") == nil)
        #expect(fault("3f ff ff ff ff ff ff ff 00 00 00 01") == "a chunk has an impossible offset")
        #expect(fault("ff ff ff ff ff ff ff ff 00 00 00 01") == "a chunk has an impossible offset")
    }

    /// protocol 4.2, 4.28
    @Test func welcomeSaysHowManySubflowsThereMayBe() {
        guard case .welcome(var welcome) = goldenAnswers[1].message else {
            Issue.record("no WELCOME")
            return
        }
        (welcome.server, welcome.holdSeconds) = (goldenServer, 7)
        let old = Array(goldenAnswers[1].bytes[3...]) + [0] + goldenServerBytes + [0, 0, 0, 7]
        let brink = Brink()
        #expect(brink.frame(frame(FrameType.welcome, old)) == .value(.welcome(welcome), byteCount: 149), "an older server says nothing of them")
        welcome.subflows = 8
        #expect(brink.frame(frame(FrameType.welcome, old + [8])) == .value(.welcome(welcome), byteCount: 150))
        #expect(encoded(.welcome(welcome)) == frame(FrameType.welcome, old + [8]))
    }
}
