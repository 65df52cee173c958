import Glibc

/// What stdout is, and what may be written to it.
enum Terminal {
    static func isOne(_ descriptor: Int32) -> Bool { isatty(descriptor) == 1 }

    /// Colours on a terminal, unless NO_COLOR is set (no-color.org).
    static func paint(_ descriptor: Int32) -> (String, Int) -> String {
        let none = getenv("NO_COLOR").map { $0.pointee != 0 } ?? false
        guard isOne(descriptor), !none else { return { text, _ in text } }
        return { text, colour in "\u{1b}[\(colour)m\(text)\u{1b}[0m" }
    }

    /// Columns and rows.
    static func size(_ descriptor: Int32) -> (columns: Int, rows: Int) {
        var size = winsize()
        guard ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0, size.ws_row > 0 else { return (80, 24) }
        return (Int(size.ws_col), Int(size.ws_row))
    }

    /// The first `width` columns of a line, whose escape sequences take none and stay whole.
    static func clipped(_ line: String, _ width: Int) -> String {
        var result = ""
        var columns = 0
        var isEscape = false
        for character in line {
            if isEscape || character == "\u{1b}" {
                result.append(character)
                isEscape = !(isEscape && character.isLetter)
                continue
            }
            guard columns < width else { continue }
            result.append(character)
            columns += 1
        }
        return result
    }
}
