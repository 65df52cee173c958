import Control
import Glibc
import Loop

/// Why an attempt to reach the tele server failed, as far as the attempt shows it.
struct ReachFailure: Equatable {
    enum Kind {
        /// It may pass by itself.
        case passing
        /// The port refuses connections.
        case refused
        /// One side does not accept the other: keys or certificates.
        case denied
        /// Another program listens there.
        case foreign
        /// The proxy rejects this client, or does not let it through.
        case deniedByProxy
        /// It speaks something else.
        case foreignProxy
    }

    let kind: Kind
    let reason: String

    init(_ reason: String) {
        self.reason = reason
        let starts = { (beginnings: [String]) in beginnings.contains { reason.hasPrefix($0) } }
        if reason == SystemError(ECONNREFUSED).whenConnecting {
            kind = .refused
        } else if starts([
            "the server wants a key", "the server does not accept", "its certificate", "closed during the handshake",
            "closed without an answer", "it does not have the key", "it has no certificate",
        ]) {
            kind = .denied
        } else if starts(["the other side does not speak tele"]) {
            kind = .foreign
        } else {
            kind = .passing
        }
    }

    /// What a proxy said, or why it could not be asked.
    init(_ failure: ProxyHandshake.Failure) {
        reason = failure.reason
        kind = failure.cause == .unreachable ? .passing : failure.cause == .denied ? .deniedByProxy : .foreignProxy
    }

    /// It does not pass until somebody mends something.
    var isLasting: Bool { kind == .denied || kind == .foreign || kind == .deniedByProxy || kind == .foreignProxy }

    /// Another attempt of the same client will be rejected, too.
    var isDenied: Bool { kind == .denied || kind == .deniedByProxy }

    /// What a person can look at.
    var hint: String {
        switch kind {
        case .refused: "is \"tele -server\" running there?"
        case .denied: "do both sides have the same keys, or certificates of the same CA?"
        case .foreign: "does -out name the port of \"tele -server\"?"
        case .deniedByProxy: "are -proxy and -proxy-auth right, and does the proxy let this port through?"
        case .foreignProxy: "does -proxy name the kind and the port of the proxy?"
        case .passing where reason.hasPrefix("the proxy"): "is the proxy up, and does it reach \"tele -server\"?"
        case .passing where reason.hasPrefix("cannot resolve"): "is the name in -out right?"
        case .passing where reason.hasPrefix("refused by the server"): "what does the server's log say?"
        case .passing where reason == SystemError(ETIMEDOUT).whenConnecting: "is the host up, and does a firewall let its port through?"
        case .passing: "is the network up, and \"tele -server\" running there?"
        }
    }
}
