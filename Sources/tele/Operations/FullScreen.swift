import Glibc

/// A terminal's second screen, drawn line by line, and given back at the end.
final class FullScreen {
    private var before = termios()
    private let hasKeys: Bool
    private var isLeft = false

    init() {
        // A signal ends the wait, and with it the program: the screen is given back first.
        for number in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] { signal(number) { _ in } }
        hasKeys = isatty(STDIN_FILENO) == 1 && tcgetattr(STDIN_FILENO, &before) == 0
        if hasKeys {
            var raw = before
            raw.c_lflag &= ~tcflag_t(ICANON | ECHO | ISIG)
            tcsetattr(STDIN_FILENO, TCSANOW, &raw)
        }
        try? StandardStreams.write(Array("\u{1b}[?1049h\u{1b}[?25l".utf8), to: STDOUT_FILENO)
    }

    func draw(_ lines: [String]) throws {
        let size = Terminal.size(STDOUT_FILENO)
        let shown = lines.prefix(size.rows).map { Terminal.clipped($0, size.columns) + "\u{1b}[K" }
        try StandardStreams.write(Array(("\u{1b}[H" + shown.joined(separator: "\r\n") + "\u{1b}[J").utf8), to: STDOUT_FILENO)
    }

    /// True: a person wants to leave.
    func waitForEnd(milliseconds: Int32) -> Bool {
        var wait = pollfd(fd: hasKeys ? STDIN_FILENO : -1, events: Int16(POLLIN), revents: 0)
        let count = poll(&wait, 1, milliseconds)
        guard count > 0 else { return count < 0 && errno == EINTR }
        var key: UInt8 = 0
        return read(STDIN_FILENO, &key, 1) < 1 || key == UInt8(ascii: "q") || key == 3 || key == 4
    }

    func leave() {
        guard !isLeft else { return }
        isLeft = true
        try? StandardStreams.write(Array("\u{1b}[?25h\u{1b}[?1049l".utf8), to: STDOUT_FILENO)
        if hasKeys { tcsetattr(STDIN_FILENO, TCSANOW, &before) }
    }
}
