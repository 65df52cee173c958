import CTLS
import Foundation
import Testing

/// Two ends of a connection in memory; what one seals is carried to the other by hand.
final class Ends {
    let client: OpaquePointer
    let server: OpaquePointer
    private var toServer: [UInt8] = []
    private var toClient: [UInt8] = []

    init(_ clientContext: OpaquePointer, _ serverContext: OpaquePointer, host: String? = nil) {
        client = tls_channel_open(clientContext, host)!
        server = tls_channel_open(serverContext, nil)!
        tls_context_release(clientContext)
        tls_context_release(serverContext)
    }

    deinit {
        tls_channel_close(client)
        tls_channel_close(server)
    }

    /// True when both are content. `flip`: changes a bit of that byte of what the client sends.
    func shakeHands(flip: Int? = nil) -> Bool {
        var results: (Int32, Int32) = (0, 0)
        var sent = 0
        for _ in 0..<6 {
            if results.0 == 0 { results.0 = tls_handshake(client) }
            var flight = Ends.seal(client, [])
            if let flip, flip >= sent, flip < sent + flight.count { flight[flip - sent] ^= 4 }
            sent += flight.count
            toServer += flight
            if results.1 == 0 {
                feed(server, &toServer)
                results.1 = tls_handshake(server)
            }
            toClient += Ends.seal(server, [])
            if results.0 == 0 { feed(client, &toClient) }
            if results.0 < 0 || results.1 < 0 { return false }
        }
        return results == (1, 1)
    }

    /// The bytes stay where they are until the channel has taken them: it takes all of a flight.
    private func feed(_ channel: OpaquePointer, _ bytes: inout [UInt8]) {
        let copy = UnsafeMutablePointer<UInt8>.allocate(capacity: max(1, bytes.count))
        copy.update(from: bytes, count: bytes.count)
        tls_feed(channel, copy, bytes.count)
        kept.append(copy)
        bytes = []
    }

    private var kept: [UnsafeMutablePointer<UInt8>] = []

    static func seal(_ channel: OpaquePointer, _ plain: [UInt8]) -> [UInt8] { seal(channel, pieces: plain.isEmpty ? [] : [plain]) }

    static func seal(_ channel: OpaquePointer, pieces: [[UInt8]]) -> [UInt8] {
        var sealed = [UInt8](repeating: 0, count: 256 << 10)
        var taken = 0
        let vectors = pieces.map { piece in
            let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: piece.count, alignment: 1)
            copy.copyBytes(from: piece)
            return iovec(iov_base: copy.baseAddress, iov_len: piece.count)
        }
        defer { for vector in vectors { vector.iov_base.deallocate() } }
        let count = tls_seal(channel, vectors, vectors.count, &sealed, sealed.count, &taken)
        #expect(taken == pieces.reduce(0) { $0 + $1.count })
        return count < 0 ? [] : Array(sealed[..<count])
    }

    /// What the channel makes of ciphertext that comes in pieces of `step` bytes, when it has room for `room` plain bytes at a time.
    func open(_ channel: OpaquePointer, _ sealed: [UInt8], step: Int, room: Int) -> [UInt8]? {
        var plain: [UInt8] = []
        var block = [UInt8](repeating: 0, count: room)
        for begin in stride(from: 0, to: sealed.count, by: step) {
            var piece = Array(sealed[begin..<min(begin + step, sealed.count)])
            feed(channel, &piece)
            while true {
                let count = tls_open(channel, &block, room)
                guard count >= 0 else { return nil }
                guard count > 0 else { break }
                plain += block[..<count]
            }
            #expect(tls_fed(channel) == 0)
        }
        return plain
    }

    /// Nil: it failed.
    func open(_ channel: OpaquePointer, _ sealed: [UInt8]) -> [UInt8]? {
        var sealed = sealed
        feed(channel, &sealed)
        var room = [UInt8](repeating: 0, count: 300 << 10)
        let count = tls_open(channel, &room, room.count)
        return count < 0 ? nil : Array(room[..<count])
    }
}

@Suite struct ChannelTests {
    private func key(_ identity: String, _ byte: UInt8) -> tls_key {
        var key = tls_key()
        withUnsafeMutableBytes(of: &key.identity) { $0.copyBytes(from: identity.utf8) }
        withUnsafeMutableBytes(of: &key.key) { for index in $0.indices { $0[index] = byte &+ UInt8(index) } }
        return key
    }

    private func context(_ isServer: Bool, _ keys: [tls_key]) -> OpaquePointer {
        var why = [CChar](repeating: 0, count: 200)
        return tls_context_keys(isServer, keys, keys.count, &why, why.count)!
    }

    private func pair() -> Ends { Ends(context(false, [key("b", 2)]), context(true, [key("a", 1), key("b", 2)])) }

    @Test func theSameKeyOpensAndBothKnowWhoIsThere() {
        let ends = pair()
        #expect(ends.shakeHands())
        #expect(String(cString: tls_peer(ends.server)) == "b")
        #expect(String(cString: tls_peer(ends.client)) == "b")
        let bytes = (0..<200_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        #expect(ends.open(ends.server, Ends.seal(ends.client, bytes)) == bytes)
        #expect(ends.open(ends.client, Ends.seal(ends.server, bytes)) == bytes)
    }

    /// Whole records are sealed where they are, what lies in pieces is gathered: the bytes are the same.
    @Test func piecesOfAnyLengthArriveInOrder() {
        let record = Int(TLS_RECORD_BYTES)
        let lengths = [5, record, 0, record - 1, 1, record + 1, 3 * record, 2 * record + 7, 4, record]
        let ends = pair()
        #expect(ends.shakeHands())
        let pieces = lengths.enumerated().map { turn, length in (0..<length).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ turn) } }
        #expect(ends.open(ends.server, Ends.seal(ends.client, pieces: pieces)) == Array(pieces.joined()))
    }

    /// Records end where they end, whatever the network or the room for them makes of it.
    @Test func recordsArriveInPiecesOfAnySize() {
        let bytes = (0..<70_000).map { UInt8(truncatingIfNeeded: $0 &* 13 &+ $0 >> 8) }
        for (step, room) in [(1, 4096), (4, 1), (5, 16_384), (21, 100), (4096, 20_000), (16_406, 16_384), (16_407, 3), (70_000, 5000), (90_000, 1)] {
            let ends = pair()
            #expect(ends.shakeHands())
            #expect(ends.open(ends.server, Ends.seal(ends.client, bytes), step: step, room: room) == bytes, "\(step) and \(room)")
            #expect(ends.open(ends.client, Ends.seal(ends.server, bytes), step: step, room: room) == bytes, "\(step) and \(room)")
        }
    }

    /// An update is asked for in both directions: the side that is asked owes one.
    @Test func keysAreRenewedOnTheWay() {
        let ends = pair()
        #expect(ends.shakeHands())
        for turn in 0..<5 {
            let bytes = (0..<40_000).map { UInt8(truncatingIfNeeded: $0 &+ turn) }
            tls_renew_keys(turn % 2 == 0 ? ends.client : ends.server)
            if turn == 3 { tls_renew_keys(ends.client) }
            #expect(ends.open(ends.server, Ends.seal(ends.client, bytes), step: 1000, room: 1 << 14) == bytes)
            #expect((tls_owed(ends.server) > 0) == (turn % 2 == 0 || turn == 3))
            #expect(ends.open(ends.client, Ends.seal(ends.server, bytes), step: 7, room: 999) == bytes)
            #expect(tls_owed(ends.server) == 0)
            #expect(ends.open(ends.server, Ends.seal(ends.client, []), step: 50, room: 50) == [])
            #expect(tls_owed(ends.client) == 0)
        }
    }

    /// Each update costs as much as a record: a peer that sends nothing else is no peer.
    @Test func updatesInARowEnd() {
        let ends = pair()
        #expect(ends.shakeHands())
        func update() -> [UInt8] {
            tls_renew_keys(ends.client)
            return Ends.seal(ends.client, [])
        }
        for _ in 0..<3 {
            for _ in 0..<32 { #expect(ends.open(ends.server, update()) == []) }
            #expect(ends.open(ends.server, Ends.seal(ends.client, [1])) == [1])
        }
        for _ in 0..<32 { #expect(ends.open(ends.server, update()) == []) }
        #expect(ends.open(ends.server, update()) == nil)
    }

    @Test func anIdleChannelGivesItsKeysBackAndMakesThemAgain() {
        let ends = pair()
        #expect(ends.shakeHands())
        for keeps in [true, false, true] {
            tls_keep_buffers(ends.client, keeps)
            tls_keep_buffers(ends.server, !keeps)
            for _ in 0..<3 { #expect(ends.open(ends.server, Ends.seal(ends.client, [1, 2, 3])) == [1, 2, 3]) }
        }
    }

    /// A record again, a record left out, two in the wrong order: each has a number that only its place has.
    @Test func recordsHaveTheirPlace() {
        for order in [[0, 0], [1], [1, 0], [0, 2]] {
            let ends = pair()
            #expect(ends.shakeHands())
            let records = (0..<3).map { Ends.seal(ends.client, [UInt8($0)]) }
            let opened = ends.open(ends.server, order.flatMap { records[$0] }, step: 1, room: 10)
            #expect(opened == nil, "\(order)")
            var room: [UInt8] = [0]
            #expect(tls_open(ends.server, &room, 1) == -1, "what has failed stays so")
        }
    }

    @Test func whatIsNoRecordIsRefusedAtOnce() {
        let headers: [[UInt8]] = [
            [22, 3, 3, 0, 40], [20, 3, 3, 0, 1, 1], [23, 3, 3, 0, 16], [23, 3, 3, 0, 0], [23, 3, 3, 0x41, 1], Array("GET / HTTP/1.1".utf8),
        ]
        for header in headers {
            let ends = pair()
            #expect(ends.shakeHands())
            #expect(ends.open(ends.server, header) == nil, "\(header)")
        }
        let ends = pair()
        #expect(ends.shakeHands())
        #expect(ends.open(ends.server, [23, 3, 3, 0x41, 0]) == [], "the longest record")
    }

    /// Two libraries, one cipher. A processor without vectors has OpenSSL's alone.
    @Test(.enabled(if: tls_has_vectors())) func bothLibrariesSealAlike() {
        let record = Int(TLS_RECORD_BYTES)
        for count in Array(0...1100) + stride(from: 1101, to: record, by: 97) + Array(record - 40...record + 64) {
            #expect(tls_vectors_agree(count), "\(count) bytes")
        }
        #expect(!tls_vectors_agree(record + 65))
    }

    @Test func aWrongKeyAndAnUnknownNameFailAlike() {
        let wrong = Ends(context(false, [key("b", 9)]), context(true, [key("a", 1), key("b", 2)]))
        #expect(!wrong.shakeHands())
        let unknown = Ends(context(false, [key("c", 2)]), context(true, [key("a", 1), key("b", 2)]))
        #expect(!unknown.shakeHands())
        #expect(String(cString: tls_reason(wrong.server)) == String(cString: tls_reason(unknown.server)))
        #expect(String(cString: tls_peer(wrong.server)) == "")
    }

    @Test func bothEndsExportTheSameAndAnotherConnectionDoesNot() {
        func material(_ channel: OpaquePointer) -> [UInt8] {
            var bytes = [UInt8](repeating: 0, count: Int(TLS_EXPORTER_BYTES))
            #expect(tls_exporter(channel, &bytes) == 0)
            return bytes
        }
        let one = pair(), other = pair()
        #expect(one.shakeHands() && other.shakeHands())
        #expect(material(one.client) == material(one.server))
        #expect(material(one.client) != material(other.client))
    }

    @Test func aBitThatIsChangedInTheHandshakeNeverOpens() {
        for offset in stride(from: 0, to: 300, by: 3) {
            let ends = pair()
            #expect(!ends.shakeHands(flip: offset), "offset \(offset)")
        }
    }

    @Test func aBitThatIsChangedInARecordIsNoByte() {
        for offset in stride(from: 0, to: 1000, by: 7) {
            let ends = pair()
            #expect(ends.shakeHands())
            var sealed = Ends.seal(ends.client, [UInt8](repeating: 7, count: 979))
            sealed[offset % sealed.count] ^= 1
            let opened = ends.open(ends.server, sealed)
            #expect(opened == nil || opened == [], "offset \(offset)")
        }
    }

    @Test func garbageIsNoHandshake() {
        let ends = pair()
        #expect(ends.open(ends.server, Array("TELE garbage of a stranger".utf8)) == nil)
        #expect(tls_handshake(ends.server) == -1)
    }
}
