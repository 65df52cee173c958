import Simulation
import Testing
import Wire

/// What a server that ships answers to a HELLO.
extension SimulationTests {
    private func hello(received: UInt64 = 0, version: UInt8 = 1) -> [UInt8] {
        var hello = Hello(identity: .none, attempt: 7, received: received, replay: 0, earlyByteCount: 0, dataLimit: 1 << 20)
        (hello.versionMinimum, hello.versionMaximum) = (version, version)
        return withUnsafeTemporaryAllocation(byteCount: Hello.leastByteCount, alignment: 8) { buffer in
            var writer = ByteWriter(buffer)
            hello.encode(into: &writer)
            return Array(buffer[..<writer.count])
        }
    }

    private func frame(_ answer: Simulation.Answer) throws -> (Frame, Int)? {
        try answer.bytes.withUnsafeBytes { bytes in try decodeFrame(bytes.bytes).map { ($0.frame, $0.byteCount) } }
    }

    /// protocol 4.3, 4.7, 4.21
    @Test func aRefusalIsTheLastThingThatAServerSays() throws {
        let simulation = try #require(Simulation())
        let answers = simulation.answers(to: [hello(received: 1), hello(version: 9)])
        for (answer, code) in zip(answers, [.protocolViolation, .versionUnsupported] as [CloseCode]) {
            let (frame, count) = try #require(try frame(answer))
            guard case .refuse(let refusal) = frame else {
                Issue.record("\(frame)")
                continue
            }
            #expect(refusal.code == code && refusal.attempt == 7)
            #expect(count == answer.bytes.count && answer.isClosed)
        }
    }

    /// protocol 4.4
    @Test func eachNewSessionHasAnIdentityAndASecretOfItsOwn() throws {
        let simulation = try #require(Simulation())
        let welcomes = try simulation.answers(to: [hello(), hello()]).map { answer in
            guard case .welcome(let welcome)? = try frame(answer)?.0 else { throw ProtocolFault("no WELCOME") }
            return welcome
        }
        #expect(welcomes.allSatisfy { $0.identity != .none && $0.secret != .zero && $0.attempt == 7 })
        #expect(welcomes[0].identity != welcomes[1].identity && welcomes[0].secret != welcomes[1].secret)
    }

    /// protocol 2.4
    @Test func aStrangerHearsNothing() throws {
        let simulation = try #require(Simulation())
        let answer = simulation.answers(to: [Array("GET / HTTP/1.1\r\n\r\n".utf8)])[0]
        #expect(answer.bytes.isEmpty && answer.isClosed)
    }
}
