import Glibc

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
        var child: pid_t = 0
        let failed = withWords(words) { posix_spawnp(&child, words[0], &actions, nil, $0, environ) }
        close(ends[1])
        guard failed == 0 else {
            close(ends[0])
            throw SshCommand.Trouble("cannot run \(words[0]) (\(String(cString: strerror(failed)).lowercased()))", hint: "is it installed?")
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

    private static func fault(_ what: String) -> SshCommand.Trouble {
        SshCommand.Trouble("cannot \(what) (\(String(cString: strerror(errno)).lowercased()))", hint: "is it installed, and a limit reached?")
    }
}
