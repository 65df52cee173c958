import Glibc
import Synchronization

/// A tele process that the demo started: the real thing, found again as the file that this process runs.
final class Child: Sendable {
    struct Fault: Error {
        let sentence: String
    }

    static let ownBinary = "/proc/self/exe"

    let name: String
    private let process: pid_t
    private let output: Int32
    /// The last lines of its log.
    private let log = Mutex<[String]>([])
    /// Once the process has been waited for, its number may belong to someone else.
    private let status = Mutex<Int32?>(nil)
    /// Never written: when the demo dies, however it dies, the child reads the end and stops (`ParentWatch`).
    private let leash: Int32

    init(_ name: String, binary: String, _ arguments: [String]) throws {
        self.name = name
        let (input, leash) = try Loopback.pipe()
        let (output, childOutput) = try Loopback.pipe()
        let (errors, childErrors) = try Loopback.pipe()
        (self.output, self.leash) = (output, leash)
        defer { for descriptor in [input, childOutput, childErrors] { close(descriptor) } }
        process = try Child.spawn(binary, ["tele"] + arguments, [input, childOutput, childErrors])
        try Thread.start { [self] in keepLog(from: errors) }
    }

    /// The port that the process listens on, once it says so on stdout.
    func port(withinSeconds limit: Double) throws -> UInt16 {
        let deadline = Clock.now() + limit
        var text = ""
        while !text.contains("\n") {
            var wait = pollfd(fd: output, events: Int16(POLLIN), revents: 0)
            let left = deadline - Clock.now()
            guard left > 0, poll(&wait, 1, Int32(left * 1000) + 1) > 0 else {
                throw Fault(sentence: "\(name) did not listen within \(Int(limit)) s")
            }
            var bytes = [UInt8](repeating: 0, count: 256)
            let count = read(output, &bytes, bytes.count)
            guard count > 0 else { throw Fault(sentence: "\(name) ended before it listened") }
            text += String(decoding: bytes[..<count], as: UTF8.self)
        }
        let digits = text.prefix { $0 != "\n" }.split(separator: ":").last ?? ""
        guard let port = UInt16(digits) else {
            throw Fault(sentence: "\(name) printed no address but \(quoted(text))")
        }
        return port
    }

    /// How the process ended, in words, or nil while it lives.
    func ending() -> String? {
        guard let status = reap(WNOHANG) else { return nil }
        let signal = status & 0x7f
        return signal == 0 ? "ended with status \(status >> 8 & 0xff)" : "was ended by signal \(signal)"
    }

    /// Asks the process to end, insists after the limit, and waits for it. True if it ended in order.
    @discardableResult
    func stop(withinSeconds limit: Double) -> Bool {
        let deadline = Clock.now() + limit
        if status.withLock({ $0 == nil }) { kill(process, SIGTERM) }
        while Clock.now() < deadline {
            if let status = reap(WNOHANG) { return status == 0 }
            Clock.sleep(0.005)
        }
        if status.withLock({ $0 == nil }) { kill(process, SIGKILL) }
        _ = reap(0)
        return false
    }

    var lastLines: [String] { log.withLock { $0 } }

    private func reap(_ options: Int32) -> Int32? {
        status.withLock { known in
            if known != nil { return known }
            var status: Int32 = 0
            if waitpid(process, &status, options) == process { known = status }
            return known
        }
    }

    private func keepLog(from descriptor: Int32) {
        var bytes = [UInt8](repeating: 0, count: 4096)
        var partial = ""
        while true {
            let count = read(descriptor, &bytes, bytes.count)
            guard count > 0 else { break }
            partial += String(decoding: bytes[..<count], as: UTF8.self)
            var lines = partial.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
            partial = lines.removeLast()
            log.withLock { $0 = Array(($0 + lines).suffix(12)) }
        }
        close(descriptor)
    }

    /// In a process group of its own, so that Ctrl-C reaches the demo alone, which then ends its children in
    /// order.
    private static func spawn(_ path: String, _ arguments: [String], _ streams: [Int32]) throws -> pid_t {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for (number, descriptor) in streams.enumerated() {
            posix_spawn_file_actions_adddup2(&actions, descriptor, Int32(number))
        }
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setpgroup(&attributes, 0)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP))

        var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        defer { for word in words { free(word) } }
        var environment = ParentWatch.environment.map { strdup($0) } + [nil]
        defer { for entry in environment { free(entry) } }
        var process: pid_t = 0
        let result = posix_spawn(&process, path, &actions, &attributes, &words, &environment)
        guard result == 0 else {
            throw Fault(sentence: "cannot run \(visible(path)) (\(OutputFault(number: result).reason))")
        }
        return process
    }
}
