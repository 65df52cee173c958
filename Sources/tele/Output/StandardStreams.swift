import Glibc
import Loop
import Relay

/// stdin, stdout and stderr, whatever state the caller left them in.
enum StandardStreams {
    /// Ignores SIGPIPE, so that a reader that leaves is an error of one write, and fills the places of closed
    /// standard streams, so that no socket ever becomes "stderr". They are filled with /dev/null opened the
    /// wrong way round: a write to a stdout that was closed still fails.
    static func prepare() {
        signal(SIGPIPE, SIG_IGN)
        // The parent may have blocked them. The program that ran before in this process held them for us.
        if !Successor.isThisProgram {
            var none = sigset_t()
            sigemptyset(&none)
            pthread_sigmask(SIG_SETMASK, &none, nil)
        }
        for descriptor in Int32(0)...2 where fcntl(descriptor, F_GETFD) < 0 {
            // The lowest free number is this one, as the ones below are open by now.
            _ = open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY)
        }
    }

    /// Ends a stream, so that its reader sees the end. Its number stays taken: a socket that got it would be mistaken for the stream.
    static func end(_ descriptor: Int32) {
        let nothing = open("/dev/null", O_RDONLY | O_CLOEXEC)
        // Without a descriptor to spare it becomes another stderr, which ends it as well.
        _ = dup2(nothing >= 0 ? nothing : STDERR_FILENO, descriptor)
        if nothing >= 0 { close(nothing) }
    }

    /// Prints a text and a newline on stdout, all of it and at once.
    @discardableResult
    static func print(_ text: String) throws(OutputFault) -> ExitStatus {
        try write(Array((text + "\n").utf8), to: STDOUT_FILENO)
        return .fine
    }

    /// Writes every byte, also to a descriptor that someone else made non-blocking.
    static func write(_ bytes: [UInt8], to descriptor: Int32) throws(OutputFault) {
        var position = 0
        while position < bytes.count {
            let written = bytes.withUnsafeBytes {
                Glibc.write(descriptor, $0.baseAddress! + position, $0.count - position)
            }
            if written >= 0 {
                position += written
                continue
            }
            switch errno {
            case EINTR: continue
            case EAGAIN:
                var wait = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                _ = poll(&wait, 1, -1)
            default: throw OutputFault(number: errno)
            }
        }
    }
}

/// Why a write to a standard stream failed.
struct OutputFault: Error {
    let number: Int32
    var isReaderGone: Bool { number == EPIPE }
    var reason: String { SystemError(number).description }
}

/// What a person must know, in the two lines that every fault of tele has.
struct ErrorMessage {
    let text: String

    init(_ sentence: String, hint: String) {
        text = "tele: error: \(sentence)\ntele: hint: \(hint)\n"
    }

    /// For the time before there is a log. If stderr cannot be written, the exit status still tells.
    func print() {
        try? StandardStreams.write(Array(text.utf8), to: STDERR_FILENO)
    }
}
