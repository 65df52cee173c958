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
