import Glibc

/// An errno, translated once at the border: a number for comparisons, words for people.
public struct SystemError: Error, Equatable, Hashable, Sendable, CustomStringConvertible {
    public let code: Int32

    public init(_ code: Int32) { self.code = code }

    /// The errno of the call that has just failed.
    public static var last: SystemError { SystemError(errno) }

    public var description: String {
        switch code {
        case ECONNREFUSED: "connection refused"
        case ECONNRESET: "connection reset by the other side"
        case EPIPE: "connection closed by the other side"
        case ETIMEDOUT: "no answer in time"
        case EHOSTUNREACH: "host unreachable"
        case ENETUNREACH: "network unreachable"
        case ENETDOWN: "network down"
        case EADDRINUSE: "address already in use"
        case EADDRNOTAVAIL: "not an address of this machine"
        case EACCES: "permission denied"
        case EPERM: "not permitted"
        case EMFILE, ENFILE: "out of file descriptors"
        case ENOBUFS, ENOMEM: "out of memory"
        default: String(cString: strerror(code)).lowercased()
        }
    }

    /// The same of a connect, where some mean something else than of a bind.
    public var whenConnecting: String {
        switch code {
        case EADDRNOTAVAIL: "no local port available for another connection to this address"
        case EACCES, EPERM: "not permitted by this machine"
        case ENOENT: "no such socket"
        default: description
        }
    }

    /// The operation was interrupted or cancelled, and may be started again at once.
    public var isPassing: Bool { code == EAGAIN || code == EINTR || code == ECANCELED }

    /// The system is short of something and may have it again in a moment.
    public var isShortage: Bool {
        code == EMFILE || code == ENFILE || code == ENOBUFS || code == ENOMEM
    }
}
