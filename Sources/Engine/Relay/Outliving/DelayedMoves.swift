import Control
import Loop

/// Moves out of pipes that wait for the commit, so that the world sees nothing that a successor would not know.
final class DelayedMoves {
    private unowned(unsafe) let relay: RelayProcess
    private var carriers: [Carrier] = []
    private var locals: [(index: UInt32, generation: UInt32)] = []

    init(_ relay: RelayProcess) { self.relay = relay }

    /// The carrier takes its spliced frame: until then it is as if a send of it were under way.
    func add(_ carrier: Carrier) {
        carrier.inFlight.send = true
        carriers.append(carrier)
    }

    /// The local socket takes what lies in its pipes.
    func add(_ index: UInt32, _ generation: UInt32) {
        if !locals.contains(where: { $0 == (index, generation) }) { locals.append((index, generation)) }
    }

    var isEmpty: Bool { carriers.isEmpty && locals.isEmpty }

    /// Behind a commit. False: there was nothing to do, and nothing has changed.
    func make() -> Bool {
        guard !isEmpty else { return false }
        let (carriers, locals) = (carriers, locals)
        self.carriers.removeAll()
        self.locals.removeAll()
        for carrier in carriers { relay.sendSplice.writable(carrier) }
        for (index, generation) in locals where !relay.handover.isUnderWay { relay.receiveSplice.sendDelayed(index, generation) }
        return true
    }
}
