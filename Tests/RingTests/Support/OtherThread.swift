import Glibc

/// A thread of its own, for what must come from elsewhere while the test's thread waits.
final class OtherThread {
    private var thread = pthread_t()

    private final class Work {
        let milliseconds: UInt32
        let body: () -> Void
        init(_ milliseconds: UInt32, _ body: @escaping () -> Void) {
            self.milliseconds = milliseconds
            self.body = body
        }
    }

    init(after milliseconds: UInt32, _ body: @escaping () -> Void) {
        let work = Unmanaged.passRetained(Work(milliseconds, body)).toOpaque()
        pthread_create(
            &thread, nil,
            { argument in
                let work = Unmanaged<Work>.fromOpaque(argument!).takeRetainedValue()
                usleep(work.milliseconds * 1000)
                work.body()
                return nil
            }, work)
    }

    func join() { pthread_join(thread, nil) }

    /// Runs the body on a fresh thread, which then ends with everything that was done to it.
    static func run<Result>(_ body: @escaping () throws -> Result) throws -> Result {
        var result: Swift.Result<Result, any Error>?
        let thread = OtherThread(after: 0) { result = Swift.Result(catching: body) }
        thread.join()
        return try result!.get()
    }
}

/// A number that one thread writes and another reads.
final class Counter {
    private var mutex = pthread_mutex_t()
    private var number = 0

    init() { pthread_mutex_init(&mutex, nil) }
    deinit { pthread_mutex_destroy(&mutex) }

    func set(_ value: Int) {
        pthread_mutex_lock(&mutex)
        number = value
        pthread_mutex_unlock(&mutex)
    }

    var value: Int {
        pthread_mutex_lock(&mutex)
        defer { pthread_mutex_unlock(&mutex) }
        return number
    }
}
