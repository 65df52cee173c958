import CSlab
import Glibc
import Loop
import Tunnel
import Wire

/// The bytes of carriers: what arrives is read in place, what leaves is gathered from the session's store.
extension Hub {
    static let carrierRoomMinimum = 64 << 10

    func addCarrier(fd: Int32, peer: Address, state: Carrier.State) -> Carrier {
        Socket.tuneCarrier(fd, isLoopback: peer.isLoopback)
        return carriers.insert { index, generation in
            Carrier(fd: fd, peer: peer, index: index, generation: generation, state: state, now: now)
        }
    }

    func handleCarrier(_ operation: Operation, _ carrier: Carrier, _ completion: Completion) {
        switch operation {
        case .carrierConnect:
            carrier.connectSubmitted = false
            if carrier.state == .connecting { client?.handleConnected(carrier, completion.error) }
        case .carrierReceive:
            carrier.receiveSubmitted = false
            if carrier.state != .closing { received(carrier, completion.result) }
        default:
            carrier.sendSubmitted = false
            unpin(carrier)
            if carrier.state != .closing { sent(carrier, completion.result) }
        }
        guard carrier.state == .closing else { return }
        if !carrier.hasOperations {
            release(carrier)
        } else if carrier.hasLastWords, !carrier.sendSubmitted {
            carrier.hasLastWords = false
            loop.cancel(carrier.fd)
        }
    }

    // MARK: What arrives

    /// The carrier is always read. Before its handshake it gets a page, then slabs.
    func armReceive(_ carrier: Carrier) {
        guard !carrier.receiveSubmitted, carrier.state != .closing else { return }
        guard makeRoom(carrier) else {
            timers.add(Operation.carrierDeadline.token(carrier.index, carrier.generation), at: now + 10_000_000)
            return
        }
        let token = Operation.carrierReceive.token(carrier.index, carrier.generation)
        let memory = carrier.block! + carrier.filled
        carrier.receiveSubmitted = loop.receive(carrier.fd, memory, carrier.capacity - carrier.filled, token)
        if !carrier.receiveSubmitted {
            timers.add(Operation.carrierDeadline.token(carrier.index, carrier.generation), at: now + 10_000_000)
        }
    }

    private func makeRoom(_ carrier: Carrier) -> Bool {
        let isLarge = carrier.state == .established
        if let block = carrier.block {
            if carrier.parsed == carrier.filled, arena_references(arena, block) == 1 {
                carrier.parsed = 0
                carrier.filled = 0
            }
            let room = carrier.capacity - carrier.filled
            if carrier.capacity == Int(SLAB_BYTES) ? room >= Hub.carrierRoomMinimum : !isLarge && room > 0 { return true }
        }
        guard let next = isLarge ? arena_slab(arena) : arena_page(arena) else { return false }
        let rest = carrier.filled - carrier.parsed  // The start of a frame that is not whole: at most a control frame.
        if let block = carrier.block {
            memcpy(next, block + carrier.parsed, rest)
            arena_release(arena, block)
        }
        carrier.block = next
        carrier.capacity = isLarge ? Int(SLAB_BYTES) : Int(PAGE_BYTES)
        carrier.parsed = 0
        carrier.filled = rest
        return true
    }

    private func received(_ carrier: Carrier, _ result: Int32) {
        guard result > 0 else {
            let error = SystemError(-result)
            if result < 0, error.code == EAGAIN || error.code == EINTR || error.isShortage { return armReceive(carrier) }
            return lost(carrier, result == 0 ? "closed by the other side" : error.description)
        }
        carrier.filled += Int(result)
        read(carrier)
        carrierReaders.append(carrier)
    }

    /// Reads all that is whole.
    func read(_ carrier: Carrier) {
        if carrier.state == .awaitingHello { server?.readHello(carrier) }
        if carrier.state == .greeted { client?.readAnswer(carrier) }
        guard carrier.state == .established, let session = carrier.session, session.carrier === carrier else { return }
        markDirty(session)
        while carrier.parsed < carrier.filled {
            let base = carrier.block! + carrier.parsed
            let bytes = UnsafeRawBufferPointer(start: base, count: carrier.filled - carrier.parsed)
            var offset = 0
            let event: Received
            do throws(ProtocolFault) {
                event = try session.endpoint.receive(bytes.bytes, at: &offset, now: instant)
            } catch {
                return violated(session, error)
            }
            carrier.parsed += offset
            switch event {
            case .incomplete:
                session.endpoint.heard(now: instant)
                noteLife(session)
                return
            case .payload(let owner, let range):
                guard deliver(owner, base + range.lowerBound, range.count) else {
                    log.error("out of memory for bytes that were promised room", metadata: ["session": "\(session.name)"])
                    return end(session, .exhausted, "out of memory")
                }
            case .opened(let slot, let target):
                if let server {
                    server.handleOpened(session, slot, target: target)
                } else {
                    session.endpoint.reset(slot, .refused, now: instant)
                }
            case .finished(let owner):
                finishOutbound(owner)
            case .reset(let owner, let code):
                if users[owner].pointee.flags.contains(.hasStream) { noteReset(session, owner, code) }
                abortOutbound(owner)
            case .closed(let code, let reason):
                return peerClosed(session, code, reason)
            }
        }
        session.endpoint.heard(now: instant)
        noteLife(session)
    }

    // MARK: What leaves

    /// The greeting, then early bytes, then batches: one send at a time.
    func sendGreeting(_ carrier: Carrier, _ store: UnsafePointer<byte_queue>?) {
        guard !carrier.sendSubmitted, !carrier.isGreetingSent, carrier.state != .closing else { return }
        carrier.greeting.withUnsafeMutableBytes { bytes in
            // The array's memory must outlive this call: the control buffer does.
            let count = min(bytes.count, carrier.control.count)
            carrier.control.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[..<count]))
            iovecs[0] = iovec(iov_base: carrier.control.baseAddress, iov_len: count)
        }
        var count = carrier.greeting.isEmpty ? 0 : 1
        if carrier.early.count > 0, let store {
            var gathered = 0
            count += Int(queue_gather(store, carrier.early.start, carrier.early.count, iovecs + count,
                                      UInt32(Hub.iovecMaximum - count), &gathered))
            pin(carrier, from: carrier.early.start)
        }
        submitSend(carrier, count)
    }

    func submitBatch(_ session: SessionHost, _ carrier: Carrier) {
        let batch = session.endpoint.nextBatch(limit: Hub.batchByteCount, control: carrier.control, now: instant)
        guard !batch.isEmpty else { return }
        var count = 0
        var isWhole = true
        func gather(_ from: UInt64, _ bytes: Int) {
            guard bytes > 0, isWhole else { return }
            var gathered = 0
            count += Int(queue_gather(&session.store, from, bytes, iovecs + count, UInt32(Hub.iovecMaximum - 1 - count),
                                      &gathered))
            isWhole = gathered == bytes
        }
        gather(batch.start, batch.rest)
        if isWhole, !batch.control.isEmpty {
            iovecs[count] = iovec(iov_base: carrier.control.baseAddress! + batch.control.lowerBound,
                                  iov_len: batch.control.count)
            count += 1
        }
        gather(batch.start + UInt64(batch.rest), batch.more)
        carrier.batch = batch
        if batch.rest + batch.more > 0 { pin(carrier, from: batch.start) }
        submitSend(carrier, count)
    }

    private func submitSend(_ carrier: Carrier, _ count: Int) {
        let token = Operation.carrierSend.token(carrier.index, carrier.generation)
        carrier.sendSubmitted = loop.send(carrier.fd, iovecs, count, token)
        if !carrier.sendSubmitted {
            unpin(carrier)
            lost(carrier, "out of memory")
        }
    }

    private func sent(_ carrier: Carrier, _ result: Int32) {
        guard result >= 0 || -result == EAGAIN || -result == EINTR else {
            if SystemError(-result).isShortage {
                carrier.batch = nil
                timers.add(Operation.carrierDeadline.token(carrier.index, carrier.generation), at: now + 10_000_000)
                return
            }
            return lost(carrier, SystemError(-result).description)
        }
        let count = max(0, Int(result))
        if let batch = carrier.batch {
            carrier.batch = nil
            if let session = carrier.session, session.carrier === carrier {
                session.endpoint.batchSent(batch, count)
                markDirty(session)
            }
            return
        }
        let greeting = min(count, carrier.greeting.count)
        carrier.greeting.removeFirst(greeting)
        carrier.early.start += UInt64(count - greeting)
        carrier.early.count -= count - greeting
        if !carrier.isGreetingSent {
            continueGreeting(carrier)
        } else if carrier.closesAfterGreeting {
            closeGently(carrier)
        } else if let session = carrier.session {
            if session.carrier === carrier { session.endpoint.greetingSent() }
            markDirty(session)
        }
    }

    private func continueGreeting(_ carrier: Carrier) {
        if let session = carrier.session { sendGreeting(carrier, &session.store) } else { sendGreeting(carrier, nil) }
    }

    /// The kernel reads the session's store from `offset` on until the send completes, whoever owns the session then.
    private func pin(_ carrier: Carrier, from offset: UInt64) {
        carrier.pinnedFrom = offset
        carrier.session?.pinning.append(carrier)
    }

    private func unpin(_ carrier: Carrier) {
        guard carrier.pinnedFrom != nil else { return }
        carrier.pinnedFrom = nil
        if let session = carrier.session {
            session.pinning.removeAll { $0 === carrier }
            if session.isEnded { freeStore(session) } else { markDirty(session) }
        }
    }

    // MARK: Ends

    /// The carrier died by itself: its session goes on without.
    func lost(_ carrier: Carrier, _ reason: String) {
        guard carrier.state != .closing else { return }
        let wasEstablished = carrier.state == .established
        let session = carrier.session
        close(carrier)
        if let client {
            client.handleLost(carrier, wasEstablished, reason)
        } else if wasEstablished, let session, session.carrier === carrier {
            server?.handleLost(session, carrier, reason)
        } else {
            server?.handleHandshakeFailed(carrier, reason)
        }
    }

    /// Ends the connection with RST, so that queued bytes are discarded; the descriptor follows when nothing is in flight.
    func close(_ carrier: Carrier) {
        guard carrier.state != .closing else { return }
        carrier.state = .closing
        Socket.abortOnClose(carrier.fd)
        if carrier.hasOperations { loop.cancel(carrier.fd) } else { release(carrier) }
    }

    /// Ends the connection in order: what the kernel was given still arrives, within a second.
    func closeGently(_ carrier: Carrier) {
        guard carrier.state != .closing else { return }
        carrier.state = .closing
        if carrier.sendSubmitted {
            carrier.hasLastWords = true
            timers.add(Operation.carrierDeadline.token(carrier.index, carrier.generation), at: now + 1_000_000_000)
        } else if carrier.hasOperations {
            loop.cancel(carrier.fd)
        } else {
            release(carrier)
        }
    }

    private func release(_ carrier: Carrier) {
        carrier.session = nil
        loop.close(carrier.fd)
        if let block = carrier.block { arena_release(arena, block) }
        carrier.block = nil
        carriers.remove(carrier.index)
    }

    /// A deadline, or a retry after a shortage.
    func handleDeadline(_ carrier: Carrier) {
        switch carrier.state {
        case .established:
            armReceive(carrier)
            if let session = carrier.session { markDirty(session) }
        case .awaitingHello:
            if now >= carrier.openedAt + ServerHost.helloNanoseconds {
                lost(carrier, "no hello in time")
            } else {
                armReceive(carrier)
            }
        case .connecting, .connected, .greeted:
            if now >= carrier.openedAt + ClientHost.attemptNanoseconds {
                lost(carrier, "no answer in time")
            } else if carrier.state != .connecting {
                armReceive(carrier)
            }
        case .closing:
            if carrier.hasOperations { loop.cancel(carrier.fd) }
        }
    }
}
