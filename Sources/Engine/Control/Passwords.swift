/// Who may use a listener at which programs ask for their destination: users and their passwords (RFC 1929; RFC 7617).
public struct Passwords: Equatable, Sendable {
    /// Admits nobody.
    public static let nobody = Passwords()

    /// `USER:PASSWORD`.
    private let lines: [[UInt8]]

    private init() { lines = [] }

    /// The lines of a file; empty ones and those that begin with # say nothing. Nil: one is not `USER:PASSWORD`, each of 1 to 255 bytes, or
    /// there is none.
    public init?(_ text: String) {
        var lines: [[UInt8]] = []
        for line in text.split(whereSeparator: \.isNewline) where !line.hasPrefix("#") {
            let parts = line.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2, parts.allSatisfy({ (1...255).contains($0.utf8.count) }) else { return nil }
            lines.append(Array(line.utf8))
        }
        guard !lines.isEmpty else { return nil }
        self.lines = lines
    }

    /// `login`: `USER:PASSWORD`. Takes as long wherever a password differs.
    func admit(_ login: [UInt8]) -> Bool {
        var found = false
        for line in lines where line.count == login.count {
            var difference: UInt8 = 0
            for (one, other) in zip(line, login) { difference |= one ^ other }
            found = found || difference == 0
        }
        return found
    }
}
