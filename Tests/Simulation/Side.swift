public enum Side: Int, Sendable, CaseIterable {
    case client = 0, server = 1
    public var other: Side { self == .client ? .server : .client }
}

/// Nanoseconds of virtual time.
func milliseconds(_ count: Int) -> UInt64 { UInt64(count) * 1_000_000 }
func microseconds(_ count: Int) -> UInt64 { UInt64(count) * 1_000 }
