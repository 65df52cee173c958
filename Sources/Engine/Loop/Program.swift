import CSystem
import Glibc

/// Starts other programs: as a child, or in place of this one.
public enum Program {
    /// The absolute path that this program was started from; the file may have been replaced since. Nil: not known. Read it before the
    /// working directory changes.
    public static let path: String? = {
        let name = Arguments.all.first ?? ""
        if name.hasPrefix("/") { return name }
        if name.contains("/"), let folder = getcwd(nil, 0) {
            defer { free(folder) }
            return "\(String(cString: folder))/\(name)"
        }
        for folder in (getenv("PATH").map { String(cString: $0) } ?? "").split(separator: ":") where folder.hasPrefix("/") {
            if access("\(folder)/\(name)", X_OK) == 0 { return "\(folder)/\(name)" }
        }
        return nil
    }()

    /// execv(2). Returns only an error, as -errno.
    public static func replace(_ path: String, _ arguments: [String]) -> Int32 {
        var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        defer { for word in words { free(word) } }
        execv(path, &words)
        return -errno
    }

    /// Starts a child with stdin and stdout at /dev/null, and with no signal blocked. Inherits no other descriptor than `standardError`.
    public static func start(_ path: String, _ arguments: [String], standardError: Int32) throws(SystemError) -> pid_t {
        var actions = posix_spawn_file_actions_t()
        var attributes = posix_spawnattr_t()
        posix_spawn_file_actions_init(&actions)
        posix_spawnattr_init(&attributes)
        defer {
            posix_spawn_file_actions_destroy(&actions)
            posix_spawnattr_destroy(&attributes)
        }
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0)
        posix_spawn_file_actions_adddup2(&actions, standardError, STDERR_FILENO)
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        defer { for word in words { free(word) } }
        var pid: pid_t = 0
        let failed = posix_spawn(&pid, path, &actions, &attributes, &words, environ)
        guard failed == 0 else { throw SystemError(failed) }
        return pid
    }

    /// A memfd, close-on-exec (`Socket.keep` changes that). The caller closes it.
    public static func memoryFile(_ name: String) throws(SystemError) -> Int32 {
        let fd = system_memory_file(name)
        guard fd >= 0 else { throw SystemError(-fd) }
        return fd
    }

    /// A pidfd (Linux 5.3), readable when the child has exited. The caller closes it.
    public static func exitWatch(_ pid: pid_t) throws(SystemError) -> Int32 {
        let fd = system_exit_watch(pid)
        guard fd >= 0 else { throw SystemError(-fd) }
        return fd
    }
}
