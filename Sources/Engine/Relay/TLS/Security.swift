import CTLS
import Loop

/// How carriers are protected. With keys or certificates there is never plaintext on one.
public enum Security: Equatable, Sendable {
    case none
    /// Pre-shared keys, in a `KeyFile`.
    case keys(file: String)
    /// TLS certificates on both sides, as PEM files; of the peers that the authority has signed only those in `allowed`, if
    /// any are named.
    case certificates(chain: String, key: String, authority: String, allowed: [String])
}

extension Security {
    /// What is renewed while the process runs: certificate chain, private key, authorities.
    var certificateFiles: [String] {
        if case .certificates(let chain, let key, let authority, _) = self { [chain, key, authority] } else { [] }
    }
}

/// What this process authenticates with, as read from its files; read again on SIGHUP.
final class Credentials {
    private let security: Security
    private let isServer: Bool
    private var context: OpaquePointer
    /// The files as they were when they were last read.
    private var readFiles: [FileStamp] = []
    /// Identities of keys that open, on a server.
    private var identities: Set<String> = []
    private var allowed: [String] = []

    /// Nil: carriers are plain. `acceptsKeysOfOthers`: also from a file of another user.
    init?(_ configuration: Configuration, acceptsKeysOfOthers: Bool = false) throws(StartFault) {
        guard configuration.security != .none else { return nil }
        security = configuration.security
        isServer = configuration.role == .server
        readFiles = security.certificateFiles.map(FileStamp.init)
        (context, identities, allowed) = try Credentials.load(security, isServer, acceptsKeysOfOthers)
    }

    deinit { tls_context_release(context) }

    /// Reads the files again. A fault changes nothing.
    func reload() throws(StartFault) {
        let files = security.certificateFiles.map(FileStamp.init)
        let fresh = try Credentials.load(security, isServer)
        readFiles = files
        tls_context_release(context)
        (context, identities, allowed) = fresh
    }

    /// Certificates, keys or authorities have other files than those that were read.
    var areOutdated: Bool { readFiles != security.certificateFiles.map(FileStamp.init) }

    /// Seconds since 1970 when this side's certificates, or all authorities, will have expired. Nil with keys.
    var expiry: Int64? {
        let seconds = tls_context_expiry(context)
        return seconds > 0 && seconds < .max ? seconds : nil
    }

    /// Whether the peer of a carrier that authenticated before the last reload may go on.
    func accepts(_ channel: SecureChannel) -> Bool {
        guard case .certificates = security else { return name(of: channel.peer) != nil }
        return name(of: channel.peer) != nil && channel.isTrusted(by: context)
    }

    /// A connection's TLS. With certificates a client expects the name of `server`; nil on a server. Nil: no memory.
    func channel(to server: HostPort? = nil) -> SecureChannel? {
        // No certificate names a link of this machine.
        let name = server.map { $0.host.prefix { $0 != "%" } }
        guard let channel = tls_channel_open(context, name.map { $0.isEmpty ? "localhost" : String($0) }) else { return nil }
        return SecureChannel(channel)
    }

    /// Whose keys open, on a server. Nil with certificates, whose names are not known beforehand.
    var keyNames: Set<String>? {
        guard case .keys = security else { return nil }
        return Set(identities.compactMap { $0.split(separator: ":").dropFirst().first.map(String.init) })
    }

    /// The name by which a peer that authenticated is known; nil when it is not, or no more, among those who may come.
    func name(of peer: String) -> String? {
        switch security {
        case .none:
            return nil
        case .keys:
            guard identities.contains(peer) else { return nil }
            return peer.split(separator: ":").dropFirst().first.map(String.init)
        case .certificates:
            return allowed.isEmpty || allowed.contains(peer) ? peer : nil
        }
    }

    private static func load(_ security: Security, _ isServer: Bool, _ acceptsKeysOfOthers: Bool = false) throws(StartFault)
        -> (OpaquePointer, Set<String>, [String])
    {
        var why = [CChar](repeating: 0, count: 256)
        let context: OpaquePointer?
        var identities: Set<String> = []
        var allowed: [String] = []
        switch security {
        case .none:
            preconditionFailure("no credentials are needed")
        case .keys(let path):
            let file = try KeyFile(path: path, acceptsOthers: acceptsKeysOfOthers)
            guard isServer || file.keys.count == 1 else {
                throw StartFault(
                    .configuration, "the key file \(path) of this client holds \(file.keys.count) keys",
                    hint: "a client has one; leave the line with its name")
            }
            identities = Set(file.keys.map(\.identity))
            var keys = file.keys.map(tls_key.init)
            context = tls_context_keys(isServer, &keys, keys.count, &why, why.count)
            keys.withUnsafeMutableBytes { tls_forget($0.baseAddress!, $0.count) }
        case .certificates(let chain, let key, let authority, let names):
            allowed = names
            context = tls_context_certificates(isServer, chain, key, authority, &why, why.count)
        }
        guard let context else {
            let words = String(decoding: why.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            throw StartFault(
                .configuration, "cannot use the certificates (\(words))",
                hint: words.contains("encrypted")
                    ? "openssl pkey -in FILE -out FILE.plain takes the passphrase off; chmod 600 FILE.plain"
                    : "-cert, -cert-key and -ca name PEM files that this user can read")
        }
        return (context, identities, allowed)
    }
}

extension tls_key {
    fileprivate init(_ key: KeyFile.Key) {
        self.init()
        withUnsafeMutableBytes(of: &identity) { place in
            place.copyBytes(from: key.identity.utf8.prefix(Int(TLS_IDENTITY_MAXIMUM) - 1))
        }
        withUnsafeMutableBytes(of: &self.key) { $0.copyBytes(from: key.bytes) }
    }
}
