/// A point on the monotonic clock that goes on during suspend (CLOCK_BOOTTIME). The tunnel never reads it; the owner
/// hands it in.
public struct Instant: Comparable, Hashable, Sendable {
    public let nanoseconds: UInt64

    @inlinable public init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

    @inlinable public static var never: Instant { Instant(nanoseconds: .max) }

    @inlinable public static func < (left: Instant, right: Instant) -> Bool { left.nanoseconds < right.nanoseconds }

    @inlinable public static func + (instant: Instant, interval: Interval) -> Instant {
        let (sum, overflow) = instant.nanoseconds.addingReportingOverflow(interval.nanoseconds)
        return overflow ? .never : Instant(nanoseconds: sum)
    }

    /// Zero when `other` is later.
    @inlinable public func since(_ other: Instant) -> Interval {
        Interval(nanoseconds: nanoseconds > other.nanoseconds ? nanoseconds - other.nanoseconds : 0)
    }
}

/// A length of time. 64-bit nanoseconds: `Duration` is 128 bits of attoseconds, too much for every event.
public struct Interval: Comparable, Hashable, Sendable {
    public let nanoseconds: UInt64

    @inlinable public init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

    @inlinable public static func microseconds(_ count: UInt64) -> Interval { Interval(nanoseconds: count * 1_000) }
    @inlinable public static func milliseconds(_ count: UInt64) -> Interval { Interval(nanoseconds: count * 1_000_000) }
    @inlinable public static func seconds(_ count: UInt64) -> Interval { Interval(nanoseconds: count * 1_000_000_000) }
    @inlinable public static var zero: Interval { Interval(nanoseconds: 0) }

    @inlinable public static func < (left: Interval, right: Interval) -> Bool { left.nanoseconds < right.nanoseconds }

    @inlinable public static func * (interval: Interval, factor: UInt64) -> Interval {
        let (product, overflow) = interval.nanoseconds.multipliedReportingOverflow(by: factor)
        return Interval(nanoseconds: overflow ? .max : product)
    }
}
