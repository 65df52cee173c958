import CSystem
import Glibc

/// Word from the kernel that files changed (inotify(7)). Their folders are watched, also those that symbolic links lead to: who renews a
/// file puts another in its place, or changes where a link points.
public struct FileEvents {
    public let fd: Int32
    private let paths: [String]

    /// Nil: nothing to watch, or this user has no room for one more watch.
    public init?(_ paths: [String]) {
        guard !paths.isEmpty else { return nil }
        fd = system_file_events()
        guard fd >= 0 else { return nil }
        self.paths = paths
        watch()
    }

    private func watch() {
        for path in paths {
            system_watch_folder(fd, FileEvents.folder(of: path))
            guard let target = realpath(path, nil) else { continue }
            system_watch_folder(fd, FileEvents.folder(of: String(cString: target)))
            free(target)
        }
    }

    private static func folder(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    /// Reads all that waits, and watches what links lead to now. What was told does not matter: `FileStamp` knows.
    public func drain() {
        var buffer = [UInt8](repeating: 0, count: 4096)
        while system_read(fd, &buffer, buffer.count) > 0 {}
        watch()
    }
}

/// Which file a path leads to, and when it was last written. Two that are equal have the same contents.
public struct FileStamp: Equatable, Sendable {
    private let device: UInt64
    private let number: UInt64
    private let byteCount: Int64
    private let seconds: Int
    private let nanoseconds: Int

    /// A file that is not there equals another that is not there.
    public init(_ path: String) {
        var status = stat()
        if stat(path, &status) != 0 { status = stat() }
        device = UInt64(status.st_dev)
        number = UInt64(status.st_ino)
        byteCount = Int64(status.st_size)
        seconds = status.st_mtim.tv_sec
        nanoseconds = status.st_mtim.tv_nsec
    }
}
