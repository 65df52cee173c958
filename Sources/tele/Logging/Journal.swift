import Glibc

/// systemd's journal at the other end of a descriptor.
enum Journal {
    /// JOURNAL_STREAM is inherited by children whose stderr leads elsewhere, hence the comparison
    /// (systemd.exec(5)).
    static func reads(_ descriptor: Int32) -> Bool {
        guard let value = getenv("JOURNAL_STREAM") else { return false }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { return false }
        return String(cString: value) == "\(status.st_dev):\(status.st_ino)"
    }
}
