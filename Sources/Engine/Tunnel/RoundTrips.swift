import Time

/// The path's round trips, as TCP and our own PINGs measure them (docs/protocol.md 8.5).
struct RoundTrips {
    /// Smoothed, queues included, of answers that came in time: for patience.
    private(set) var usual = Interval.milliseconds(10)
    /// What the last PONG took, if it came in time.
    private(set) var latest = Interval.milliseconds(10)
    /// The path without queues: for credit. Follows a longer path slowly.
    private(set) var minimum = Interval.milliseconds(100)
    /// As TCP measured it on this carrier. Only this says that a path is very long: our own samples may hold hours of sleep.
    private(set) var handshake = Interval.zero
    private var isMeasured = false

    /// What TCP measured when the carrier connected: the path without our own delays.
    mutating func connected(in roundTrip: Interval) {
        minimum = isMeasured ? min(minimum, roundTrip) : roundTrip
        usual = max(usual, roundTrip)
        latest = roundTrip
        handshake = roundTrip
        isMeasured = true
    }

    /// A PONG in time.
    mutating func answered(in sample: Interval) {
        latest = sample
        // A queue may grow faster than an average follows.
        let average = Interval(nanoseconds: usual.nanoseconds / 8 * 7 + sample.nanoseconds / 8)
        usual = isMeasured ? max(average, Interval(nanoseconds: sample.nanoseconds / 2)) : sample
        minimum =
            !isMeasured || sample < minimum
            ? sample
            : Interval(nanoseconds: minimum.nanoseconds + (sample.nanoseconds - minimum.nanoseconds) / 16)
        isMeasured = true
    }

    /// A fresh carrier is measured anew at once.
    mutating func carrierAttached() {
        isMeasured = false
        handshake = .zero
    }
}
