import Glibc

/// The descriptors of this process.
public enum OpenDescriptors {
    /// All but stdin, stdout and stderr.
    public static var all: Set<Int32> {
        guard let folder = opendir("/proc/self/fd") else { return [] }
        defer { closedir(folder) }
        var found: Set<Int32> = []
        while let entry = readdir(folder) {
            let name = withUnsafeBytes(of: entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
            if let number = Int32(name), number > 2, number != dirfd(folder) { found.insert(number) }
        }
        return found
    }

    /// What of `descriptors` is open still is closed.
    public static func close(_ descriptors: Set<Int32>) { for descriptor in descriptors { Glibc.close(descriptor) } }
}
