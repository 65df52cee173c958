import Time
import Tunnel

/// How many bytes the kernel may hold of a carrier, sent or not: what waits there can no longer be reordered, so a keystroke
/// waits for all of it.
///
/// Open until the path shows a queue: more delay than its least round trip explains. Then it is what the path holds, the
/// delivered rate times the least round trip, and a little more: `allowance` of queue, which keeps the line busy. No queue at
/// that size means that there is more to find: the window grows by a quarter, and faster while the rate really follows.
///
///     open ──a queue──▶ bounded ──no queue──▶ (grows) ──a queue──▶ (rate × round trip)
///       ▲                  └──a queue that stays whatever we do: it is somebody else's──▶ open, for a while
///
/// TCP's own delivery rate is not used: bound by this window, TCP calls itself idle and keeps an old rate for ever.
public struct PathWindow: Sendable {
    /// What TCP says of a carrier at one time.
    public struct Sample: Sendable {
        /// Bytes acknowledged since the connection began.
        public let acknowledged: UInt64
        /// Smoothed; and the least of the last minutes.
        public let roundTrip, minimumRoundTrip: Interval

        public init(acknowledged: UInt64, roundTrip: Interval, minimumRoundTrip: Interval) {
            self.acknowledged = acknowledged
            self.roundTrip = roundTrip
            self.minimumRoundTrip = minimumRoundTrip
        }
    }

    /// The queue that keeps a line busy: a fifth of the round trip, at least this, which is also what jitter may look like, and
    /// what four packets take: TCP sends and acknowledges no single ones.
    static let allowanceMinimum = Interval.milliseconds(3)
    static let burst: UInt64 = 6000
    /// Between samples: a round trip, at least this.
    static let sampleMinimum = Interval.milliseconds(10)
    /// A pause longer than this says nothing of the rate.
    static let sampleMaximum = Interval.seconds(2)
    /// Rates remembered, one a sample.
    static let rateCount = 4
    /// Bytes that a path holds, at least and at most: whatever the kernel says, arithmetic stays within.
    static let floor = 16 << 10
    static let most = 1 << 40
    /// A queue that lasts for this many samples, and this time, is not ours; then the window stays open for a while.
    static let patience = (samples: 12, time: Interval.seconds(1))
    static let openFor = Interval.seconds(30)
    /// Of a satellite in geostationary orbit: what the peer tells of a queue on the way back is a second old or two, and until then that one
    /// looks like ours. A shorter queue than this is left alone there.
    static let far = Interval.milliseconds(400)
    static let queueWhenFar = Interval.seconds(1)
    /// A batch is at most what the path carries in this time, or in this part of its least round trip: short batches end in short segments,
    /// whose acknowledgments a narrow way back cannot carry.
    static let chunk = Interval.milliseconds(1)
    static let chunkPart: UInt64 = 50
    static let chunkMinimum = 3000

    /// BBR shuts its window to so many segments every ten seconds, for 200 ms. Half of that is left to who comes next, for no
    /// longer than this: after a loss TCP needs all of it to grow again.
    static let tinyWindow = 4
    static let tinyFor = Interval.milliseconds(300)
    static let segment = 1400

    /// Nil: open.
    public private(set) var limit: Int?
    private var last: (acknowledged: UInt64, at: Instant)?
    /// Bytes a second, the newest last.
    private var rates: [UInt64] = []
    private var roundTrip = Interval.zero
    /// Without queues, here and on the way back.
    private var leastRoundTrip = Interval.zero
    private var growth = 0
    private var stubborn = (count: 0, since: Instant.never)
    private var tinySince: Instant?
    private var openUntil = Instant(nanoseconds: 0)

    public init() {}

    public func isSampleDue(now: Instant) -> Bool {
        guard let last else { return true }
        return now.since(last.at) >= max(roundTrip, PathWindow.sampleMinimum)
    }

    private var rate: UInt64 { rates.max() ?? 0 }

    public mutating func measured(_ sample: Sample, now: Instant) {
        defer {
            last = (sample.acknowledged, now)
            roundTrip = sample.roundTrip
            leastRoundTrip = sample.minimumRoundTrip
        }
        guard let last, sample.acknowledged >= last.acknowledged, now > last.at,
            now.since(last.at) <= max(PathWindow.sampleMaximum, sample.roundTrip * 2)
        else { return rates.removeAll() }
        let elapsed = now.since(last.at).nanoseconds
        let bytes = min(sample.acknowledged - last.acknowledged, 1 << 33)
        let newest = bytes * 1_000_000 / max(1, elapsed / 1_000)
        let isFaster = newest / 11 > rate / 10
        if rates.count == PathWindow.rateCount { rates.removeFirst() }
        rates.append(newest)

        let usual = max(PathWindow.allowanceMinimum.nanoseconds, sample.minimumRoundTrip.nanoseconds / 5)
        let burst = min(PathWindow.burst * 1_000_000_000 / max(1, rate), 1_000_000_000)
        let allowance = Interval(nanoseconds: usual + burst)
        let queue = Interval(
            nanoseconds: sample.roundTrip.nanoseconds
                - min(
                    sample.roundTrip.nanoseconds,
                    sample.minimumRoundTrip.nanoseconds))
        let fit = max(PathWindow.floor, worth(Interval(nanoseconds: sample.minimumRoundTrip.nanoseconds + allowance.nanoseconds)))
        guard let limit else {
            let isFar = sample.minimumRoundTrip >= PathWindow.far
            if queue > (isFar ? max(allowance * 2, PathWindow.queueWhenFar) : allowance * 2), now >= openUntil { self.limit = fit }
            return
        }
        if queue.nanoseconds <= allowance.nanoseconds / 2 {
            stubborn = (0, .never)
            growth = isFaster ? min(growth + 1, 4) : 1
            self.limit = max(limit, fit / 4 * (4 + growth))
            return
        }
        growth = 0
        self.limit = fit
        stubborn = queue > allowance * 3 ? (stubborn.count + 1, min(stubborn.since, now)) : (0, .never)
        if stubborn.count >= PathWindow.patience.samples, now.since(stubborn.since) >= PathWindow.patience.time {
            self.limit = nil
            stubborn = (0, .never)
            openUntil = now + PathWindow.openFor
        }
    }

    /// Bytes that pass in the interval.
    private func worth(_ interval: Interval) -> Int {
        let bytes = rate.multipliedFullWidth(by: interval.nanoseconds)
        guard bytes.high < 1_000_000_000 else { return PathWindow.most }
        return Int(min(UInt64(1_000_000_000).dividingFullWidth(bytes).quotient, UInt64(PathWindow.most)))
    }

    /// Bytes that pass in the interval while the window is open; 0 when it is not, or nothing was measured lately.
    public func openWorth(_ interval: Interval) -> Int { limit == nil ? worth(interval) : 0 }

    /// What the kernel holds now.
    public struct Held: Sendable {
        /// Bytes that are not acknowledged and have not arrived out of order; of these, bytes that TCP has not sent even once.
        public let unacknowledged, unsent: Int
        /// Segments: on the way, and how many TCP's own window lets be there.
        public let segments, window: Int

        public init(unacknowledged: Int, unsent: Int, segments: Int, window: Int) {
            self.unacknowledged = unacknowledged
            self.unsent = unsent
            self.segments = segments
            self.window = window
        }
    }

    /// How many bytes may be handed over: none, or a piece that is worth the call.
    public mutating func room(_ held: Held, now: Instant) -> Int {
        guard let limit else { return .max }
        tinySince = held.window > PathWindow.tinyWindow ? nil : tinySince ?? now
        if let tinySince, now.since(tinySince) < PathWindow.tinyFor {
            return held.unsent == 0 && held.segments < PathWindow.tinyWindow / 2 ? PathWindow.segment : 0
        }
        // What is unsent in a full window stays.
        guard held.unsent < (held.segments < held.window ? worthOfChunk : 1) else { return 0 }
        let room = max(0, limit - held.unacknowledged)
        return room >= min(worthOfChunk, limit / 2) ? min(room, worthOfChunk) : 0
    }

    /// How much of one stream goes before another's turn: half of what goes at once.
    public var quantum: Int { limit == nil ? .max : worthOfChunk / 2 }

    /// When to look again after no room.
    public func retryDelay(_ held: Held) -> Interval {
        guard let limit, rate > 0 else { return .milliseconds(1) }
        let missing = UInt64(max(0, held.unacknowledged + worthOfChunk - limit))
        return min(max(.milliseconds(1), Interval(nanoseconds: min(missing, 1 << 32) * 1_000_000_000 / rate)), .milliseconds(20))
    }

    private var worthOfChunk: Int {
        max(PathWindow.chunkMinimum, worth(max(PathWindow.chunk, Interval(nanoseconds: leastRoundTrip.nanoseconds / PathWindow.chunkPart))))
    }
}
