import Glibc

/// The one clock of a tele process: CLOCK_BOOTTIME, which is monotonic and goes on while the machine is suspended, so
/// that a notebook that wakes knows how long it slept.
public enum Clock {
    /// Nanoseconds since boot.
    public static func now() -> UInt64 { read(CLOCK_BOOTTIME) }

    /// Nanoseconds since boot in which the machine slept; read twice, so up to a turn of this thread too many.
    static func slept() -> UInt64 {
        let awake = read(CLOCK_MONOTONIC)
        return now() - awake
    }

    private static func read(_ clock: clockid_t) -> UInt64 {
        var time = timespec()
        clock_gettime(clock, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}
