import Glibc
import Logging

/// Where log lines wait for stderr. The loop puts a line into memory and goes on; a thread of its own does
/// the writing and may block there for as long as the reader of stderr likes.
///
/// At most `byteCountMaximum` bytes wait. When they are full, lines are dropped and counted until the writer
/// has taken what waits, and the count follows as a line of its own, so what is read stays in order and says
/// where it has gaps.
final class LogSink: @unchecked Sendable {
    static let byteCountMaximum = 256 << 10

    private let format: LogFormat
    private let descriptor: Int32
    private let forJournal: Bool

    // Everything below is guarded by `mutex`.
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    /// Something waits to be written.
    private let filled = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    /// Everything that waited has been written or given up.
    private let emptied = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    private var waiting: [UInt8] = []
    /// Lines that found no room.
    private var droppedLineCount = 0
    /// Lines that stderr refused (closed, disk full), told when it takes lines again.
    private var lostLineCount = 0
    private var isWriting = false

    /// Starts the writer, which lives as long as the process. `descriptor` stays the caller's, and open.
    init(format: LogFormat, descriptor: Int32 = STDERR_FILENO) throws {
        self.format = format
        self.descriptor = descriptor
        forJournal = Journal.reads(descriptor)
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(filled, nil)
        var attributes = pthread_condattr_t()
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(emptied, &attributes)
        try Thread.start { [self] in writeForever() }
    }

    /// Puts one event into memory. Never blocks on stderr.
    func line(_ level: Logger.Level, _ message: String, _ metadata: Logger.Metadata) {
        write(format.line(level, message, metadata, at: Timestamp.now(), forJournal: forJournal))
    }

    /// Puts finished lines into memory.
    func write(_ text: String) {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        guard droppedLineCount == 0, waiting.count + text.utf8.count <= LogSink.byteCountMaximum else {
            droppedLineCount += 1
            return
        }
        waiting.append(contentsOf: text.utf8)
        pthread_cond_signal(filled)
    }

    /// Waits until everything has been written, but no longer than told: a stopped reader cannot keep the
    /// process.
    func flush(withinMilliseconds limit: Int) {
        var deadline = timespec()
        clock_gettime(CLOCK_MONOTONIC, &deadline)
        let nanoseconds = deadline.tv_nsec + limit % 1000 * 1_000_000
        deadline.tv_sec += limit / 1000 + nanoseconds / 1_000_000_000
        deadline.tv_nsec = nanoseconds % 1_000_000_000

        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        while isWriting || !waiting.isEmpty {
            if pthread_cond_timedwait(emptied, mutex, &deadline) == ETIMEDOUT { return }
        }
    }

    private func writeForever() {
        var batch: [UInt8] = []
        while true {
            pthread_mutex_lock(mutex)
            isWriting = false
            pthread_cond_broadcast(emptied)
            while waiting.isEmpty { pthread_cond_wait(filled, mutex) }
            isWriting = true
            swap(&batch, &waiting)
            let (lost, dropped) = (lostLineCount, droppedLineCount)
            (lostLineCount, droppedLineCount) = (0, 0)
            pthread_mutex_unlock(mutex)

            let lines = batch.count { $0 == UInt8(ascii: "\n") }
            if lost > 0 { batch.insert(contentsOf: gap(lost).utf8, at: 0) }
            if dropped > 0 { batch.append(contentsOf: gap(dropped).utf8) }
            do {
                try StandardStreams.write(batch, to: descriptor)
            } catch {
                pthread_mutex_lock(mutex)
                lostLineCount += lost + lines + dropped
                pthread_mutex_unlock(mutex)
            }
            batch.removeAll(keepingCapacity: true)
        }
    }

    private func gap(_ count: Int) -> String {
        format.line(
            .warning, "log lines dropped", ["count": "\(count)"], at: Timestamp.now(), forJournal: forJournal)
    }
}
