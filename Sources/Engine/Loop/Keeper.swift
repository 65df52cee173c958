import CKeeper
import CSystem
import Glibc

/// The process that holds this one's descriptors and starts the next one when this one dies (CKeeper.h). It belongs to whoever `start` returns
/// to: to a worker.
public struct Keeper: @unchecked Sendable {
    private let page: UnsafeMutablePointer<keeper_page>

    /// Nil: this process has none.
    public static var ofThisProcess: Keeper? { keeper_of_this_process().map { Keeper(page: $0) } }

    /// The process that people and service managers know: the keeper, or where there is none, this one.
    public static var knownProcess: Int32 { ofThisProcess == nil ? getpid() : getppid() }

    /// Starts the first worker and returns in each; the process that called never comes back. An error: there is no keeper. Before threads
    /// are started. `hangSeconds`: a worker that shows no sign of life for so long is ended.
    public static func start(hangSeconds: UInt32) throws(SystemError) {
        // As long as the keeper lives.
        let words = UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>.allocate(capacity: Arguments.all.count + 1)
        for (index, word) in Arguments.all.enumerated() { words[index] = strdup(word) }
        words[Arguments.all.count] = nil
        guard keeper_start(words, hangSeconds, system_forget_start) != nil else { throw SystemError.last }
        inherited = OpenDescriptors.all.subtracting(Keeper.ofThisProcess?.own ?? [])
        system_take_signals_of(getppid(), keeper_signal())
    }

    /// A worker's descriptors at its start: those of the one that died before it. Empty once it has closed those that it does not need.
    public package(set) nonisolated(unsafe) static var inherited: Set<Int32> = []

    /// How many workers died before this one, and the signal that ended the last.
    public var deaths: Int { Int(page.pointee.deaths) }
    public var signal: Int32 { page.pointee.signal }
    /// When it died, in nanoseconds on `Clock`.
    public var diedAt: UInt64 { page.pointee.died }
    /// By its own fault: a crash or a hang, and no kill from outside.
    public var hasCrashed: Bool { page.pointee.crashed != 0 }

    /// The session that this worker works on, or when it begins, that the last one worked on. 0: none.
    public var attended: UInt64 {
        get { page.pointee.attended }
        nonmutating set { page.pointee.attended = newValue }
    }

    /// The session with which a worker crashed, when that was, and whether it is given up: workers remember it here (`Control.Suspect`).
    public var suspect: (session: UInt64, diedAt: UInt64, isGivenUp: Bool) {
        get { (page.pointee.suspect, page.pointee.suspected, page.pointee.gives_up != 0) }
        nonmutating set { (page.pointee.suspect, page.pointee.suspected, page.pointee.gives_up) = (newValue.0, newValue.1, newValue.2 ? 1 : 0) }
    }
    /// Why the keeper could not become another program.
    public var failure: SystemError? { page.pointee.failed == 0 ? nil : SystemError(page.pointee.failed) }

    /// Descriptors that the keeper needs.
    private var own: [Int32] { [page.pointee.own.0, page.pointee.own.1, page.pointee.own.2] }

    /// A socket: what is sent there, the service manager hears from the keeper, as it hears nobody else. It is the keeper's. Nil: there is no
    /// service manager.
    public var managerSocket: Int32? { page.pointee.own.2 < 0 ? nil : page.pointee.own.2 }

    public func beat() { keeper_beat(page) }

    /// Somebody has stopped the keeper (SIGSTOP), and means this process: it stops as well. The keeper lets it go on.
    public func stopIfStopped() {
        var line = [UInt8](repeating: 0, count: 512)
        let descriptor = open("/proc/\(getppid())/stat", O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        let count = read(descriptor, &line, line.count)
        Glibc.close(descriptor)
        // The name, which may hold anything, ends with the last parenthesis.
        guard count > 0, let end = line[..<count].lastIndex(of: UInt8(ascii: ")")), end + 2 < count, line[end + 2] == UInt8(ascii: "T") else { return }
        raise(SIGSTOP)
    }
    /// So many more signals had their effect, and need not be sent again to the next worker.
    public func confirm(signals count: UInt32) { keeper_confirm(page, count) }

    /// The descriptor of the memory that a next worker goes on from. Nil: there is none.
    public var kept: Int32? {
        get { keeper_kept(page) < 0 ? nil : keeper_kept(page) }
        nonmutating set { keeper_set_kept(page, newValue ?? -1) }
    }

    /// The descriptor of the configuration as it was last read. Nil: there is none.
    public var configurationDescriptor: Int32? { keeper_configuration(page) < 0 ? nil : keeper_configuration(page) }

    /// A next worker begins with these bytes where the file cannot be read.
    public func remember(configuration bytes: [UInt8]) {
        let descriptor = system_memory_file("tele-configuration")
        guard descriptor >= 0 else { return }
        guard bytes.withUnsafeBytes({ system_write(descriptor, $0.baseAddress, $0.count) }) == bytes.count else { return system_close(descriptor) }
        let before = configurationDescriptor
        keeper_set_configuration(page, descriptor)
        // What a dead worker left is closed with the rest of it (`inherited`).
        if let before, !Keeper.inherited.contains(before) { system_close(before) }
    }

    /// What the configuration file said when it was last read. Nil: nobody has read it, or it cannot be had.
    public var configuration: [UInt8]? {
        guard let descriptor = configurationDescriptor else { return nil }
        let count = lseek(descriptor, 0, SEEK_END)
        guard count >= 0 else { return nil }
        var bytes = [UInt8](repeating: 0, count: Int(count))
        guard bytes.withUnsafeMutableBytes({ pread(descriptor, $0.baseAddress, $0.count, 0) }) == count else { return nil }
        return bytes
    }

    /// The keeper becomes this program, in its own process, which is given the descriptor of a state; this process ends. Returns an error only
    /// if it cannot be asked.
    public func become(_ program: String, state: Int32) -> SystemError {
        let bytes = Array(program.utf8CString)
        guard bytes.count <= Int(KEEPER_PATH_MAXIMUM) else { return SystemError(ENAMETOOLONG) }
        withUnsafeMutableBytes(of: &page.pointee.program) { room in bytes.withUnsafeBytes { room.copyMemory(from: $0) } }
        page.pointee.state = state
        page.pointee.failed = 0
        keeper_set_kept(page, -1)
        keeper_replace(page)
    }
}
