import Glibc

/// Who may connect to a Unix-domain socket: the mode and the group of its file.
public struct SocketAccess: Equatable, Sendable {
    /// Bits of chmod(2); to connect takes the right to write. Nil: as the umask leaves it.
    public var mode: UInt32?
    /// Its name or number. Nil: that of the process.
    public var group: String?

    /// Only this user.
    public static let owner = SocketAccess(mode: 0o600)

    public init(mode: UInt32? = nil, group: String? = nil) {
        self.mode = mode
        self.group = group
    }

    /// Sets what is asked for, on a file that nobody else can connect to yet.
    public func apply(to path: String) throws(SystemError) {
        if let group {
            guard let number = SocketAccess.number(of: group) else { throw SystemError(ESRCH) }
            guard lchown(path, uid_t.max, number) == 0 else { throw SystemError.last }
        }
        // Not the target of a symbolic link that replaced the file meanwhile.
        if let mode, fchmodat(AT_FDCWD, path, mode, AT_SYMLINK_NOFOLLOW) != 0 { throw SystemError.last }
    }

    /// The number of a group. Nil: there is none of this name.
    public static func number(of group: String) -> gid_t? {
        if let number = gid_t(group) { return number }
        return getgrnam(group)?.pointee.gr_gid
    }
}
