import CProof
import Loop
import Wire

/// The proofs of HELLO and WELCOME: HMAC-SHA-256, keyed with the session's secret, over what binds it to the TLS
/// connection, if there is one, and the message up to its proof field (docs/protocol.md §4.8).
enum HandshakeMAC {
    /// Nil when libcrypto fails; then nobody is believed.
    static func make(_ secret: Secret, over bytes: UnsafeRawBufferPointer, on binding: [UInt8]) -> MAC? {
        var key = secret.bytes
        var proof = [UInt8](repeating: 0, count: Int(PROOF_BYTES))
        let message = binding + Array(bytes)
        guard proof_hmac(&key, message, message.count, &proof) == 0 else { return nil }
        return MAC(proof)
    }
}

extension Secret {
    fileprivate var bytes: [UInt8] {
        [words.0, words.1, words.2, words.3].flatMap { word in (0..<8).map { UInt8(truncatingIfNeeded: word >> (56 - 8 * $0)) } }
    }

    static func random(using generator: inout Entropy) -> Secret {
        Secret(generator.next(), generator.next(), generator.next(), generator.next())
    }
}

extension MAC {
    fileprivate init(_ bytes: [UInt8]) {
        func word(_ start: Int) -> UInt64 { bytes[start..<start + 8].reduce(0) { $0 << 8 | UInt64($1) } }
        self.init(word(0), word(8), word(16), word(24))
    }
}

extension Hello {
    /// The encoded message, with its proof when `secret` is given.
    func encoded(secret: Secret?, on binding: [UInt8]) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: byteCount)
        return sealed(&bytes, Hello.provenByteCount, secret, binding) { $0.encode(into: &$1) }
    }
}

extension Welcome {
    func encoded(provenWith key: Secret?, on binding: [UInt8]) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: byteCount)
        return sealed(&bytes, Welcome.provenByteCount, key, binding) { $0.encode(into: &$1) }
    }
}

extension Hello: Provable {}
extension Welcome: Provable {}

protocol Provable { var proof: MAC { get set } }

extension Provable {
    fileprivate func sealed(
        _ bytes: inout [UInt8], _ covered: Int, _ secret: Secret?, _ binding: [UInt8],
        encode: (Self, inout ByteWriter) -> Void
    ) -> [UInt8]? {
        var message = self
        let made = bytes.withUnsafeMutableBytes { buffer -> Bool in
            var writer = ByteWriter(buffer)
            encode(message, &writer)
            guard let secret else { return true }
            guard let proof = HandshakeMAC.make(secret, over: UnsafeRawBufferPointer(rebasing: buffer[..<covered]), on: binding) else { return false }
            message.proof = proof
            writer = ByteWriter(buffer)
            encode(message, &writer)
            return true
        }
        return made ? bytes : nil
    }

    /// Whether the proof at the end of the received bytes holds.
    func isProven(_ secret: Secret, over bytes: UnsafeRawBufferPointer, on binding: [UInt8]) -> Bool {
        HandshakeMAC.make(secret, over: bytes, on: binding).map { $0 == proof } ?? false
    }
}
