import Control
import CSlab
import Glibc
import Loop
import Time
import Tunnel
import Wire

/// HELLO, and what the server answers.
extension Uplink {
    func greet(_ carrier: Carrier, _ attempt: UInt64) {
        let (offer, limit) = session.endpoint.offer(earlyMaximum: Specification.earlyMaximum)
        carrier.origins = ownOrigins.map(\.name)
        var hello = Hello(
            identity: session.identity, attempt: attempt, received: offer.received, replay: offer.replay,
            earlyByteCount: UInt32(offer.earlyByteCount), dataLimit: limit)
        hello.origins = ownOrigins.map(\.target)
        guard let binding = carrier.binding,
            let bytes = hello.encoded(secret: session.endpoint.isEstablished ? session.secret : nil, on: binding)
        else {
            return relay.carriers.lost(carrier, "cannot compute a proof")
        }
        carrier.state = .greeted
        carrier.hasGreeted = true
        carrier.session = session
        carrier.offer = offer
        carrier.greeting = Carrier.Greeting(bytes: bytes, earlyStart: offer.replay, earlyCount: offer.earlyByteCount)
        // From now on, not from the send: that may wait for TLS, and the old carrier may bring an acknowledgment meanwhile.
        if offer.earlyByteCount > 0 { relay.carriers.writer.pin(carrier, from: offer.replay) }
        relay.carriers.writer.sendGreeting(carrier)
    }

    /// The server's answer to HELLO. On one that stood by, PINGs may come before it, as many as the server likes.
    func readHandshake(_ carrier: Carrier) {
        var wasPing = false
        repeat {
            wasPing = false
            readFrame(carrier, &wasPing)
        } while wasPing && !carrier.isOver && !carrier.block.unread.isEmpty
    }

    private func readFrame(_ carrier: Carrier, _ wasPing: inout Bool) {
        if carrier.state == .tunnelling { return readProxy(carrier) }
        guard carrier.state == .greeted || carrier.state == .connected || carrier.state == .standby else { return }
        let bytes = carrier.block.unread
        let decoded: (frame: Frame, byteCount: Int)?
        do throws(ProtocolFault) {
            decoded = try decodeFrame(bytes.bytes)
        } catch {
            // An alert of TLS: type 21, version 3.x.
            let wantsKey = bytes.count > 1 && bytes[0] == 0x15 && bytes[1] == 3
            return relay.carriers.lost(
                carrier,
                wantsKey
                    ? "the server wants a key (-key), and this client has none"
                    : "the other side does not speak tele (\(error.rule))")
        }
        guard let (frame, count) = decoded else { return }
        carrier.block.parsed += count
        switch frame {
        case .welcome(let welcome) where carrier.state == .greeted && aside(carrier) != nil:
            let proven = UnsafeRawBufferPointer(rebasing: bytes[..<min(count, Welcome.provenByteCount)])
            aside(carrier)?.handleWelcome(welcome, proven, carrier)
        case .refuse where aside(carrier) != nil:
            aside(carrier)?.handleRefused(carrier)
        case .ping where carrier.hasStoodBy && carrier.state != .connected:
            // The server misses answers on the carrier. It may have said so before it knew that the session continues here.
            if carrier.state == .standby { standby.hurry() }
            wasPing = true
        case .welcome(let welcome) where carrier.state == .greeted:
            accept(welcome, UnsafeRawBufferPointer(rebasing: bytes[..<count]), carrier)
        case .refuse(let refusal) where carrier.state == .greeted:
            refused(refusal, carrier)
        default:
            relay.carriers.lost(carrier, "the other side does not speak tele")
        }
    }

    private func accept(_ welcome: Welcome, _ bytes: UnsafeRawBufferPointer, _ carrier: Carrier) {
        let isNew = !session.endpoint.isEstablished
        guard carrier.session === session, let offer = carrier.offer, welcome.version == Specification.version,
            dialer.isAnswer(carrier.candidate, attempt: welcome.attempt)
        else {
            return relay.carriers.lost(carrier, "an answer to another question")
        }
        if !isNew {
            let proven = UnsafeRawBufferPointer(rebasing: bytes[..<min(bytes.count, Welcome.provenByteCount)])
            guard welcome.identity == session.identity, let binding = carrier.binding,
                welcome.isProven(session.secret, over: proven, on: binding)
            else {
                return relay.carriers.lost(carrier, "the server does not know this session's secret")
            }
        }
        let replayed = session.endpoint.sent - min(session.endpoint.sent, welcome.received)
        do throws(ProtocolFault) {
            try session.endpoint.resume(offer, welcome, now: relay.instant)
        } catch {
            return relay.sessions.violated(session, error)
        }
        if isNew {
            session.identity = welcome.identity
            session.secret = welcome.secret
        }
        candidates[carrier.candidate] = nil
        home.handleCarried(by: carrier.peer, server: welcome.server)
        subflowsMaximum = Int(welcome.subflows ?? 0)
        holdSeconds = welcome.server == nil ? nil : Int(welcome.holdSeconds)
        route = Socket.source(to: carrier.peer)
        let outage = relay.sessions.attach(carrier, to: session)
        dialer.handleWon(carrier.candidate)
        run()
        noteUp(carrier, isNew: isNew, outage: outage, replayed: replayed)
        noteAnswers(welcome.answers, carrier)
        client.handleWelcomed(self)
        standby.reviewSoon()
        if isNew, !isExtra { client.endIfDouble(self) }
    }

    /// Those that users of the server can use: none while the process stops.
    private var ownOrigins: [Mapping] { relay.stopping.isRunning && !isExtra ? relay.configuration.dialled : [] }

    /// What the server says to this side's origins; told when it is new.
    private func noteAnswers(_ answers: [Welcome.OriginAnswer], _ carrier: Carrier) {
        // They have changed since HELLO.
        if carrier.origins != ownOrigins.map(\.name) { reconnect() }
        for (place, name) in carrier.origins.enumerated() {
            // A server that does not know reverse mappings says nothing.
            let answer = place < answers.count ? answers[place] : nil
            guard self.answers.updateValue(answer, forKey: name) != .some(answer) else { continue }
            relay.events.note(.originAnswered(session, name: name, answer))
        }
    }

    private func noteUp(_ carrier: Carrier, isNew: Bool, outage: UInt64, replayed: UInt64) {
        // A proxy acknowledges what its own peer has not seen yet.
        let roundTrip = relay.configuration.proxy == nil ? PathFacts(carrier.fd)?.leastRoundTripMicroseconds : nil
        if let roundTrip { session.endpoint.pathMeasured(.microseconds(UInt64(roundTrip))) }
        relay.events.note(
            isNew
                ? .carrierUp(session, carrier.peer, roundTripMicroseconds: roundTrip)
                : .sessionResumed(
                    session, carrier.peer, after: outage, recovery: relay.age(of: carrier.openedAt), replayed: replayed, roundTripMicroseconds: roundTrip))
        lastFailure = ""
        noteReached()
    }

    private func refused(_ refusal: Refusal, _ carrier: Carrier) {
        guard refusal.code == .sessionUnknown, session.endpoint.isEstablished else {
            return relay.carriers.lost(carrier, "refused by the server: \(refusal.reason)")
        }
        relay.carriers.close(carrier)
        candidates[carrier.candidate] = nil
        let has: SessionHome<Address>.Carrier = !session.link.hasCarrier ? .none : session.link.isDown ? .suspected : .works
        switch home.handleUnknown(
            from: carrier.peer, server: refusal.server, carrier: has, addresses: addresses, isUnused: isUnused, now: relay.instant)
        {
        case .gone:
            wasUnknown = true
            return relay.sessions.discard(session)
        case .stranger:
            relay.events.note(.answeredByAnother(session, carrier.peer, home: home.address))
            dialer.handleForeign(carrier.candidate, now: relay.instant)
        case .notYet:
            dialer.handleFailed(carrier.candidate, now: relay.instant)
        }
        // It works, and nobody doubts it: there is nothing to look for.
        if has == .works { dialer.handleRecovered() }
        run()
    }

    /// No server ever heard of one of its streams, and the server has acknowledged all bytes of those that are over here.
    private var isUnused: Bool {
        var owed = session.endpoint.retainedByteCount
        #if CANARIES
        if Canary.selected == .forgetsLastBytes { owed = 0 }
        #endif
        guard owed == 0 else { return false }
        var unopened = 0
        session.endpoint.forEachUnopened { _, _ in unopened += 1 }
        return unopened == session.endpoint.streamCount
    }

    // MARK: Words

    /// What a person can make of a handshake that ended without a word.
    func explained(_ reason: String, _ carrier: Carrier) -> String {
        let isEnd = reason.hasPrefix("closed") || reason.hasPrefix("connection reset")
        if carrier.proxy != nil, isEnd { return "the proxy closed the connection without an answer" }
        guard let channel = carrier.transport.channel else {
            return carrier.hasGreeted && reason.hasPrefix("closed")
                ? "closed without an answer: does the server want a key (-key)?"
                : reason
        }
        if reason.contains(" alert ") { return "the server does not accept this \(Self.isKey(relay) ? "key" : "certificate") (\(reason))" }
        if channel.isSecured { return isEnd ? "the server does not accept this certificate's name" : reason }
        return isEnd ? "closed during the handshake: is the server run with -key?" : reason
    }

    private static func isKey(_ relay: RelayProcess) -> Bool {
        if case .keys = relay.configuration.security { true } else { false }
    }
}
