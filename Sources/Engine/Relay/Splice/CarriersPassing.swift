import CSlab
import Glibc
import Loop
import Time
import Tunnel

/// From the carrier through a pipe into a user's socket, without a copy: while payload comes fast, the carrier is read when it
/// is readable; what lies between payload, in small receives.
extension Carriers {
    /// All that came was read; `wasFull`: more is there. Long payload that comes next is passed on.
    func notePayload(_ carrier: Carrier, _ session: Session, wasFull: Bool) {
        guard wasFull, !carrier.passes, mayPass(carrier), carrier.block.unread.isEmpty,
              let due = session.endpoint.payloadDue, due.byteCount >= Policy.passAbove,
              relay.locals.mayBePassed(due.owner) else { return }
        carrier.passes = true
        carrier.shortPayloads = 0
        keepWarm(carrier)
    }

    /// TLS has to touch every byte. On a long path the CPU is not the limit, and more is on its way than pipes hold.
    private func mayPass(_ carrier: Carrier) -> Bool {
        guard carrier.transport.channel == nil else { return false }
        return switch relay.configuration.splicing {
        case .always: true
        case .never: false
        case .auto: carrier.isLoopback || carrier.isNear
        }
    }

    /// The carrier is readable.
    func pass(_ carrier: Carrier) {
        var left = Policy.spliceTurnByteCount
        while left > 0, carrier.passes, !carrier.isUnfinished, let session = carrier.session, session.carrier === carrier,
              let count = passNext(carrier, session) {
            left -= count
        }
        guard !carrier.isOver else { return }
        if left < Policy.spliceTurnByteCount {
            carrier.arrivedAt = relay.now
            keepWarm(carrier)
        }
        // The kernel reported it readable and no call moved a byte: a receive finds out why (`LocalSockets.spliceFailed`).
        if left == Policy.spliceTurnByteCount { carrier.passes = false }
        readers.append(carrier)
    }

    /// Bytes that were read. Nil: no more for now, or for ever.
    private func passNext(_ carrier: Carrier, _ session: Session) -> Int? {
        guard carrier.block.unread.isEmpty, let due = session.endpoint.payloadDue else {
            return readNext(carrier, Policy.headerByteCount)
        }
        let result = relay.locals.pass(due.owner, from: carrier.fd, due.byteCount)
        switch result {
        case .moved(let count):
            session.endpoint.passed(count, now: relay.instant)
            noteLength(carrier, count, of: due.byteCount, least: Policy.passLeast)
            session.endpoint.heard(now: relay.instant)
            relay.sessions.markDirty(session)
            relay.host.handleProven(session)
            relay.sessions.noteLife(session)
            return count
        case .busy:
            return readNext(carrier, due.byteCount)
        default:
            stop(carrier, result)
            return nil
        }
    }

    /// Nothing was read.
    private func stop(_ carrier: Carrier, _ result: PipeBacklog.Filled) {
        switch result {
        case .moved, .busy, .nothing: break
        case .notPossible: carrier.passes = false
        case .failed(let error) where error.isShortage: carrier.passes = false
        case .failed(let error): lost(carrier, error.description)
        // A splice says so at an urgent mark, too: the next receive tells the truth.
        case .ended: carrier.passes = false
        }
    }

    /// Frames that are no long payload are read many at a time.
    private func noteBetween(_ carrier: Carrier, wasFull: Bool) {
        guard let session = carrier.session else { return }
        guard let due = session.endpoint.payloadDue else {
            if wasFull { carrier.passes = false }
            return
        }
        noteLength(carrier, due.byteCount, of: .max, least: Policy.passAbove / 2)
    }

    /// Short pieces cost more than copies, and each holds a whole page of the kernel: a peer that drips is read into memory.
    private func noteLength(_ carrier: Carrier, _ count: Int, of due: Int, least: Int) {
        carrier.shortPayloads = count < min(least, due) ? carrier.shortPayloads + 1 : carrier.shortPayloads / 2
        if carrier.shortPayloads >= Policy.passEndStreak { carrier.passes = false }
    }

    /// Into memory, at most so many bytes.
    private func readNext(_ carrier: Carrier, _ most: Int) -> Int? {
        let wasBetween = carrier.session?.endpoint.payloadDue == nil
        guard makeRoom(carrier) else {
            carrier.passes = false
            return nil
        }
        let most = min(carrier.block.room.count, most)
        let result = PipeBacklog.Filled(Socket.receive(carrier.fd, carrier.block.room.baseAddress!, most))
        guard case .moved(let count) = result else {
            stop(carrier, result)
            return nil
        }
        carrier.block.filled += count
        read(carrier)
        if wasBetween { noteBetween(carrier, wasFull: count == most) }
        return count
    }
}
