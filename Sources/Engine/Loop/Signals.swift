import CSystem
import Glibc

/// Signals as something to read: blocked for every thread, delivered through a descriptor.
public struct Signals {
    public let fd: Int32

    /// Blocks the signals in the calling thread; call before other threads start. SIGPIPE is ignored.
    public init(_ numbers: [Int32]) throws(SystemError) {
        signal(SIGPIPE, SIG_IGN)
        var set = sigset_t()
        sigemptyset(&set)
        for number in numbers { sigaddset(&set, number) }
        let failed = pthread_sigmask(SIG_BLOCK, &set, nil)
        guard failed == 0 else { throw SystemError(failed) }
        fd = system_signalfd(&set)
        guard fd >= 0 else { throw SystemError.last }
    }

    /// The next signal that has arrived.
    public func take() -> Int32? {
        let number = system_take_signal(fd)
        return number == 0 ? nil : Int32(number)
    }
}
