import CSystem

/// The words that this process was started with.
public enum Arguments {
    /// Its own name first. As the system told main, not as /proc shows: that may not be mounted.
    public static var all: [String] {
        let count = system_argument_count()
        return count > 0 ? (0..<count).compactMap { system_argument($0).map { String(cString: $0) } } : CommandLine.arguments
    }
}
