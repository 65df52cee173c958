import Relay

/// How the process ends, in the numbers of sysexits.h. What is wrong on the command line itself is 64, also a
/// value out of range; 78 is for what only shows when it is tried, such as a driver that this kernel forbids.
enum ExitStatus: Int32 {
    case fine = 0
    case failure = 1
    case usage = 64
    case unavailable = 69
    /// The other side does not accept this one.
    case denied = 77
    case configuration = 78
    /// As ssh says that it could not.
    case ssh = 255
    /// The demo was stopped, by SIGINT or by another signal, in the numbers that shells use.
    case interrupted = 130
    case terminated = 143

    init(_ kind: StartFault.Kind) {
        switch kind {
        case .unavailable: self = .unavailable
        case .denied: self = .denied
        case .configuration: self = .configuration
        case .other: self = .failure
        }
    }
}
