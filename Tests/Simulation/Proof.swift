import Wire

/// A toy MAC: what matters here is that a proof covers every byte before it, not that nobody can forge it.
enum Proof {
    static func of(_ hello: Hello, secret: Octets32) -> Octets32 {
        withUnsafeTemporaryAllocation(byteCount: Hello.byteCount, alignment: 8) { buffer in
            var unproven = hello
            unproven.proof = .zero
            var writer = ByteWriter(buffer)
            unproven.encode(into: &writer)
            return mac(UnsafeRawBufferPointer(rebasing: buffer[0..<Hello.provenByteCount]), secret)
        }
    }

    static func of(_ welcome: Welcome, secret: Octets32) -> Octets32 {
        withUnsafeTemporaryAllocation(byteCount: Welcome.byteCount, alignment: 8) { buffer in
            var unproven = welcome
            unproven.proof = .zero
            var writer = ByteWriter(buffer)
            unproven.encode(into: &writer)
            return mac(UnsafeRawBufferPointer(rebasing: buffer[0..<Welcome.provenByteCount]), secret)
        }
    }

    private static func mac(_ bytes: UnsafeRawBufferPointer, _ secret: Octets32) -> Octets32 {
        var words = secret.words
        for (index, byte) in bytes.enumerated() {
            words.0 = Chance.mixed(words.0 &+ UInt64(byte) &+ UInt64(index) << 8)
        }
        words.1 = Chance.mixed(words.0 ^ words.1)
        words.2 = Chance.mixed(words.1 ^ words.2)
        words.3 = Chance.mixed(words.2 ^ words.3)
        return Octets32(words.0, words.1, words.2, words.3)
    }
}
