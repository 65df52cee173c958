import Glibc
import Loop
import Relay

/// `tele ssh-host MARK SSHPORT PORT`, run by `tele ssh` on the host: one server for this user and this sshd, found by its control
/// socket, or else started. The client's key comes on stdin; the answer is one line behind MARK.
struct SshServer {
    /// A server that starts has this long to answer.
    private static let startSeconds = 10

    private let mark: String
    private let sshPort: UInt16
    private let wanted: UInt16

    init(_ arguments: [String]) throws {
        guard arguments.count == 3, let sshPort = UInt16(arguments[1]), let wanted = UInt16(arguments[2]) else {
            throw CommandError.ssh("this command is for tele ssh alone", hint: "write tele ssh HOST")
        }
        mark = arguments[0]
        self.sshPort = sshPort
        self.wanted = wanted
    }

    func run() throws -> ExitStatus {
        let said: String
        do {
            guard let key = readLine(), !key.isEmpty else { throw CommandError.ssh("the client sent no key", hint: "") }
            said = "port \(try port(key))"
        } catch let trouble as CommandError {
            said = "trouble \(trouble.sentence)"
        }
        // Whatever was printed before may lack its newline.
        return try StandardStreams.print("\n\(mark) \(said)")
    }

    /// Where sshd took the connection that we run in: it may listen nowhere else.
    private var sshd: String {
        let words = getenv("SSH_CONNECTION").map { String(cString: $0).split(separator: " ").map(String.init) } ?? []
        guard words.count == 4, UInt16(words[3]) != nil else { return "localhost:\(sshPort)" }
        return words[2].contains(":") ? "[\(words[2])]:\(words[3])" : "\(words[2]):\(words[3])"
    }

    private func port(_ key: String) throws -> UInt16 {
        let folder = try SshServer.folder(for: sshd, wanted)
        // One at a time: two that come together would start two.
        let lock = open("\(folder)/lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard lock >= 0 else { throw SshServer.fault("make \(folder)/lock") }
        defer { close(lock) }
        guard flock(lock, LOCK_EX) == 0 else { throw SshServer.fault("lock \(folder)/lock") }
        let isNew = try add(key, to: "\(folder)/keys")
        let control = ControlClient(path: "\(folder)/control")
        if let status = try? control.status(), status.state == "running", let port = SshServer.port(of: status) {
            if isNew { kill(pid_t(status.pid), SIGHUP) }
            return port
        }
        return try start(folder, control)
    }

    private static func port(of status: Status) -> UInt16? { status.out.split(separator: ":").last.flatMap { UInt16($0) }.flatMap { $0 > 0 ? $0 : nil } }

    private func start(_ folder: String, _ control: ControlClient) throws -> UInt16 {
        let log = "\(folder)/log"
        let words = [
            SshCommand.ownPath ?? "tele", "-server", "-in=\(sshd)", "-out=:\(wanted)", "-key=\(folder)/keys", "-idle-exit=1m",
            "-control=\(control.path)",
        ]
        let child = try SshProcess.startAlone(words, log: log)
        for _ in 0..<(SshServer.startSeconds * 20) {
            if let status = try? control.status(), status.pid == Int(child), let port = SshServer.port(of: status) { return port }
            guard waitpid(child, nil, WNOHANG) == 0 else { break }
            usleep(50_000)
        }
        let said = (try? SshProcess.text(of: log).split(separator: "\n").last { $0.contains("error") }).map(String.init)
        throw CommandError.ssh(said ?? "it does not start; its log is \(log)", hint: "")
    }

    // MARK: Its folder

    /// Where the server has its socket, log and keys: the first place that can be written, else the reason of each.
    private static func folder(for sshd: String, _ wanted: UInt16) throws -> String {
        func variable(_ name: String) -> String? { getenv(name).map { String(cString: $0) }.flatMap { $0.hasPrefix("/") ? $0 : nil } }
        let places = [variable("XDG_RUNTIME_DIR"), "/run/user/\(geteuid())", variable("XDG_CACHE_HOME"), variable("HOME").map { "\($0)/.cache" }]
        var reasons: [String] = []
        for place in places.compactMap({ $0 }) {
            do throws(CommandError) { return try folder(in: place, for: sshd, wanted) } catch {
                if !reasons.contains(error.sentence) { reasons.append(error.sentence) }
            }
        }
        throw CommandError.ssh(reasons.isEmpty ? "HOME is not set" : reasons.joined(separator: "; "), hint: "")
    }

    private static func folder(in place: String, for sshd: String, _ wanted: UInt16) throws(CommandError) -> String {
        let name = sshd.map { "[]".contains($0) ? "" : $0 == ":" || $0 == "%" ? "_" : String($0) }.joined()
        var path = place
        // Nothing is made where there is no such place.
        if place.hasSuffix("/.cache") { mkdir(place, 0o700) }
        for part in ["tele", "ssh", wanted == 0 ? name : "\(name)-\(wanted)"] {
            path += "/\(part)"
            guard mkdir(path, 0o700) == 0 || errno == EEXIST else { throw fault("make \(path)") }
        }
        var status = stat()
        guard lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR, status.st_uid == geteuid(), status.st_mode & 0o077 == 0 else {
            throw CommandError.ssh("\(path) is not this user's alone", hint: "")
        }
        guard "\(path)/control".utf8.count <= 107 else { throw CommandError.ssh("\(path) is too long a path for a socket", hint: "") }
        // Room, and not only the permission.
        let probe = "\(path)/.room"
        let fd = open(probe, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard fd >= 0 else { throw fault("write in \(path)") }
        defer { unlink(probe) }
        let block = [UInt8](repeating: 0, count: 8192)
        guard write(fd, block, block.count) == block.count, close(fd) == 0 else { throw fault("write in \(path)") }
        return path
    }

    /// True: it was not there yet. Whoever reads the file meanwhile sees the old one or the new one.
    private func add(_ key: String, to path: String) throws -> Bool {
        let known = access(path, F_OK) == 0 ? try SshProcess.text(of: path) : ""
        guard !known.split(separator: "\n").contains(Substring(key)) else { return false }
        let fresh = "\(path).new"
        let fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        let text = known + key + "\n"
        guard fd >= 0, write(fd, text, text.utf8.count) == text.utf8.count, close(fd) == 0, rename(fresh, path) == 0 else {
            throw SshServer.fault("write \(path)")
        }
        return true
    }

    private static func fault(_ what: String) -> CommandError {
        CommandError.ssh("cannot \(what): \(SystemError.last)", hint: "")
    }
}
