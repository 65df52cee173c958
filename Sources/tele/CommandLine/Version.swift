/// What this binary is, and what it was built for.
enum Version {
    static let number = "0.1.0"
    static let text = "tele \(number)\n\(built)"

    private static var built: String {
        #if arch(x86_64)
        let machine = "x86_64"
        #elseif arch(arm64)
        let machine = "aarch64"
        #else
        let machine = "unknown machine"
        #endif
        #if DEBUG
        let kind = "debug build"
        #else
        let kind = "release build"
        #endif
        return "linux \(machine), io_uring and epoll, \(kind)"
    }
}
