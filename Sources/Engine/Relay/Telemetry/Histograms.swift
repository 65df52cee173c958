import Histogram
import State

/// How long things took, and how much was sent again: since the start, with two significant digits.
struct Histograms {
    /// One of them. Values are microseconds or bytes; to the outside seconds or bytes.
    struct One {
        private var histogram: Histogram<UInt64>
        /// Upper ends of the buckets that a graph sees.
        let bounds: [Double]
        private let scale: Double
        private(set) var sum = 0.0

        init(_ bounds: [Double], scale: Double, most: UInt64) {
            histogram = Histogram(highestTrackableValue: most, numberOfSignificantValueDigits: .two)
            self.bounds = bounds
            self.scale = scale
            mostValue = most
        }

        private let mostValue: UInt64

        mutating func record(_ value: UInt64) {
            sum += Double(value) / scale
            histogram.record(min(value, mostValue))
        }

        mutating func add(_ other: One) {
            sum += other.sum
            for entry in other.histogram.recordedValues() { histogram.record(entry.value, count: entry.count) }
        }

        var count: UInt64 { histogram.totalCount }

        /// To its two digits.
        mutating func archive(_ archive: inout StateArchive) throws(StateFault) {
            var recorded = histogram.recordedValues().map { ($0.value, $0.count) }
            var total = sum.bitPattern
            try archive.number(&total)
            try archive.list(&recorded, most: 1 << 16, blank: (0, 0)) { (entry, archive) throws(StateFault) in
                try archive.number(&entry.0)
                try archive.number(&entry.1, in: 0...1 << 40)
            }
            guard !archive.isSaving else { return }
            sum = Double(bitPattern: total)
            // The library adds up what was recorded.
            var left: UInt64 = 1 << 62
            for (value, count) in recorded {
                let value = min(value, mostValue)
                guard count <= left / (value + 1) else { throw StateFault("a histogram has recorded more than there is") }
                left -= count * (value + 1)
                histogram.record(value, count: count)
            }
        }

        /// How many were at most `bound`, as near as the digits tell.
        func count(upTo bound: Double) -> UInt64 { histogram.count(within: 0...UInt64(bound * scale)) }
    }

    private static let day: UInt64 = 86_400_000_000

    var outage = One([0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86400], scale: 1e6, most: 31 * day)
    var recovery = One([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5], scale: 1e6, most: day)
    var replayed = One([0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9], scale: 1, most: 1 << 40)
    var roundTrip = One([0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5], scale: 1e6, most: day)
    var connect = One([0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10], scale: 1e6, most: day)

    mutating func archive(_ archive: inout StateArchive) throws(StateFault) {
        try outage.archive(&archive)
        try recovery.archive(&archive)
        try replayed.archive(&archive)
        try roundTrip.archive(&archive)
        try connect.archive(&archive)
    }

    mutating func add(_ other: Histograms) {
        outage.add(other.outage)
        recovery.add(other.recovery)
        replayed.add(other.replayed)
        roundTrip.add(other.roundTrip)
        connect.add(other.connect)
    }

    var all: [(name: String, help: String, One)] {
        [
            ("tele_outage_seconds", "Length of an outage: from its first sign to the new carrier.", outage),
            ("tele_recovery_seconds", "Time from the dial that ended an outage to the end of the outage.", recovery),
            ("tele_replayed_bytes", "Bytes sent again after an outage.", replayed),
            ("tele_carrier_round_trip_seconds", "Round trip of a carrier when it began or resumed a session.", roundTrip),
            ("tele_origin_connect_seconds", "Time that an origin took to accept a connection.", connect),
        ]
    }
}
