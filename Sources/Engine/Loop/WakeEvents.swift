import CSystem

/// Word from the kernel that the machine has slept. Nothing else says so at once: the ring waits on a clock that stands still meanwhile,
/// and a link that came up during sleep makes no event. A timer of the wall clock that is cancelled when that clock jumps is cancelled
/// when the machine wakes (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET); a clock that was set is told apart by how the clocks differ.
public struct WakeEvents {
    public let fd: Int32
    /// Nanoseconds that the machine has slept since it was started.
    private var slept = Clock.slept()

    /// Nil where timers are forbidden; a sleep is then noticed when the next timer is due.
    public init?() {
        fd = system_wake_watch()
        guard fd >= 0 else { return nil }
    }

    /// Call when `fd` is readable. Nanoseconds that the machine has slept since the last call; 0: the clock was set.
    public mutating func take() -> UInt64 {
        system_rearm_wake_watch(fd)
        let before = slept
        slept = Clock.slept()
        return slept > before ? slept - before : 0
    }
}
