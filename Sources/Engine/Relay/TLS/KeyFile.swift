import CTLS
import Glibc
import Loop

/// A file of keys: a line `NAME:KEY` for each, the key in 64 hexadecimal digits; empty lines and lines that begin with `#`
/// count nothing. A client has one key, a server one for each client.
public struct KeyFile: Sendable {
    /// A key and whose it is. The peer sees name and fingerprint before it proves anything: they are no secrets.
    public struct Key: Equatable, Sendable {
        public let name: String
        let bytes: [UInt8]
        /// What the two sides call it: a name may have several keys while they are changed one after the other.
        let identity: String

        /// The key as a line of a file, without its newline: a secret.
        public var line: String { "\(name):\(KeyFile.hexadecimal(bytes))" }

        init?(name: String, bytes: [UInt8]) {
            var mark = [UInt8](repeating: 0, count: 6)
            guard bytes.count == Int(TLS_KEY_BYTES), tls_fingerprint(bytes, &mark, mark.count) == 0 else { return nil }
            self.name = name
            self.bytes = bytes
            identity = "tele1:\(name):\(KeyFile.hexadecimal(mark))"
        }
    }

    public static let nameMaximum = 64

    public let keys: [Key]

    /// Reads a file that only its owner may read. `acceptsOthers`: whoever that is.
    public init(path: String, acceptsOthers: Bool = false) throws(StartFault) {
        keys = try KeyFile.parse(
            SecretFile.read(path, "key file", hint: "\"tele keygen -out=FILE\" makes one; copy it to the other side", acceptsOthers: acceptsOthers), path)
    }

    // MARK: Reading

    static func parse(_ text: String, _ path: String) throws(StartFault) -> [Key] {
        var keys: [Key] = []
        // By bytes: to Swift, the end of a line from Windows is one character.
        for (number, bytes) in text.utf8.split(separator: 0x0a, omittingEmptySubsequences: false).enumerated() {
            let line = Substring(bytes).drop { $0 == " " || $0 == "\t" || $0 == "\r" }
            guard !line.isEmpty, line.first != "#" else { continue }
            // Nothing of the line is repeated: it may hold a secret.
            guard let key = key(line) else {
                throw StartFault(
                    .configuration, "line \(number + 1) of the key file \(path) is not NAME:KEY",
                    hint: "a key is 64 hexadecimal digits; \"tele keygen\" writes such a line")
            }
            guard !keys.contains(where: { $0.identity == key.identity }) else {
                throw StartFault(.configuration, "line \(number + 1) of the key file \(path) repeats a key", hint: "take one out")
            }
            keys.append(key)
        }
        guard !keys.isEmpty else {
            throw StartFault(.configuration, "the key file \(path) holds no key", hint: "\"tele keygen -out=FILE\" makes one")
        }
        return keys
    }

    private static func key(_ line: Substring) -> Key? {
        let parts = line.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, isName(parts[0]) else { return nil }
        var digits = Array(parts[1].utf8)
        while let last = digits.last, last == 0x20 || last == 0x09 || last == 0x0d { digits.removeLast() }
        guard digits.count == 2 * Int(TLS_KEY_BYTES) else { return nil }
        var bytes: [UInt8] = []
        for index in stride(from: 0, to: digits.count, by: 2) {
            guard let high = value(digits[index]), let low = value(digits[index + 1]) else { return nil }
            bytes.append(high << 4 | low)
        }
        return Key(name: String(parts[0]), bytes: bytes)
    }

    /// Letters, digits, dots, dashes and underlines.
    public static func isName(_ name: some StringProtocol) -> Bool {
        !name.isEmpty && name.utf8.count <= nameMaximum
            && name.utf8.allSatisfy {
                (0x30...0x39).contains($0) || (0x41...0x5a).contains($0) || (0x61...0x7a).contains($0)
                    || $0 == 0x2d || $0 == 0x2e || $0 == 0x5f
            }
    }

    private static func value(_ digit: UInt8) -> UInt8? {
        switch digit {
        case 0x30...0x39: digit - 0x30
        case 0x41...0x46: digit - 0x41 + 10
        case 0x61...0x66: digit - 0x61 + 10
        default: nil
        }
    }

    fileprivate static func hexadecimal(_ bytes: [UInt8]) -> String {
        let digits = Array("0123456789abcdef")
        return String(bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] })
    }

    // MARK: Writing

    /// A fresh key's line, with its newline. Nil: there is no randomness.
    public static func line(name: String) -> String? {
        var bytes = [UInt8](repeating: 0, count: Int(TLS_KEY_BYTES))
        defer { tls_forget(&bytes, bytes.count) }
        guard tls_random(&bytes, bytes.count) == 0 else { return nil }
        return "\(name):\(hexadecimal(bytes))\n"
    }
}
