import Time
import Tunnel

/// The dialer's limits and delays (docs/protocol.md §9.3).
public enum DialPolicy {
    /// An attempt is abandoned when it is this old: a fresh one reaches a path that is whole again sooner.
    public static let attemptMaximum = Interval.seconds(3)
    /// One connect at a time may take longer: this at first, twice as much each time, up to what TCP itself bears (RFC
    /// 9293 §3.8.3). So a path with a round trip of many seconds gets a carrier too. The same holds for one handshake to each address: a
    /// server that a crowd has reached answers in the order of arrival, and who always comes anew is never answered.
    public static let patienceMinimum = Interval.seconds(6)
    public static let patienceMaximum = Interval.seconds(120)
    /// An unanswered HELLO keeps the next one on the same way back for this, or for twice what its connect took. Shorter
    /// than the pace: a middlebox that accepts and swallows must not slow the attempts down.
    public static let greetingMinimum = Interval.milliseconds(40)
    /// A connect that took hours of sleep says nothing of the path.
    public static let greetingMaximum = Interval.seconds(5)
    public static let answerMaximum = Interval.seconds(60)
    /// At the fastest pace an attempt gets a second and a half before newer ones need its place.
    public static let candidatesMaximum = 32
    /// Handshakes under way to one address at a time.
    public static let handshakesMaximum = 4
    /// A TLS handshake keeps the next one to the same address back for three round trips and at least this, twice as long after each,
    /// at most `handshakeMaximum` (or three round trips).
    public static let handshakeMinimum = Interval.milliseconds(400)
    public static let handshakeMaximum = Interval.milliseconds(1600)
    /// And for this when the server has answered it.
    public static let handshakeHeard = Interval.seconds(2)
    /// One of several handshakes that was silent for this long, or for six round trips, is replaced by a fresh one.
    public static let handshakeSilence = Interval.seconds(1)
    /// A connection that waits for its turn is fresh for this long, or for two round trips.
    public static let spareMinimum = Interval.milliseconds(100)
    /// After a permanent failure.
    public static let lastingPause = Interval.milliseconds(900)
    /// TCP sends a SYN again after this (RFC 6298 §2.1).
    public static let synRetransmission = Interval.seconds(1)
    /// On a long path attempts follow each other at a quarter of a round trip, at most this.
    public static let longPathPace = Interval.milliseconds(200)
    /// While connections are made and none is welcomed, the network is well and somebody is slow: with two of them open attempts follow each
    /// other at 100 ms, with more at this. No slower, because a middlebox may accept what it cannot pass on.
    public static let connectedPace = Interval.milliseconds(200)
    /// Through a proxy each attempt is a connection to the proxy, and one of the proxy's to the server.
    public static let proxyPace = Interval.milliseconds(250)
    /// One of several carriers to a server: the first one dials at the usual pace, and all others follow at once when it is welcomed.
    public static let extraPace = Interval.milliseconds(250)
    /// Some firewalls ban an address that opens connections too often, and each further attempt renews the ban. `ufw limit` bans for 30 s.
    /// When all attempts have gone unanswered for `unansweredMaximum`, nothing is dialled for `banPause`.
    public static let banPause = Interval.seconds(33)
    /// Before the first pause without a carrier, before the first pause beside a silent one (which may come back by itself, and then
    /// no attempt is needed), and between pauses.
    public static let unansweredMaximum = Interval.seconds(20)
    public static let unansweredMaximumBesideCarrier = Interval.seconds(120)
    public static let unansweredBetweenPauses = Interval.seconds(300)
    /// A middlebox that changes bytes lets each carrier connect, and its end follows at once. After so many carriers in a row that were
    /// lost before anything was answered, the next one waits for 50 ms, twice as long each time, at most `fruitlessPause`: each costs both
    /// sides a handshake and the retransmission of all unacknowledged bytes.
    public static let fruitlessAtOnce = 3
    public static let fruitlessPause = Interval.milliseconds(900)
    /// So many carriers in a row carried nothing, or attempts were connected and not welcomed: perhaps the path drops packets of full
    /// size (RFC 2923 §2.1).
    public static let fruitlessMaximum = 2
    public static let unansweredInRowMaximum = 3
    /// Bytes of a TCP segment on such a path: with all headers less than the 1280 that each link of IPv6 carries (RFC 8200 §5).
    public static let smallSegmentByteCount: Int32 = 1200
}

/// How fast fresh connects follow each other while the carrier is down or in doubt: very fast for a minute, in which most
/// outages end (a SYN is 60 bytes), fast for ten, then once a second for ever, so that whoever is back is noticed within that.
/// Jitter keeps a hundred clients apart.
public struct DialPace {
    public static let eager = Interval.milliseconds(50)
    public static let eagerFor = Interval.seconds(60)
    public static let fast = Interval.milliseconds(200)
    public static let slow = Interval.milliseconds(900)
    public static let turnedAway = Interval.milliseconds(100)
    public static let fastFor = Interval.seconds(600)

    private var startedAt: Instant

    public init(now: Instant) { startedAt = now }

    public mutating func restart(now: Instant) { startedAt = now }

    /// Where the host answers and the server does not, attempts follow each other at a hundredth of the time that this has lasted, at most
    /// `turnedAway`: the server's program is being started, and hundreds of clients that knock twenty times a second would keep its host from
    /// doing so. No slower, and not before five seconds, because a middlebox may answer so while the path is down.
    public func nextWhenTurnedAway(now: Instant) -> Interval {
        min(Interval(nanoseconds: now.since(startedAt).nanoseconds / 100), DialPace.turnedAway)
    }

    /// Until the next attempt; up to a tenth less than the pace.
    public func next(now: Instant, using generator: inout some RandomNumberGenerator) -> Interval {
        let age = now.since(startedAt)
        let base = (age < DialPace.eagerFor ? DialPace.eager : age < DialPace.fastFor ? DialPace.fast : DialPace.slow).nanoseconds
        return Interval(nanoseconds: base / 10 * 9 + UInt64.random(in: 0...(base / 10), using: &generator))
    }
}
