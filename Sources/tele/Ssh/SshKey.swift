import Glibc
import Loop
import Relay

/// The key for one host's tele server: made once, in this user's cache, where nobody else reads it.
struct SshKey {
    let path: String
    let line: String

    /// Where keys stand. Nil: this user has no home.
    static var folder: String? { (variable("XDG_CACHE_HOME") ?? variable("HOME").map { "\($0)/.cache" }).map { "\($0)/tele" } }

    static func variable(_ name: String) -> String? {
        getenv(name).map { String(cString: $0) }.flatMap { $0.hasPrefix("/") ? $0 : nil }
    }

    init(host: String) throws {
        guard let folder = SshKey.folder else {
            throw CommandError.ssh("HOME is not set", hint: "the key for the host is kept there, or under XDG_CACHE_HOME")
        }
        mkdir(String(folder.dropLast(5)), 0o700)
        guard mkdir(folder, 0o700) == 0 || errno == EEXIST else { throw SshKey.fault("make \(folder)") }
        // A host's name is safe in a path when it is letters, digits and these.
        let name = String(
            host.utf8.map { byte in
                let scalar = Unicode.Scalar(byte)
                return scalar.properties.isAlphabetic && byte < 0x80 || (0x30...0x39).contains(byte) || ".-:".unicodeScalars.contains(scalar)
                    ? Character(scalar) : "_"
            })
        path = "\(folder)/ssh-\(name).key"
        if access(path, F_OK) != 0 { try SshKey.make(path) }
        // Read as a client will read it: with the same demands on its mode and owner.
        guard let key = try KeyFile(path: path).keys.first else { throw CommandError.ssh("\(path) holds no key", hint: "remove it") }
        line = key.line
    }

    /// Whole or not at all; of two that come together the first one's.
    private static func make(_ path: String) throws {
        guard let line = KeyFile.line(name: "ssh") else { throw CommandError.ssh("cannot make a key", hint: "is /dev/urandom there?") }
        let fresh = "\(path).\(getpid())"
        let fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard fd >= 0 else { throw fault("write \(fresh)") }
        defer { unlink(fresh) }
        guard write(fd, line, line.utf8.count) == line.utf8.count, fsync(fd) == 0, close(fd) == 0 else { throw fault("write \(fresh)") }
        guard link(fresh, path) == 0 || errno == EEXIST else { throw fault("write \(path)") }
    }

    private static func fault(_ what: String) -> CommandError {
        let reason = SystemError.last.description
        return CommandError.ssh("cannot \(what) (\(reason))", hint: "the key for the host is kept there; XDG_CACHE_HOME=FOLDER is another place")
    }
}
