import CSystem

/// The processors that this process may use.
public enum Cores {
    /// At least 1. Those of its affinity; a container's share of time is not counted.
    public static var count: Int { Int(system_core_count()) }
}
