import Time

/// How many carriers a client has to its server with `-carriers=auto` (docs/protocol.md 4.26). Pure: told what was counted, says how many.
///
/// One is enough, unless the path loses packets: loss holds down the congestion window of each TCP connection, and streams that share one have
/// one window together, where without tele each has its own. So with loss there is a carrier for each stream, at most `maximum`, and never more
/// than streams: together they take no more of the path than those streams would alone. Only new streams can use a new carrier.
public struct CarrierCount: Sendable {
    /// What one carrier has carried since it was made, in both directions.
    public struct Sample: Equatable, Sendable {
        public var streams: Int
        /// Segments with data.
        public var segments: UInt64
        /// Of these, such as were sent again or came out of order.
        public var lost: UInt64

        public init(streams: Int, segments: UInt64, lost: UInt64) { (self.streams, self.segments, self.lost) = (streams, segments, lost) }
    }

    /// How often it is asked.
    public static let interval = Interval.seconds(1)
    /// Fewer segments in an interval say nothing.
    public static let segmentsMinimum: UInt64 = 100
    /// One in so many lost: cubic's window is then less than 100 segments (RFC 9438 §5.2).
    public static let lossOneIn: UInt64 = 1000
    /// Carriers are kept for this long after the last loss.
    public static let kept = Interval.seconds(600)

    public let maximum: Int
    private var last: [UInt32: Sample] = [:]
    private var lostAt: Instant?
    private var wanted = 1

    public init(maximum: Int) { self.maximum = maximum }

    /// `samples`: of each carrier, by a number that is its own. Returns how many there shall be.
    public mutating func judge(_ samples: [UInt32: Sample], now: Instant) -> Int {
        var (segments, lost): (UInt64, UInt64) = (0, 0)
        for (number, sample) in samples {
            // One that has been made anew counts from nothing.
            guard let before = last[number], sample.segments >= before.segments, sample.lost >= before.lost else { continue }
            segments += sample.segments - before.segments
            lost += sample.lost - before.lost
        }
        last = samples
        let streams = samples.values.reduce(0) { $0 + $1.streams }
        if segments >= Self.segmentsMinimum, lost * Self.lossOneIn >= segments { lostAt = now }
        guard let lostAt, now.since(lostAt) <= Self.kept else {
            wanted = 1
            return wanted
        }
        // Those that are there serve the next streams.
        wanted = max(wanted, min(streams, maximum))
        return wanted
    }
}
