import CTLS
import Glibc
import Loop

/// Files that hold secrets: keys, passwords.
enum SecretFile {
    static let byteCountMaximum = 1 << 20

    /// The text of a regular file that this user may read, of this user or root, that nobody else may change, and nobody may read but
    /// named groups: so service managers hand secrets over (systemd's credentials since 254, Kubernetes' secrets), whose lists of users
    /// (ACL) show as bits of the group. `what`: for people. `hint`: when it cannot be read. `acceptsOthers`: whosever it is.
    static func read(_ path: String, _ what: String, hint: String, acceptsOthers: Bool) throws(StartFault) -> String {
        let fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard fd >= 0 else {
            throw StartFault(.configuration, "cannot read the \(what) \(path) (\(SystemError.last))", hint: hint)
        }
        defer { close(fd) }
        var status = stat()
        guard fstat(fd, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw StartFault(.configuration, "the \(what) \(path) is not a regular file", hint: "name the file itself")
        }
        guard acceptsOthers || status.st_uid == geteuid() || status.st_uid == 0 else {
            throw StartFault(
                .configuration, "the \(what) \(path) belongs to user \(status.st_uid)",
                hint: "it must belong to root or to the user that runs tele, \(geteuid())")
        }
        guard status.st_mode & 0o027 == 0 else {
            let mode = String(status.st_mode & 0o7777, radix: 8)
            throw StartFault(
                .configuration, "the \(what) \(path) is accessible to others (mode \(mode), owner \(status.st_uid))",
                hint: "chmod 600 \(path), or 640 for a group")
        }
        guard status.st_size <= byteCountMaximum else {
            throw StartFault(.configuration, "the \(what) \(path) is too large", hint: hint)
        }
        var bytes = [UInt8](repeating: 0, count: Int(status.st_size) + 1)
        defer { tls_forget(&bytes, bytes.count) }
        var filled = 0
        while filled < bytes.count {
            let count = Glibc.read(fd, &bytes[filled], bytes.count - filled)
            guard count >= 0 else {
                throw StartFault(.configuration, "cannot read the \(what) \(path) (\(SystemError.last))", hint: "check the file")
            }
            if count == 0 { break }
            filled += count
        }
        return String(decoding: bytes[..<filled], as: UTF8.self)
    }
}
