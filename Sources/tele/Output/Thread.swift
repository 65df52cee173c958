import Glibc
import Loop

/// A plain thread for work that may block. It takes no signals, which belong to the loop, and little stack.
enum Thread {
    struct StartFault: Error, CustomStringConvertible {
        let number: Int32
        var description: String {
            "cannot start a thread (\(SystemError(number)))"
        }
    }

    @discardableResult
    static func start(_ body: @escaping @Sendable () -> Void) throws(StartFault) -> pthread_t {
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        defer { pthread_attr_destroy(&attributes) }
        pthread_attr_setstacksize(&attributes, 256 << 10)

        var all = sigset_t()
        var before = sigset_t()
        sigfillset(&all)
        pthread_sigmask(SIG_SETMASK, &all, &before)
        defer { pthread_sigmask(SIG_SETMASK, &before, nil) }

        let work = Unmanaged.passRetained(Work(body))
        var thread = pthread_t()
        let result = pthread_create(
            &thread, &attributes,
            { argument in
                guard let argument else { return nil }
                Unmanaged<Work>.fromOpaque(argument).takeRetainedValue().body()
                return nil
            }, work.toOpaque())
        guard result == 0 else {
            work.release()
            throw StartFault(number: result)
        }
        return thread
    }

    private final class Work {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
}
