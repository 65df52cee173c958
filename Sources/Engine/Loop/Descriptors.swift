import CSystem

/// How many descriptors this process may have.
public enum Descriptors {
    /// Raises the soft limit to the hard one and returns it.
    public static func raiseLimit() -> Int {
        Int(clamping: system_raise_descriptor_limit())
    }

    /// How many it has now; 0 where /proc cannot be read.
    public static func count() -> Int { Int(clamping: system_descriptor_count()) }
}
