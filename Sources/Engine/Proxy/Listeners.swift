import Loop

/// The sockets that this process listens on, each with what it is for. One accept is under way on each, while there is
/// room.
final class Listeners {
    struct Entry {
        let fd: Int32
        /// Client: what its users' streams are opened with (docs/protocol.md §6.2).
        let target: UInt64
        fileprivate var isAccepting = false
        fileprivate var isPaused = false
        fileprivate var isClosed = false
    }

    unowned let hub: Hub
    private var entries: [Entry] = []
    /// Some listener waits for room.
    private var isHeldBack = false

    init(_ hub: Hub) { self.hub = hub }

    func add(_ fd: Int32, target: UInt64 = 0) { entries.append(Entry(fd: fd, target: target)) }

    /// Accepts wherever nothing is under way and there is room. Cheap when there is nothing to do: called each turn.
    func arm() {
        guard isHeldBack || !isArmed else { return }
        isArmed = true
        isHeldBack = false
        for index in entries.indices { arm(index) }
    }

    private var isArmed = false

    private func arm(_ index: Int) {
        guard !entries[index].isAccepting, !entries[index].isPaused, !entries[index].isClosed else { return }
        guard hub.host.mayAccept else {
            isHeldBack = true
            return
        }
        entries[index].isAccepting = hub.loop.accept(entries[index].fd, Operation.accept.token(UInt32(index)))
        if !entries[index].isAccepting { pause(index) }
    }

    private func pause(_ index: Int) {
        entries[index].isPaused = true
        hub.timers.set(Operation.acceptPause.token(UInt32(index)), at: hub.now + Policy.acceptPause.nanoseconds)
    }

    func handlePauseOver(_ token: Token) {
        let index = Int(token.index)
        entries[index].isPaused = false
        arm(index)
    }

    func handle(_ completion: Completion) {
        let index = Int(completion.token.index)
        entries[index].isAccepting = false
        if let error = completion.error {
            guard !entries[index].isClosed else { return hub.loop.close(entries[index].fd) }
            if error.isShortage {
                hub.journal.note(.cannotAccept(error))
                return pause(index)
            }
        } else if entries[index].isClosed {
            hub.loop.close(completion.result)
            return hub.loop.close(entries[index].fd)
        } else {
            hub.host.handleAccepted(completion.result, entries[index])
        }
        arm(index)
    }

    func close() {
        for index in entries.indices where !entries[index].isClosed {
            entries[index].isClosed = true
            Socket.shutdownListening(entries[index].fd)
            if entries[index].isAccepting { hub.loop.cancel(entries[index].fd) } else { hub.loop.close(entries[index].fd) }
        }
    }
}
