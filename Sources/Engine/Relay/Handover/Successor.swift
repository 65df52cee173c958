import Glibc
import Loop
import State

/// The program that replaces this one by execve(2), and the state that it is given.
public enum Successor {
    /// The version of the state that this program writes.
    public static let stateVersion = 5
    /// Versions of states that this program goes on from.
    static let readableVersions = 4...stateVersion
    /// The environment variable `PID:DESCRIPTOR` that names the memfd with the state; with several loops `PID:DESCRIPTOR:DESCRIPTOR…`, one for
    /// each.
    static let variable = "TELE_STATE"

    /// This program replaced another one, which had blocked its signals: one may be pending.
    public static var isThisProgram: Bool { getenv(variable) != nil }

    /// What a loop leaves to the next program: a memfd with its state, and the descriptors that the state names.
    struct Legacy: Sendable {
        let state: Int32
        let descriptors: [Int32]

        init(_ state: UnsafeRawBufferPointer, _ descriptors: [Int32]) throws(SystemError) {
            let fd = try Program.memoryFile("tele-state")
            var written = 0
            while written < state.count {
                let count = write(fd, state.baseAddress! + written, state.count - written)
                if count < 0, errno == EINTR { continue }
                guard count > 0 else {
                    let error = SystemError.last
                    close(fd)
                    throw error
                }
                written += count
            }
            (self.state, self.descriptors) = (fd, descriptors)
        }

        /// The program goes on without a successor.
        func discard() { if state >= 0 { close(state) } }

        /// The state lies elsewhere, where another kind of next program finds it (Tests/Simulation).
        init(descriptors: [Int32]) { (state, self.descriptors) = (-1, descriptors) }
    }

    /// Replaces the program. Returns only with an error, with nothing changed. `legacies`: of each loop, by their numbers.
    static func become(_ program: String, _ legacies: [Legacy]) -> SystemError? {
        let descriptors = legacies.flatMap { $0.descriptors + [$0.state] }
        for descriptor in descriptors { Socket.keep(descriptor, beyondProgram: true) }
        defer { for descriptor in descriptors { Socket.keep(descriptor, beyondProgram: false) } }
        if let keeper = Keeper.ofThisProcess { return keeper.become(program, state: legacies[0].state) }
        setenv(variable, ([getpid()] + legacies.map(\.state)).map { "\($0)" }.joined(separator: ":"), 1)
        defer { unsetenv(variable) }
        return SystemError(-Program.replace(program, arguments(program)))
    }

    /// Those that this program was started with, under the new one's path: the next upgrade without a path finds the same file.
    static func arguments(_ program: String) -> [String] { [program] + Arguments.all.dropFirst() }

    /// The states that the loops of the program before left, by their numbers. Empty: none. Removes the environment variable.
    static func takeStates() throws(StateFault) -> [UnsafeRawBufferPointer] {
        defer { unsetenv(variable) }
        guard let text = getenv(variable).map({ String(cString: $0) }) else { return [] }
        let words = text.split(separator: ":").compactMap { Int32($0) }
        guard words.count >= 2, words[0] == getpid() || Keeper.ofThisProcess != nil && words[0] == getppid() else { return [] }
        // A worker may die before it has made the state its own: then another one needs it.
        defer { if Keeper.ofThisProcess == nil { for word in words.dropFirst() { close(word) } } }
        return try words.dropFirst().map { (word) throws(StateFault) in
            let count = lseek(word, 0, SEEK_END)
            guard count > 0, let memory = mmap(nil, count, PROT_READ, MAP_PRIVATE, word, 0), memory != MAP_FAILED else {
                throw StateFault("it cannot be read (\(SystemError.last))")
            }
            return UnsafeRawBufferPointer(start: memory, count: count)
        }
    }

    /// Starts the program again without a state; inherited descriptors are closed by the kernel. Returns only with an error.
    static func startAfresh(_ program: String) -> SystemError {
        setenv(variable, "none", 1)
        defer { unsetenv(variable) }
        return SystemError(-Program.replace(program, arguments(program)))
    }

    static func release(_ state: UnsafeRawBufferPointer) {
        munmap(UnsafeMutableRawPointer(mutating: state.baseAddress!), state.count)
    }
}

/// The new program as a child, with the arguments of this one: it reads the configuration and the keys as at a start, and exits with 0 if
/// it could run and reads the state's version.
final class SuccessorCheck {
    private let pid: pid_t
    private let exitWatch: Int32
    /// A memfd as its stderr.
    private let words: Int32
    private var given: Answer?
    private unowned(unsafe) let relay: RelayProcess

    init(_ relay: RelayProcess, _ program: String) throws(SystemError) {
        self.relay = relay
        words = try Program.memoryFile("tele-check")
        // Programs that know one loop only refuse a third word.
        let threads = relay.member.map { ":\($0.group.count)" } ?? ""
        let question = "--reads-state=\(Successor.stateVersion):\(relay.configuration.role == .client ? "client" : "server")\(threads)"
        do throws(SystemError) {
            pid = try Program.start(program, [program, question] + Arguments.all.dropFirst(), standardError: words)
        } catch {
            close(words)
            throw error
        }
        do throws(SystemError) {
            exitWatch = try Program.exitWatch(pid)
            guard relay.loop.readable(exitWatch, Operation.successorChecked.token()) else {
                Socket.close(exitWatch)
                throw SystemError(ENOMEM)
            }
        } catch {
            kill(pid, SIGKILL)
            waitpid(pid, nil, 0)
            close(words)
            throw error
        }
        relay.timers.set(Operation.successorLate.token(), at: relay.now + Policy.successorMaximum.nanoseconds)
    }

    enum Answer {
        case can
        case cannot(String)
        /// The process stops, so the result does not matter.
        case notWanted
    }

    /// Kills it; `answer` is the result.
    func end(_ answer: Answer) {
        given = given ?? answer
        kill(pid, SIGKILL)
    }

    /// The result; the child has exited.
    func take() -> Answer {
        var status: Int32 = 0
        waitpid(pid, &status, 0)
        defer {
            relay.loop.close(exitWatch)
            close(words)
        }
        if let given { return given }
        guard status != 0 else { return .can }
        return .cannot(said.isEmpty ? "the new program failed its check" : "the new program says: \(said)")
    }

    /// The first line of its stderr.
    private var said: String {
        var bytes = [UInt8](repeating: 0, count: 1000)
        let count = pread(words, &bytes, bytes.count, 0)
        let line = String(decoding: bytes.prefix(max(0, count)).prefix { $0 != 0x0a }.filter { $0 >= 0x20 }, as: UTF8.self)
        let prefix = "tele: error: "
        return line.hasPrefix(prefix) ? String(line.dropFirst(prefix.utf8.count)) : line
    }
}
