import Glibc

/// Ends a child of the demo when the demo is gone, also when that was killed and could not clean up: the
/// child's stdin is a pipe from the demo, and its end is the sign.
enum ParentWatch {
    private static let variable = "TELE_LEASH"

    /// The environment of a child on the leash.
    static var environment: [String] {
        var entries: [String] = []
        var entry = environ
        while let text = entry.pointee {
            entries.append(String(cString: text))
            entry += 1
        }
        return entries.filter { !$0.hasPrefix("\(variable)=") } + ["\(variable)=stdin"]
    }

    /// In a child of the demo, starts to watch; elsewhere does nothing.
    static func follow() throws {
        guard getenv(variable) != nil else { return }
        try Thread.start {
            var byte: UInt8 = 0
            while read(STDIN_FILENO, &byte, 1) != 0 { if errno != EINTR { break } }
            kill(getpid(), SIGTERM)
        }
    }
}
