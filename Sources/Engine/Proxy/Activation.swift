import Glibc
import Loop

/// Listening sockets that the service manager opened before this process began (sd_listen_fds(3)): while tele is restarted
/// they wait with whoever connects.
struct Activation {
    private static let first: Int32 = 3
    /// Descriptors by name: that of a mapping.
    private var sockets: [(name: String, fd: Int32)] = []

    /// Takes them from the environment, where nobody shall find them again.
    init() {
        func value(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }
        defer { for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] { unsetenv(name) } }
        guard let pid = value("LISTEN_PID"), Int32(pid) == getpid(), let count = value("LISTEN_FDS").flatMap({ Int32($0) }),
              (1...Int32(Mapping.countMaximum)).contains(count) else { return }
        let names = (value("LISTEN_FDNAMES") ?? "").split(separator: ":", omittingEmptySubsequences: false)
        for index in 0..<count {
            let name = Int(index) < names.count ? String(names[Int(index)]) : ""
            sockets.append((name, Activation.first + index))
        }
    }

    /// The one for the mapping of this name (empty: the one without a name, or a server's `-out`); the only one there is
    /// serves that, however it is called.
    mutating func socket(for name: String) throws(StartFault) -> ListeningSocket? {
        let place = sockets.firstIndex { $0.name == name }
            ?? (name.isEmpty && sockets.count == 1 ? 0 : nil)
        guard let place else { return nil }
        return try ListeningSocket(adopted: sockets.remove(at: place).fd)
    }
}
