import Glibc
import Loop

/// ssh as a child, or in our place.
enum SshProcess {
    /// Runs it with `input` on its stdin, and gathers its stdout; its stderr is ours, and so is the terminal for passwords.
    static func run(_ words: [String], input: String) throws -> (status: Int32, output: String) {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw fault("make a pipe") }
        // A key is short: it fits a pipe, so nobody waits for nobody.
        _ = write(ends[1], input, input.utf8.count)
        close(ends[1])
        defer { close(ends[0]) }
        return try run(words, stdin: ends[0])
    }

    static func run(_ words: [String], inputFile path: String) throws -> (status: Int32, output: String) {
        let fd = open(path, O_RDONLY | O_CLOEXEC)
        guard fd >= 0 else { throw fault("read \(path)") }
        defer { close(fd) }
        return try run(words, stdin: fd)
    }

    private static func run(_ words: [String], stdin: Int32) throws -> (status: Int32, output: String) {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw fault("make a pipe") }
        _ = fcntl(ends[0], F_SETFD, FD_CLOEXEC)
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, stdin, STDIN_FILENO)
        posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO)
        var attributes = SshProcess.attributes(alone: false)
        defer { posix_spawnattr_destroy(&attributes) }
        var child: pid_t = 0
        let failed = withWords(words) { posix_spawnp(&child, words[0], &actions, &attributes, $0, environ) }
        close(ends[1])
        guard failed == 0 else {
            close(ends[0])
            throw CommandError.ssh("cannot run \(words[0]) (\(SystemError(failed)))", hint: "is it installed?")
        }
        var output: [UInt8] = []
        var bytes = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = read(ends[0], &bytes, bytes.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0, output.count < 1 << 20 else { break }
            output += bytes[..<count]
        }
        close(ends[0])
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0, errno == EINTR {}
        let code = status & 0x7f == 0 ? status >> 8 & 0xff : 128 + status & 0x7f
        return (code, String(decoding: output, as: UTF8.self))
    }

    /// What we ignore the child does not; `alone`: it has a session of its own, and outlives the one that we are in.
    private static func attributes(alone: Bool) -> posix_spawnattr_t {
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        var defaults = sigset_t()
        sigemptyset(&defaults)
        sigaddset(&defaults, SIGPIPE)
        posix_spawnattr_setsigdefault(&attributes, &defaults)
        // POSIX_SPAWN_SETSID of glibc's spawn.h, which hides it without _GNU_SOURCE.
        let setsid: Int16 = 0x80
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGDEF) | (alone ? setsid : 0))
        return attributes
    }

    /// This program once more, by itself, with nothing of ours but its log.
    static func startAlone(_ words: [String], log: String) throws -> pid_t {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0)
        posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0o600)
        var attributes = attributes(alone: true)
        defer { posix_spawnattr_destroy(&attributes) }
        var child: pid_t = 0
        let failed = withWords(words) { posix_spawn(&child, "/proc/self/exe", &actions, &attributes, $0, environ) }
        guard failed == 0 else {
            throw CommandError.ssh("cannot start a server (\(SystemError(failed)))", hint: "is a limit reached?")
        }
        return child
    }

    /// A small file of ours.
    static func text(of path: String) throws -> String {
        let fd = open(path, O_RDONLY | O_CLOEXEC)
        guard fd >= 0 else { throw fault("read \(path)") }
        defer { close(fd) }
        var bytes = [UInt8](repeating: 0, count: 1 << 20)
        let count = read(fd, &bytes, bytes.count)
        guard count >= 0 else { throw fault("read \(path)") }
        return String(decoding: bytes[..<count], as: UTF8.self)
    }

    /// Does not return unless it fails.
    static func become(_ words: [String]) throws -> ExitStatus {
        signal(SIGPIPE, SIG_DFL)
        _ = withWords(words) { execvp(words[0], $0) }
        throw fault("run \(words[0])")
    }

    private static func withWords<Result>(_ words: [String], _ body: ([UnsafeMutablePointer<CChar>?]) -> Result) -> Result {
        let pointers: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        defer { for pointer in pointers { free(pointer) } }
        return body(pointers)
    }

    private static func fault(_ what: String) -> CommandError {
        CommandError.ssh("cannot \(what) (\(SystemError.last))", hint: "is it installed, and a limit reached?")
    }
}
