import Glibc

/// Where the demo tells its story: lines that stay, and on a terminal one line below them that is redrawn.
struct Screen {
    enum Colour: String {
        case red = "31"
        case green = "32"
        case yellow = "33"
    }

    let isLive: Bool
    private let isColoured: Bool
    private var hasStatus = false

    init() {
        isLive = isatty(STDOUT_FILENO) == 1 && getenv("TERM").map { String(cString: $0) != "dumb" } ?? false
        // no-color.org: set and not empty.
        isColoured = isLive && (getenv("NO_COLOR").map { $0.pointee == 0 } ?? true)
    }

    mutating func line(_ text: String, _ colour: Colour? = nil) {
        put((hasStatus ? "\r\u{1b}[K" : "") + painted(text, colour) + "\n")
        hasStatus = false
    }

    /// Replaces the redrawn line. `state` stands first and alone has a colour.
    mutating func status(_ state: String, _ colour: Colour, _ rest: String) {
        guard isLive else { return }
        let room = max(0, columnCount - 1 - state.count)
        put("\r\u{1b}[K" + painted(state, colour) + rest.prefix(room))
        hasStatus = true
    }

    /// Takes the redrawn line away.
    mutating func clear() {
        if hasStatus { put("\r\u{1b}[K") }
        hasStatus = false
    }

    private func painted(_ text: String, _ colour: Colour?) -> String {
        guard isColoured, let colour else { return text }
        return "\u{1b}[\(colour.rawValue)m\(text)\u{1b}[0m"
    }

    private var columnCount: Int {
        var size = winsize()
        guard ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 else { return 80 }
        return Int(size.ws_col)
    }

    /// If nobody reads any more, the exit status still tells.
    private func put(_ text: String) {
        try? StandardStreams.write(Array(text.utf8), to: STDOUT_FILENO)
    }
}
