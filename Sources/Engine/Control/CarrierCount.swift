import Time

/// How many connections carry a client's streams to its server with `-carriers=auto` (docs/protocol.md 4.26). Pure: told what was counted, says how
/// many.
///
/// One is enough, unless the path loses packets: loss holds down the congestion window of each TCP connection, and streams that share one have
/// one window together, where without tele each has its own. So with loss there is a connection for each stream, at most `maximum`, and never more
/// than streams: together they take no more of the path than those streams would alone.
///
/// Congestion loses packets, too: all at once, when a window has grown over a queue; and a narrow way back loses some of the few that it
/// carries. So loss counts where it goes on, and each direction is judged by itself.
public struct CarrierCount: Sendable {
    /// Segments with data that one carrier has carried in one direction since it was made, and such of them as were lost.
    public struct Direction: Equatable, Sendable {
        public var segments: UInt64
        public var lost: UInt64

        public init(segments: UInt64, lost: UInt64) { (self.segments, self.lost) = (segments, lost) }

        mutating func add(_ other: Direction) {
            segments += other.segments
            lost += other.lost
        }

        /// Since `before`; of a carrier that has been made anew, nothing.
        func since(_ before: Direction) -> Direction {
            guard segments >= before.segments, lost >= before.lost else { return Direction(segments: 0, lost: 0) }
            return Direction(segments: segments - before.segments, lost: lost - before.lost)
        }
    }

    public struct Sample: Equatable, Sendable {
        public var streams: Int
        /// What was lost is what was sent again.
        public var sent: Direction
        /// What was lost is what came out of order.
        public var received: Direction

        public init(streams: Int, sent: Direction, received: Direction) { (self.streams, self.sent, self.received) = (streams, sent, received) }
    }

    /// One direction of all carriers.
    private struct Path {
        /// The last interval that said something showed loss.
        private var wasLossy = false

        /// Loss goes on: this interval shows it, and so did the last one that said something.
        mutating func isLossy(_ counted: Direction) -> Bool {
            guard counted.segments >= CarrierCount.segmentsMinimum else { return false }
            let isLossy = counted.lost * CarrierCount.lossOneIn >= counted.segments
            defer { wasLossy = isLossy }
            return isLossy && wasLossy
        }
    }

    /// How often it is asked.
    public static let interval = Interval.seconds(1)
    /// Fewer segments in an interval say nothing.
    public static let segmentsMinimum: UInt64 = 100
    /// One in so many lost: cubic's window is then less than 100 segments (RFC 9438 §5.2).
    public static let lossOneIn: UInt64 = 1000
    /// Carriers are kept for this long after loss was last seen to go on.
    public static let kept = Interval.seconds(600)

    public let maximum: Int
    private var last: [UInt64: Sample] = [:]
    private var sending = Path()
    private var receiving = Path()
    private var lostAt: Instant?
    private var wanted = 1

    public init(maximum: Int) { self.maximum = maximum }

    /// From here on it is counted.
    public mutating func begin(_ samples: [UInt64: Sample]) { last = samples }

    /// `samples`: of each carrier, by a number that is its own. Returns how many there shall be.
    public mutating func judge(_ samples: [UInt64: Sample], now: Instant) -> Int {
        var (sent, received) = (Direction(segments: 0, lost: 0), Direction(segments: 0, lost: 0))
        for (number, sample) in samples {
            guard let before = last[number] else { continue }
            sent.add(sample.sent.since(before.sent))
            received.add(sample.received.since(before.received))
        }
        last = samples
        let streams = samples.values.reduce(0) { $0 + $1.streams }
        let (sendsLossily, receivesLossily) = (sending.isLossy(sent), receiving.isLossy(received))
        if sendsLossily || receivesLossily { lostAt = now }
        guard let lostAt, now.since(lostAt) <= Self.kept else {
            wanted = 1
            return wanted
        }
        // Those that are there serve the next streams.
        wanted = max(wanted, min(streams, maximum))
        return wanted
    }
}
