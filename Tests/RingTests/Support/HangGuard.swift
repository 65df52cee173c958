import Glibc

/// A lost completion shows as a test that waits for ever. When rings are open and none has been opened or
/// closed for two minutes, the process says so and ends.
final class HangGuard: @unchecked Sendable {
    static let shared = HangGuard()

    private var mutex = pthread_mutex_t()
    private var openRings = 0

    private init() {
        pthread_mutex_init(&mutex, nil)
        signal(SIGALRM) { _ in
            let message: StaticString = "RingTests: a test hangs: a completion or a wake was lost\n"
            write(2, message.utf8Start, message.utf8CodeUnitCount)
            _exit(1)
        }
    }

    func ringOpened() { count(1) }
    func ringClosed() { count(-1) }

    private func count(_ change: Int) {
        pthread_mutex_lock(&mutex)
        openRings += change
        alarm(openRings > 0 ? 120 : 0)
        pthread_mutex_unlock(&mutex)
    }
}
