import Glibc
import Logging
import Loop
import Relay

/// `tele connect`: one stream between stdin, stdout and a tele server. It survives outages as the others do.
///
/// The loop speaks to a socket, one end of a pair; two threads move bytes between the other end and the standard streams,
/// which may be anything and may block.
struct ConnectCommand {
    private let settings: Settings
    private let name: String
    /// A fault in the words of whoever asked for the connection.
    private let explain: (StartFault) -> StartFault

    init(_ settings: Settings, name: String, explain: @escaping (StartFault) -> StartFault = { $0 }) {
        self.settings = settings
        self.name = name
        self.explain = explain
    }

    func run() throws -> ExitStatus {
        var ends: [Int32] = [-1, -1]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
            ErrorMessage("cannot make a socket (\(SystemError.last))", hint: "is a limit reached?").print()
            return .failure
        }
        var configuration = settings.configuration
        configuration.stream = Configuration.Stream(fd: ends[0], name: name)
        configuration.mappings = []
        configuration.reverseMappings = []
        // A client's file may name them; they are the client's. One connection has one loop.
        configuration.metrics = nil
        configuration.control = nil
        configuration.threads = 1

        let log = try LogSink(format: settings.logFormat)
        var logger = Logger(label: "tele") { _ in LogLines(sink: log) }
        logger.logLevel = settings.logLevel

        try Signals.hold()
        let pumps = ends[1]
        // While it is open, stdout ends only where the stream ends in order: whoever started us may end us as soon as stdout does, and what is
        // to be said comes first.
        let held = fcntl(ends[0], F_DUPFD_CLOEXEC, 3)
        try Thread.start {
            ConnectCommand.move(from: STDIN_FILENO, to: pumps)
            shutdown(pumps, Int32(SHUT_WR))
            ConnectCommand.awaitNobody(at: STDOUT_FILENO)
            kill(getpid(), SIGHUP)
        }
        let output = try Thread.start {
            // The reader has gone: stop the other direction, too.
            if !ConnectCommand.move(from: pumps, to: STDOUT_FILENO) { shutdown(pumps, Int32(SHUT_RDWR)) }
            StandardStreams.end(STDOUT_FILENO)
        }
        let ending = Relay.run(configuration, logger: logger) { _ in }
        let status: ExitStatus
        switch ending {
        case .finished: status = .fine
        case .streamBroken(let reason):
            status = .failure
            // Empty: ssh has ended us, as it does when it is done.
            if !reason.isEmpty { log.write(ErrorMessage("the connection was lost (\(reason))", hint: "the log of the tele server may say more").text) }
        case .failed(let fault):
            let fault = explain(fault)
            status = ExitStatus(fault.kind)
            log.write(ErrorMessage(fault.sentence, hint: fault.hint).text)
        }
        log.flush(withinMilliseconds: 1000)
        if held >= 0 { Socket.close(held) }
        if case .failed = ending {} else { pthread_join(output, nil) }
        return status
    }

    /// Until nobody can read what is written there: whoever started us is gone, and would wait for nothing.
    private static func awaitNobody(at descriptor: Int32) {
        var wait = pollfd(fd: descriptor, events: 0, revents: 0)
        while wait.revents & Int16(POLLERR | POLLHUP) == 0 {
            // A file is never without a reader.
            guard poll(&wait, 1, -1) >= 0 || errno == EINTR, wait.revents & Int16(POLLNVAL) == 0 else { return sleepForEver() }
        }
    }

    private static func sleepForEver() { while true { sleep(.max) } }

    /// All that comes, until its end. False: it could not be written, or read.
    @discardableResult
    private static func move(from source: Int32, to sink: Int32) -> Bool {
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = read(source, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            if count < 0, errno == EAGAIN {
                var wait = pollfd(fd: source, events: Int16(POLLIN), revents: 0)
                _ = poll(&wait, 1, -1)
                continue
            }
            guard count > 0 else { return count == 0 }
            do { try StandardStreams.write(Array(buffer[..<count]), to: sink) } catch { return false }
        }
    }
}
