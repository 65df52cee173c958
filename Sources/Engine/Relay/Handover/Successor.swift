import Glibc
import Loop

/// The program that takes this process over: asked first whether it can, then started in this one's place.
public enum Successor {
    /// What a program must read to go on from the state that this one writes.
    public static let stateVersion = 1
    /// The environment's word for the process, and the descriptor in which the state lies.
    static let variable = "TELE_STATE"

    /// This program was started in the place of another: signals are held already, and some may wait.
    public static var isThisProgram: Bool { getenv(variable) != nil }

    /// Replaces the program, and keeps what `descriptors` names open. Returns only with an error; then all is as it was.
    static func become(_ program: String, _ state: UnsafeRawBufferPointer, _ descriptors: [Int32]) -> SystemError? {
        let fd: Int32
        do throws(SystemError) { fd = try Program.memoryFile("tele-state") } catch { return error }
        defer { close(fd) }
        var written = 0
        while written < state.count {
            let count = write(fd, state.baseAddress! + written, state.count - written)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return SystemError.last }
            written += count
        }
        let descriptors = descriptors + [fd]
        for descriptor in descriptors { Socket.keep(descriptor, beyondProgram: true) }
        defer { for descriptor in descriptors { Socket.keep(descriptor, beyondProgram: false) } }
        setenv(variable, "\(getpid()):\(fd)", 1)
        defer { unsetenv(variable) }
        return SystemError(-Program.replace(program, Arguments.all))
    }

    /// The state that this process was started with. Nil: none. The environment's word is gone afterwards.
    static func takeState() -> UnsafeRawBufferPointer? {
        defer { unsetenv(variable) }
        guard let text = getenv(variable).map({ String(cString: $0) }) else { return nil }
        let words = text.split(separator: ":").compactMap { Int32($0) }
        guard words.count == 2, words[0] == getpid() else { return nil }
        defer { close(words[1]) }
        let count = lseek(words[1], 0, SEEK_END)
        guard count > 0, let memory = mmap(nil, count, PROT_READ, MAP_PRIVATE, words[1], 0), memory != MAP_FAILED else { return nil }
        return UnsafeRawBufferPointer(start: memory, count: count)
    }

    /// Starts the program anew, from nothing: what was left open closes. Returns only with an error.
    static func startAfresh(_ program: String) -> SystemError {
        setenv(variable, "none", 1)
        defer { unsetenv(variable) }
        return SystemError(-Program.replace(program, Arguments.all))
    }

    static func release(_ state: UnsafeRawBufferPointer) {
        munmap(UnsafeMutableRawPointer(mutating: state.baseAddress!), state.count)
    }
}

/// A program of this configuration that is asked whether it can go on from here: it reads the configuration and its keys as at a start,
/// and begins nothing.
final class SuccessorCheck {
    private let pid: pid_t
    private let exitWatch: Int32
    /// Where it writes why it cannot.
    private let words: Int32
    private var given: Answer?
    private unowned(unsafe) let relay: RelayProcess

    init(_ relay: RelayProcess, _ program: String) throws(SystemError) {
        self.relay = relay
        words = try Program.memoryFile("tele-check")
        let question = "--reads-state=\(Successor.stateVersion):\(relay.configuration.role == .client ? "client" : "server")"
        let arguments = Arguments.all
        do throws(SystemError) {
            pid = try Program.start(program, [arguments.first ?? "tele", question] + arguments.dropFirst(), standardError: words)
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
        /// It was ended because nobody waits for it any more.
        case notWanted
    }

    /// Ends it; that is its answer.
    func end(_ answer: Answer) {
        given = given ?? answer
        kill(pid, SIGKILL)
    }

    /// Its answer, when it has ended.
    func take() -> Answer {
        var status: Int32 = 0
        waitpid(pid, &status, 0)
        defer {
            relay.loop.close(exitWatch)
            close(words)
        }
        if let given { return given }
        guard status != 0 else { return .can }
        return .cannot(said.isEmpty ? "the new program cannot go on from here" : "the new program says: \(said)")
    }

    /// Its first line.
    private var said: String {
        var bytes = [UInt8](repeating: 0, count: 1000)
        let count = pread(words, &bytes, bytes.count, 0)
        let line = String(decoding: bytes.prefix(max(0, count)).prefix { $0 != 0x0a }.filter { $0 >= 0x20 }, as: UTF8.self)
        let prefix = "tele: error: "
        return line.hasPrefix(prefix) ? String(line.dropFirst(prefix.utf8.count)) : line
    }
}
