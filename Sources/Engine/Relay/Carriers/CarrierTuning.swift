import Control
import Loop
import Time
import Tunnel

/// What TCP is told about carriers, and what it knows of them.
enum CarrierTuning {
    static func apply(_ fd: Int32, isLoopback: Bool) {
        Socket.setTCP(fd, TCPOption.userTimeout, Policy.userTimeoutMilliseconds)
        Socket.setTCP(fd, TCPOption.retransmissionMaximum, Policy.retransmissionMaximumMilliseconds)
        // With the bound above the usual six repetitions of SYN would end after seven seconds; the dialer knows when to stop.
        Socket.setTCP(fd, TCPOption.connectRepetitions, Policy.connectRepetitions)
        if !isLoopback { Socket.setTCP(fd, TCPOption.notSentLowWater, Policy.notSentLowWater) }
    }

    /// Milliseconds to which the retransmissions of bulk back off where a round trip takes so long. TCP's time-out itself is bounded, too: where
    /// acknowledgments pause for longer, all that is on its way would be given up for lost, and the congestion window with it. What is not bulk
    /// keeps the usual bound: it is cheap to send again, and often the only way through an uplink that loses most of what it is given.
    static func retransmissionMaximum(forBulkOver roundTrip: Interval) -> Int32 {
        let longer = Int32(clamping: roundTrip.nanoseconds / 1_000_000 * 5 / 2)
        return min(max(Policy.retransmissionMaximumMilliseconds, longer), Policy.retransmissionMaximumFarMilliseconds)
    }

    /// linux/tcp.h; newer than Debian 12's headers, or missing in Swift's.
    enum TCPOption {
        static let segmentMaximum: Int32 = 2
        static let connectRepetitions: Int32 = 7
        static let userTimeout: Int32 = 18
        static let notSentLowWater: Int32 = 25
        static let retransmissionMaximum: Int32 = 44
    }
}

extension Carrier {
    /// Room for a burst: the client gives it to its server at once, a server to whom it knows.
    func widenReceive() {
        if !peer.isLoopback { Socket.widenReceive(fd, Policy.receiveAheadByteCount) }
    }

    /// The path's round trip is this: TCP's patience with bulk follows it. A system call only where it changes by a quarter.
    func follow(roundTrip: Interval, unacknowledged: Int) {
        subflows?.all.forEach { $0.follow(roundTrip: roundTrip, unacknowledged: unacknowledged) }
        let isBulk = unacknowledged >= Policy.bulkByteCount
        let wanted = isBulk ? CarrierTuning.retransmissionMaximum(forBulkOver: roundTrip) : Policy.retransmissionMaximumMilliseconds
        guard abs(wanted - retransmissionMaximum) * 4 > retransmissionMaximum else { return }
        retransmissionMaximum = wanted
        Socket.setTCP(fd, CarrierTuning.TCPOption.retransmissionMaximum, wanted)
    }

    /// Both directions: the peer is told when the connection begins (RFC 9293 §3.7.1). Before connect.
    func limitSegments(_ byteCount: Int32) { Socket.setTCP(fd, CarrierTuning.TCPOption.segmentMaximum, byteCount) }
}

extension PathFacts {
    /// `inboundWait`: what acknowledgments wait on their way here. It belongs to the path, which holds more for it; no window of ours makes
    /// it less without making the rate less too (a satellite's narrow uplink).
    func sample(inboundWait: Interval) -> PathWindow.Sample {
        let least = UInt64(minimumRoundTripMicroseconds) + inboundWait.nanoseconds / 1000
        return .init(
            acknowledged: acknowledgedByteCount, roundTrip: .microseconds(UInt64(roundTripMicroseconds)),
            minimumRoundTrip: .microseconds(min(least, max(UInt64(minimumRoundTripMicroseconds), UInt64(roundTripMicroseconds)))))
    }

    func held(unacknowledged: Int) -> PathWindow.Held {
        let gone = Int(arrivedOrLost) * Int(segmentByteCount)
        return .init(
            unacknowledged: max(0, unacknowledged - gone), unsent: Int(unsentByteCount),
            segments: Int(self.unacknowledged) - min(Int(self.unacknowledged), Int(arrivedOrLost)), window: Int(window))
    }

    /// Silence that a slow path explains: TCP hears acknowledgments, or nothing has timed out twice.
    var explainsSilence: Bool {
        guard unacknowledged > 0 else { return false }
        let patience = max(3 * roundTripMicroseconds / 1000, 500)
        return backoff < 2 && silenceMilliseconds < patience
    }
}
