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
