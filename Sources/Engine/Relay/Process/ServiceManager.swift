import Glibc
import Loop

/// Notifies the service manager that started this process (sd_notify(3)): that it is ready, what it does, that its event loop
/// is alive. Without a service manager nothing happens.
final class ServiceManager {
    private let fd: Int32
    /// False: the socket is the keeper's.
    private let isOwn: Bool
    private let environment = Environment()
    /// Nanoseconds between signs of life; nil: none are wanted.
    let watchdog: UInt64?
    private var lastStatus = -1

    /// Takes the environment's words, which no child shall find.
    init() {
        func take(_ name: String) -> String? {
            defer { unsetenv(name) }
            return getenv(name).map { String(cString: $0) }
        }
        let micro = take("WATCHDOG_USEC").flatMap { UInt64($0) }
        let isOurs = take("WATCHDOG_PID").map { Int32($0) == Keeper.knownProcess } ?? true
        let name = take("NOTIFY_SOCKET")
        let keeper = Keeper.ofThisProcess
        fd = (keeper == nil ? name.flatMap(ServiceManager.dial) : keeper?.managerSocket) ?? -1
        isOwn = keeper == nil
        // Twice as often as it must be.
        watchdog = fd >= 0 && isOurs ? micro.flatMap { $0 > 1 ? $0.multipliedReportingOverflow(by: 500).partialValue : nil } : nil
    }

    /// There is none.
    init(socket: Never?) { (fd, isOwn, watchdog) = (-1, false, nil) }

    deinit { if isOwn, fd >= 0 { close(fd) } }

    private static func dial(_ name: String) -> Int32? {
        guard name.hasPrefix("/") || name.hasPrefix("@") else { return nil }
        let fd = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
        guard fd >= 0 else { return nil }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let isShort = withUnsafeMutableBytes(of: &address.sun_path) { room in
            guard name.utf8.count < room.count else { return false }
            room.copyBytes(from: name.utf8)
            if name.hasPrefix("@") { room[0] = 0 }  // An abstract name.
            return true
        }
        let length = socklen_t(MemoryLayout<sa_family_t>.size + name.utf8.count)
        let isConnected =
            isShort
            && withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(fd, $0, length) == 0 }
            }
        if isConnected { return fd }
        close(fd)
        return nil
    }

    /// The environment has its words again while `body` runs.
    func whileRestored<Result>(_ body: () -> Result) -> Result { environment.whileRestored(body) }

    /// The service manager's words in the environment, for a program that takes this process over.
    struct Environment {
        private let words: [(name: String, value: String)] = ["WATCHDOG_USEC", "WATCHDOG_PID", "NOTIFY_SOCKET"].compactMap { name in
            getenv(name).map { (name, String(cString: $0)) }
        }

        func whileRestored<Result>(_ body: () -> Result) -> Result {
            for (name, value) in words { setenv(name, value, 1) }
            defer { for (name, _) in words { unsetenv(name) } }
            return body()
        }
    }

    private func say(_ words: String) {
        guard fd >= 0 else { return }
        _ = words.withCString { send(fd, $0, strlen($0), Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL)) }
    }

    func ready() { say("READY=1") }

    func reloading() {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        say("RELOADING=1\nMONOTONIC_USEC=\(UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_nsec) / 1000)")
    }

    func stopping() { say("STOPPING=1") }
    func isAlive() { say("WATCHDOG=1") }

    var isThere: Bool { fd >= 0 }

    /// One line for `systemctl status`, when its number is another than before.
    func status(_ number: Int, _ words: @autoclosure () -> String) {
        guard number != lastStatus else { return }
        lastStatus = number
        say("STATUS=\(words())")
    }
}
