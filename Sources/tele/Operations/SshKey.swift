import Glibc
import Proxy

/// The key for one host's tele server: made once, in this user's cache, where nobody else reads it.
struct SshKey {
    let path: String
    let line: String

    init(host: String) throws {
        func variable(_ name: String) -> String? { getenv(name).map { String(cString: $0) }.flatMap { $0.hasPrefix("/") ? $0 : nil } }
        guard let cache = variable("XDG_CACHE_HOME") ?? variable("HOME").map({ "\($0)/.cache" }) else {
            throw SshCommand.Trouble("HOME is not set", hint: "the key for the host is kept there")
        }
        for folder in [cache, "\(cache)/tele"] { mkdir(folder, 0o700) }
        // A host's name is safe in a path when it is letters, digits and these.
        let name = String(host.utf8.map { byte in
            let scalar = Unicode.Scalar(byte)
            return scalar.properties.isAlphabetic && byte < 0x80 || (0x30...0x39).contains(byte) || ".-:".unicodeScalars.contains(scalar)
                ? Character(scalar) : "_"
        })
        path = "\(cache)/tele/ssh-\(name).key"
        if access(path, F_OK) != 0 {
            guard let fresh = KeyFile.line(name: "ssh") else { throw SshCommand.Trouble("cannot make a key", hint: "is /dev/urandom there?") }
            let fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
            guard fd >= 0, write(fd, fresh, fresh.utf8.count) == fresh.utf8.count, close(fd) == 0 else {
                throw SshCommand.Trouble("cannot write \(path) (\(String(cString: strerror(errno)).lowercased()))", hint: "check the folder")
            }
        }
        // Read as a client will read it: with the same demands on its mode and owner.
        guard let key = try KeyFile(path: path).keys.first else { throw SshCommand.Trouble("\(path) holds no key", hint: "remove it") }
        line = key.line
    }
}
