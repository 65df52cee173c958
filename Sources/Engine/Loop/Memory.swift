import Glibc

/// What this process takes of the machine, and what it may take.
public enum Memory {
    /// Bytes that this process may use at most: its control group's limit and those above it (cgroups(7)), or the machine's memory. Nil
    /// where the system says neither.
    public static var limit: Int? {
        var limits: [Int] = []
        let pages = sysconf(Int32(_SC_PHYS_PAGES))
        if pages > 0 { limits.append(pages * sysconf(Int32(_SC_PAGESIZE))) }
        for line in text("/proc/self/cgroup").split(separator: "\n") {
            // Version 2 has the line "0::/PATH"; of version 1 the one with the controller "memory" counts.
            let parts = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
            guard parts.count == 3, parts[0] == "0" || parts[1].split(separator: ",").contains("memory") else { continue }
            let (root, file) = parts[0] == "0" ? ("/sys/fs/cgroup", "memory.max") : ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            var path = parts[2]
            while true {
                if let limit = Int(text("\(root)\(path)/\(file)").prefix { $0 != "\n" }), limit > 0 { limits.append(limit) }
                guard let slash = path.lastIndex(of: "/"), path.count > 1 else { break }
                path = path[..<slash]
            }
            // In a container, the group's path may be the host's, and its own group the root that it sees.
            if let limit = Int(text("\(root)/\(file)").prefix { $0 != "\n" }), limit > 0 { limits.append(limit) }
        }
        return limits.min()
    }

    private static func text(_ path: String) -> String {
        let fd = open(path, O_RDONLY | O_CLOEXEC)
        guard fd >= 0 else { return "" }
        defer { close(fd) }
        var text = [UInt8](repeating: 0, count: 4096)
        let count = read(fd, &text, text.count)
        return String(decoding: text.prefix(max(0, count)), as: UTF8.self)
    }

    /// Bytes of memory in use (VmRSS); 0 where the system does not say.
    public static var residentByteCount: Int {
        let words = text("/proc/self/statm").split(separator: " ")
        return words.count > 1 ? (Int(words[1]) ?? 0) * sysconf(Int32(_SC_PAGESIZE)) : 0
    }
}
