import Glibc
import Synchronization

/// A run of a program that stands next to this test bundle, from outside: words in, two streams and a status
/// out.
final class Program: Sendable {
    struct Outcome: Equatable {
        var output: String
        var errors: String
        /// The exit status; minus the number of the signal that ended it.
        var status: Int32
    }

    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    enum Stream: Equatable {
        case kept, closed
        /// The test's own descriptor; nothing is kept.
        case descriptor(Int32)
    }

    /// Pipes and children are made one at a time, as a child made in between would inherit half of a pipe.
    private static let making = Mutex<Void>(())

    private let process: pid_t
    private let pipes: Mutex<(output: Int32, errors: Int32)>
    private let kept = Mutex<Outcome>(Outcome(output: "", errors: "", status: -1))

    /// Where the build puts what it makes: the folder of the test bundle that runs.
    static let folder: String = {
        let path = String(unsafeUninitializedCapacity: 4096) {
            let room = UnsafeMutableRawPointer($0.baseAddress!).assumingMemoryBound(to: CChar.self)
            return max(0, readlink("/proc/self/exe", room, 4096))
        }
        return path.split(separator: "/").dropLast().reduce("") { "\($0)/\($1)" }
    }()

    static var tele: String { "\(folder)/tele" }
    static var standIn: String { "\(folder)/tele-stand-in" }

    /// Starts tele. `through` runs it by another program, `environment` adds to the own one.
    init(
        _ arguments: [String], environment: [String: String] = [:], output: Stream = .kept,
        errors: Stream = .kept,
        through prefix: [String] = []
    ) throws {
        let words = prefix + [Program.tele] + arguments
        var entries = Program.environment
        for (name, value) in environment {
            entries.removeAll { $0.hasPrefix("\(name)=") }
            entries.append("\(name)=\(value)")
        }
        let made = try Program.making.withLock { _ in try Program.spawn(words, entries, output, errors) }
        process = made.0
        pipes = Mutex((made.1, made.2))
    }

    /// Runs tele to its end.
    static func run(
        _ arguments: [String], environment: [String: String] = [:], output: Stream = .kept,
        errors: Stream = .kept,
        through prefix: [String] = [], within seconds: Double = 20
    ) throws -> Outcome {
        try Program(arguments, environment: environment, output: output, errors: errors, through: prefix)
            .finish(within: seconds)
    }

    /// Whether it only waits to be asked for its status.
    var hasEnded: Bool {
        var information = siginfo_t()
        return waitid(P_PID, id_t(process), &information, WEXITED | WNOHANG | WNOWAIT) == 0
            && information.si_signo == SIGCHLD
    }

    /// Its number, and how many descriptors it has.
    var number: pid_t { process }
    var descriptorCount: Int {
        guard let directory = opendir("/proc/\(process)/fd") else { return 0 }
        defer { closedir(directory) }
        var count = 0
        while readdir(directory) != nil { count += 1 }
        return count - 2
    }

    func signal(_ number: Int32) { kill(process, number) }

    /// Collects until the condition holds for what has been written so far.
    func wait(within seconds: Double = 10, until isMet: (Outcome) -> Bool) throws {
        let deadline = now() + seconds
        while !isMet(kept.withLock { $0 }) {
            if collect(until: min(deadline, now() + 0.05)), now() < deadline { continue }
            if isMet(kept.withLock { $0 }) { return }
            signal(SIGKILL)
            throw Failure(description: "in vain: \(try finish(within: 5))")
        }
    }

    /// Waits for the end, for so long; then the program is killed and the test fails.
    func finish(within seconds: Double) throws -> Outcome {
        let deadline = now() + seconds
        while collect(until: deadline), now() < deadline {}
        var status: Int32 = 0
        while waitpid(process, &status, WNOHANG) == 0 {
            guard now() < deadline else {
                kill(process, SIGKILL)
                waitpid(process, &status, 0)
                throw Failure(description: "did not end within \(seconds) s; so far \(kept.withLock { $0 })")
            }
            usleep(2000)
        }
        pipes.withLock { pipes in
            for descriptor in [pipes.output, pipes.errors] where descriptor >= 0 { close(descriptor) }
            pipes = (-1, -1)
        }
        return kept.withLock { kept in
            kept.status = status & 0x7f == 0 ? status >> 8 & 0xff : -(status & 0x7f)
            return kept
        }
    }

    /// Reads what there is until the time is up. False once both streams have ended.
    private func collect(until deadline: Double) -> Bool {
        pipes.withLock { pipes in
            while pipes.output >= 0 || pipes.errors >= 0 {
                var waits = [
                    pollfd(fd: pipes.output, events: Int16(POLLIN), revents: 0),
                    pollfd(fd: pipes.errors, events: Int16(POLLIN), revents: 0),
                ]
                let left = deadline - now()
                guard left > 0, poll(&waits, 2, Int32(left * 1000) + 1) > 0 else { return true }
                if waits[0].revents != 0 { read(&pipes.output) { kept, text in kept.output += text } }
                if waits[1].revents != 0 { read(&pipes.errors) { kept, text in kept.errors += text } }
            }
            return false
        }
    }

    private func read(_ descriptor: inout Int32, _ keep: (inout Outcome, String) -> Void) {
        var bytes = [UInt8](repeating: 0, count: 65536)
        let count = Glibc.read(descriptor, &bytes, bytes.count)
        if count > 0 {
            kept.withLock { keep(&$0, String(decoding: bytes[..<count], as: UTF8.self)) }
        } else {
            close(descriptor)
            descriptor = -1
        }
    }

    private static var environment: [String] {
        var entries: [String] = []
        var entry = environ
        while let text = entry.pointee {
            entries.append(String(cString: text))
            entry += 1
        }
        return entries
    }

    private static func spawn(
        _ words: [String], _ environment: [String], _ output: Stream, _ errors: Stream
    ) throws -> (pid_t, Int32, Int32) {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        var owned: [Int32] = [-1, -1]
        var childEnds: [Int32] = []
        for (index, stream) in [output, errors].enumerated() {
            let number = Int32(index + 1)
            switch stream {
            case .closed: posix_spawn_file_actions_addclose(&actions, number)
            case .descriptor(let descriptor): posix_spawn_file_actions_adddup2(&actions, descriptor, number)
            case .kept:
                var ends: [Int32] = [-1, -1]
                guard pipe(&ends) == 0 else { throw Failure(description: "no pipe") }
                for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
                posix_spawn_file_actions_adddup2(&actions, ends[1], number)
                owned[index] = ends[0]
                childEnds.append(ends[1])
            }
        }
        defer { for end in childEnds { close(end) } }
        var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        defer { for argument in arguments { free(argument) } }
        var entries: [UnsafeMutablePointer<CChar>?] = environment.map { strdup($0) } + [nil]
        defer { for entry in entries { free(entry) } }
        var process: pid_t = 0
        let result = posix_spawnp(&process, words[0], &actions, nil, &arguments, &entries)
        guard result == 0 else {
            throw Failure(description: "cannot run \(words[0]): \(String(cString: strerror(result)))")
        }
        return (process, owned[0], owned[1])
    }
}

func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}
