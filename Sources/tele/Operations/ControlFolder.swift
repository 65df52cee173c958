import Glibc

/// Where running processes have their control sockets, so that `tele status` finds them: one file each, called by its
/// process's number.
enum ControlFolder {
    /// Where this process would put its own: a service manager's folder, then the user's, then the system's; at last one of its own in
    /// /tmp, for users without a session (cron, sudo, containers).
    private static var own: [String] {
        let given = value("RUNTIME_DIRECTORY").map { [String($0.prefix { $0 != ":" })] } ?? []
        let user = value("XDG_RUNTIME_DIR").map { ["\($0)/tele"] } ?? []
        let usual = "/run/user/\(geteuid())"
        return given + user + (access(usual, W_OK | X_OK) == 0 ? ["\(usual)/tele"] : [])
            + (geteuid() == 0 ? ["/run/tele"] : []) + ["/tmp/tele-\(geteuid())"]
    }

    /// A folder that nobody else can change. In /tmp anybody may have made one of this name.
    private static func isSafe(_ folder: String) -> Bool {
        // The service manager made it, and says whose it is.
        if folder == value("RUNTIME_DIRECTORY").map({ String($0.prefix { $0 != ":" }) }) { return true }
        var status = stat()
        return lstat(folder, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR && status.st_uid == geteuid() && status.st_mode & 0o022 == 0
    }

    private static func value(_ name: String) -> String? {
        getenv(name).map { String(cString: $0) }.flatMap { $0.hasPrefix("/") ? $0 : nil }
    }

    /// The path for this process's socket; its folder is there afterwards. Nil: there is no place for it.
    static func ownSocket() -> String? {
        for folder in own {
            mkdir(folder, 0o700)
            if isSafe(folder), access(folder, W_OK | X_OK) == 0 { return "\(folder)/\(getpid()).sock" }
        }
        return nil
    }

    /// Every socket that this user may find, in the order of the names.
    static func all() -> [String] {
        let folders = own.filter(isSafe) + ["/run/tele"]
        var seen: Set<String> = []
        return folders.flatMap { folder in
            let entries = list(folder).map { "\(folder)/\($0)" }
            return entries.filter(isSocket) + entries.flatMap { inner in list(inner).map { "\(inner)/\($0)" }.filter(isSocket) }
        }.filter { seen.insert($0).inserted }
    }

    /// The one that is meant.
    static func only(_ given: String?) throws(CommandError) -> String {
        if let given { return given }
        let found = all().filter { (try? ControlClient(path: $0).get("/healthz")) != nil }
        guard let first = found.first else {
            throw CommandError("no running tele process of this user was found", hint: "name its socket: -control=PATH")
        }
        guard found.count == 1 else {
            throw CommandError("\(found.count) tele processes are running", hint: "say which: -control=\(first)")
        }
        return first
    }

    private static func list(_ folder: String) -> [String] {
        guard let directory = opendir(folder) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names.sorted()
    }

    private static func isSocket(_ path: String) -> Bool {
        var status = stat()
        return lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFSOCK
    }
}

extension [String] {
    /// The value of `--name=value` among normalised words.
    func value(of name: String) -> String? {
        last { $0.hasPrefix("--\(name)=") }.map { String($0.dropFirst(name.utf8.count + 3)) }
    }
}
