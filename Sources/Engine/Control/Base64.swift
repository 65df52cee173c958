/// RFC 4648 §4, for the one header of HTTP that needs it.
enum Base64 {
    private static let digits = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    static func encoded(_ bytes: [UInt8]) -> String {
        var text: [UInt8] = []
        for start in stride(from: 0, to: bytes.count, by: 3) {
            let part = bytes[start..<min(start + 3, bytes.count)]
            let word = part.enumerated().reduce(UInt32(0)) { $0 | UInt32($1.element) << (16 - 8 * UInt32($1.offset)) }
            for place in 0..<4 { text.append(place <= part.count ? digits[Int(word >> (18 - 6 * UInt32(place)) & 63)] : UInt8(ascii: "=")) }
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// Nil: it is none.
    static func decoded(_ text: some StringProtocol) -> [UInt8]? {
        let characters = Array(text.utf8)
        let used = characters.prefix { $0 != UInt8(ascii: "=") }
        guard characters.count % 4 == 0, characters.count - used.count <= 2, characters[used.count...].allSatisfy({ $0 == UInt8(ascii: "=") })
        else { return nil }
        var (bytes, word, bits): ([UInt8], UInt32, Int) = ([], 0, 0)
        for character in used {
            guard let value = digits.firstIndex(of: character) else { return nil }
            (word, bits) = (word << 6 | UInt32(value), bits + 6)
            guard bits >= 8 else { continue }
            bits -= 8
            bytes.append(UInt8(truncatingIfNeeded: word >> UInt32(bits)))
        }
        return bytes
    }
}
