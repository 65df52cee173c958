import CKeeper
import CSystem
import Glibc

/// Signals as something to read: blocked for every thread, delivered through a descriptor.
public struct Signals {
    public let fd: Int32

    /// Those that a tele process takes.
    public static let taken = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2]

    /// They wait until somebody takes them, in this thread and those that it starts.
    public static func hold() throws(SystemError) {
        var set = taken(as: sigset_t())
        let failed = pthread_sigmask(SIG_BLOCK, &set, nil)
        guard failed == 0 else { throw SystemError(failed) }
    }

    private static func taken(as empty: sigset_t) -> sigset_t {
        var set = empty
        sigemptyset(&set)
        for number in taken { sigaddset(&set, number) }
        if Keeper.ofThisProcess != nil { sigaddset(&set, keeper_signal()) }
        return set
    }

    /// Holds the signals in the calling thread; call before other threads start. SIGPIPE is ignored.
    public init() throws(SystemError) {
        var set = Signals.taken(as: sigset_t())
        fd = system_signalfd(&set)
        guard fd >= 0 else { throw SystemError(-fd) }
    }

    /// The next signal that has arrived.
    public func take() -> Int32? {
        let number = system_take_signal(fd)
        return number == 0 ? nil : Int32(number)
    }
}
