import CSystem

/// The one clock of a tele process: CLOCK_BOOTTIME, which is monotonic and goes on while the machine is suspended, so
/// that a notebook that wakes knows how long it slept.
public enum Clock {
    /// Nanoseconds since boot.
    public static func now() -> UInt64 { system_now() }

    /// Nanoseconds since boot in which the machine slept; read twice, so up to a turn of this thread too many.
    static func slept() -> UInt64 { system_slept() }

    /// Blocks the calling thread for this many nanoseconds.
    public static func sleep(nanoseconds: UInt64) { system_sleep(nanoseconds) }
}
