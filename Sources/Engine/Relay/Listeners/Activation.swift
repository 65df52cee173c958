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
        // A worker whose predecessor died finds the sockets where that had them.
        let isFirst = Keeper.ofThisProcess?.deaths ?? 0 == 0
        guard isFirst, let pid = value("LISTEN_PID"), Int32(pid) == Keeper.knownProcess, let count = value("LISTEN_FDS").flatMap({ Int32($0) }),
            (1...Int32(Mapping.countMaximum)).contains(count)
        else { return }
        let names = (value("LISTEN_FDNAMES") ?? "").split(separator: ":", omittingEmptySubsequences: false)
        for index in 0..<count {
            let name = Int(index) < names.count ? String(names[Int(index)]) : ""
            sockets.append((name, Activation.first + index))
        }
    }

    /// Another program took these sockets before this one in the same process, and hands them over. (A keeper's environment names them still.)
    mutating func forget() { sockets = [] }

    /// Those for the mapping of this name (empty: those without a name, or a server's `-out`); when all have one name, they
    /// serve that, however it is called.
    mutating func sockets(for name: String) throws(StartFault) -> [ListeningSocket] {
        let isOne = name.isEmpty && Set(sockets.map(\.name)).count == 1
        let meant = sockets.filter { $0.name == name || isOne }
        sockets.removeAll { $0.name == name || isOne }
        var result: [ListeningSocket] = []
        for socket in meant { result.append(try ListeningSocket(adopted: socket.fd)) }
        return result
    }

    /// A socket that nobody serves would take connections and keep them for ever.
    func complainAboutRest() throws(StartFault) {
        guard let first = sockets.first else { return }
        throw StartFault(
            .configuration, "socket activation: no mapping is named \"\(first.name)\"",
            hint: "set FileDescriptorName= in the socket unit to a mapping's name, or to metrics")
    }
}
