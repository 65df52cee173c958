import CSlab
import Glibc
import Logging
import Loop
import Tunnel
import Wire

/// Sessions: from waiting bytes to frames to batches, and what becomes of a session.
extension Hub {
    /// A path that TCP knows to be slow is asked about again after this.
    static let patience = Interval.milliseconds(250)

    /// Gives waiting bytes their place in the sequence, starts the next send, lets go of what was acknowledged.
    func pump(_ session: SessionHost) {
        sequence(session)
        guard !session.isEnded else { return }
        if let carrier = session.carrier, carrier.state == .established, carrier.isGreetingSent, !carrier.sendSubmitted,
           session.endpoint.wantsBatch(now: instant) {
            submitBatch(session, carrier)
        }
        releaseAcknowledged(session)
        resumeReaders(session)
        schedule(session)
    }

    private func sequence(_ session: SessionHost) {
        let most = session.endpoint.isAttached ? Hub.batchByteCount : Hub.detachedBatchByteCount
        while session.endpoint.unsentByteCount < most {
            let room = most - session.endpoint.unsentByteCount
            guard let frame = session.endpoint.nextFrame(into: header, payloadMaximum: room) else { return }
            var failed = queue_append_copy(&session.store, arena, header.baseAddress, frame.headerByteCount)
            heldByteCount += frame.headerByteCount
            if frame.payloadByteCount > 0, failed == 0 {
                let user = users[frame.owner]
                failed = queue_move(&session.store, &user.pointee.inbound, arena, frame.payloadByteCount, Hub.copyBelow)
                session.waitingByteCount -= frame.payloadByteCount
                if user.pointee.flags.contains(.resetOwed), user.pointee.inboundCount == 0 {
                    session.endpoint.reset(user.pointee.slot, .reset, now: instant)
                    close(frame.owner, abort: true)
                }
            }
            guard failed == 0 else {
                log.error("out of memory for bytes in flight", metadata: ["session": "\(session.name)"])
                return end(session, .exhausted, "out of memory")
            }
            if frame.isOver {
                users[frame.owner].pointee.flags.remove(.hasStream)
                close(frame.owner, abort: false)
            }
        }
    }

    private func releaseAcknowledged(_ session: SessionHost) {
        var through = min(session.endpoint.acknowledged, session.endpoint.cursor)
        for carrier in session.pinning { through = min(through, carrier.pinnedFrom ?? .max) }
        guard through > session.store.head else { return }
        heldByteCount -= Int(through - session.store.head)
        queue_release(&session.store, arena, through)
    }

    /// Room came back: readers that waited for it try again.
    private func resumeReaders(_ session: SessionHost) {
        guard !session.readBlocked.isEmpty,
              configuration.bufferByteCount - session.heldByteCount > 0 else { return }
        let waiting = session.readBlocked
        session.readBlocked = []
        for index in waiting {
            guard users[index].pointee.fd >= 0,
                  users[index].pointee.session?.toOpaque() == Unmanaged.passUnretained(session).toOpaque() else { continue }
            users[index].pointee.flags.remove(.readBlocked)
            armReceive(index)
        }
    }

    // MARK: Time

    /// The session's place in the timers, if it must come up earlier than it would.
    func schedule(_ session: SessionHost) {
        let deadline = session.endpoint.nextTimeout.nanoseconds
        guard deadline < session.timerAt else { return }
        session.timerAt = deadline
        timers.add(Operation.sessionTimeout.token(session.index, session.generation), at: deadline)
    }

    func handleTimeout(_ session: SessionHost) {
        session.timerAt = .max
        guard !session.isEnded else { return }
        if session.endpoint.isSuspicionDue(now: instant), let carrier = session.carrier,
           PathFacts(carrier.fd)?.explainsSilence == true {
            session.endpoint.bePatient(until: instant + Hub.patience)
        }
        if session.endpoint.handleTimeout(now: instant) { suspected(session) }
        markDirty(session)
    }

    /// Silence where an answer is due, and TCP does not explain it: a probe, beside the carrier.
    private func suspected(_ session: SessionHost) {
        guard let carrier = session.carrier else { return }
        session.suspectedAt = now
        log.info("carrier suspected", metadata: ["session": "\(session.name)", "peer": "\(carrier.peer)",
                                                 "unacknowledged": "\(session.endpoint.retainedByteCount)"])
        for index in session.readBlocked { users[index].pointee.flags.remove(.readBlocked) }
        let waiting = session.readBlocked
        session.readBlocked = []
        for index in waiting { armReceive(index) }
        client?.handleSuspected()
    }

    /// Bytes came: a suspicion was wrong.
    func noteLife(_ session: SessionHost) {
        guard let since = session.suspectedAt else { return }
        session.suspectedAt = nil
        log.info("carrier recovered", metadata: ["session": "\(session.name)", "after": "\(seconds(now - since))"])
        client?.handleRecovered()
    }

    // MARK: Ends

    /// The session has no carrier; users only see slowness.
    func detach(_ session: SessionHost) {
        session.endpoint.carrierLost()
        session.carrier = nil
        session.detachedAt = session.detachedAt ?? session.suspectedAt ?? now
        session.suspectedAt = nil
        markDirty(session)
        // More may be held now than while the carrier worked.
        timers.add(Operation.sweep.token(), at: now)
    }

    func violated(_ session: SessionHost, _ fault: ProtocolFault) {
        log.error("peer broke the protocol, session ended",
                  metadata: ["session": "\(session.name)", "rule": "\(fault.rule)"])
        end(session, .protocolViolation, fault.rule)
    }

    func peerClosed(_ session: SessionHost, _ code: CloseCode, _ reason: String) {
        log.info("session closed by the other side",
                 metadata: ["session": "\(session.name)", "code": "\(code.rawValue)", "reason": "\(reason)",
                            "streams": "\(session.endpoint.streamCount)"])
        discard(session)
        client?.handleSessionLost(session)
    }

    /// Ends the session from our side, with a word to the peer if a carrier is up.
    func end(_ session: SessionHost, _ code: CloseCode, _ reason: StaticString) {
        guard !session.isEnded else { return }
        session.endpoint.close(code, reason)
        if let carrier = session.carrier, carrier.state == .established, !carrier.sendSubmitted {
            submitBatch(session, carrier)
        }
        discard(session)
        client?.handleSessionLost(session)
    }

    /// Resets the session's users, drops its carriers and bytes. Never a clean end over missing bytes.
    func discard(_ session: SessionHost) {
        guard !session.isEnded else { return }
        session.isEnded = true
        abortUsers(of: session)
        if let carrier = session.carrier { closeGently(carrier) }
        session.carrier = nil
        heldByteCount -= queue_count_of(session.store)
        freeStore(session)
        server?.forget(session)
        sessions.remove(session.index)
    }

    /// Frees the session's bytes when no operation reads them any more.
    func freeStore(_ session: SessionHost) {
        if session.pinning.isEmpty { queue_clear(&session.store, arena) }
    }

    func noteReset(_ session: SessionHost, _ owner: UInt32, _ code: ResetCode) {
        guard code != .reset else { return }
        let why = switch code {
        case .refused: "the origin refused the connection"
        case .unreachable: "the origin cannot be reached"
        case .timedOut: "the origin did not answer in time"
        case .tooMany: "the server has no room for one more connection"
        case .stopping: "the server is stopping"
        default: "code \(code.rawValue)"
        }
        log.info("stream reset", metadata: ["session": "\(session.name)", "reason": "\(why)"])
    }

    /// As a person reads it: 2.31s.
    func seconds(_ nanoseconds: UInt64) -> String {
        let hundredths = nanoseconds / 10_000_000
        let fraction = hundredths % 100
        return "\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction)s"
    }
}
