import Control
import Loop
import Time
import Tunnel

/// With `-carriers=auto`: counts what is lost on the way to the current server while streams are open, and so how many connections carry them
/// (docs/protocol.md 4.26). Nobody wakes up for a client without streams.
final class LossWatch {
    unowned(unsafe) private let client: Client
    unowned(unsafe) private let relay: RelayProcess
    private var count = CarrierCount(maximum: Configuration.carriersMaximum)
    /// Connections that the current server's path needs.
    private var wanted = 1
    private var isRunning = false

    init(_ client: Client) { (self.client, relay) = (client, client.relay) }

    private var isAutomatic: Bool { relay.configuration.carriers == nil && relay.configuration.stream == nil }

    /// They are subflows of the one carrier, which serve streams that are open, too. Else, with an older server or behind a proxy, they are
    /// further sessions, which serve new ones.
    private var serveAsSubflows: Bool { client.current.subflows.isPossible }

    /// Sessions that there shall be with the current server.
    var sessions: Int {
        if let configured = relay.configuration.carriers { return relay.configuration.stream == nil ? configured : 1 }
        return isAutomatic && !serveAsSubflows ? wanted : 1
    }

    /// There is a stream.
    func run() {
        guard isAutomatic, !isRunning else { return }
        count.begin(samples)
        lookLater()
    }

    private func lookLater() {
        isRunning = true
        relay.timers.set(Operation.carrierCount.token(), at: relay.now + CarrierCount.interval.nanoseconds)
    }

    func handleTimer() {
        isRunning = false
        guard !relay.handover.isUnderWay else { return }
        let samples = samples
        wanted = count.judge(samples, now: relay.instant)
        addSubflows()
        // The path has not lost anything for long: one connection bounds its queue better than several do.
        if wanted == 1, client.current.session.carrier?.subflows?.sends == true { client.current.reconnect() }
        client.chooseExtras()
        if wanted > 1 || samples.values.contains(where: { $0.streams > 0 }) { lookLater() }
    }

    /// Also when the current server's carrier is a new one.
    func addSubflows() {
        guard isAutomatic, serveAsSubflows else { return }
        client.current.subflows.want(min(wanted, client.current.session.endpoint.streamCount))
    }

    /// What each connection to the current server has carried.
    private var samples: [UInt64: CarrierCount.Sample] {
        var samples: [UInt64: CarrierCount.Sample] = [:]
        for uplink in client.uplinksOfCurrentServer {
            guard let carrier = uplink.session.carrier else { continue }
            note(carrier, streams: uplink.session.endpoint.streamCount, in: &samples)
            for subflow in carrier.subflows?.all ?? [] { note(subflow, streams: 0, in: &samples) }
        }
        return samples
    }

    private func note(_ connection: Carrier, streams: Int, in samples: inout [UInt64: CarrierCount.Sample]) {
        guard let facts = PathFacts(connection.fd) else { return }
        samples[UInt64(connection.index) << 32 | UInt64(connection.generation)] = CarrierCount.Sample(
            streams: streams, sent: .init(segments: UInt64(facts.sentSegments), lost: UInt64(facts.repeatedSegments)),
            received: .init(segments: UInt64(facts.receivedSegments), lost: UInt64(facts.disorderedSegments)))
    }
}
