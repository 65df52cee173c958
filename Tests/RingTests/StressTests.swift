import Chance
import CRing
import Glibc
import Testing

/// Random traffic through many connections; every byte is a function of its place, so a misplaced one names
/// itself.
@Suite struct StressTests {
    @Test(arguments: Driver.here, [1, 2, 3, 4] as [UInt64])
    func bytesArriveInOrderUnderRandomOperations(driver: Driver, seed: UInt64) throws {
        print("seed \(seed)")
        var stress = try Stress(driver: driver, seed: seed)
        try stress.run()
    }
}

/// One direction of one connection.
private final class Flow {
    let sender: Socket, receiver: Socket
    let total: Int
    let salt: UInt8
    let outgoing: Memory, incoming = Memory(count: 20_000)
    var sent = 0, received = 0
    var isSending = false, isReceiving = false
    var isShut = false, hasEnded = false

    init(_ sender: Socket, _ receiver: Socket, total: Int, salt: UInt8) {
        (self.sender, self.receiver, self.total, self.salt) = (sender, receiver, total, salt)
        outgoing = Memory(patterned(total).map { $0 &+ salt })
    }

    func check(_ bytes: UnsafeRawBufferPointer) {
        let expected = UnsafeRawBufferPointer(
            start: outgoing.start + received, count: min(bytes.count, total - received))
        #expect(bytes.elementsEqual(expected), "flow \(salt) goes wrong after byte \(received)")
        received += bytes.count
    }
}

private struct Stress {
    static let pairs = 12
    let ring: TestRing
    var generator: Chance
    var flows: [Flow] = []
    var lent: [UInt16] = []
    var cancelled = 0, starved = 0, mostLent = 0

    init(driver: Driver, seed: UInt64) throws {
        ring = try TestRing(driver, entries: 64, poolCount: 16, poolBytes: 700)
        generator = Chance(seed: seed)
        for index in 0..<Self.pairs {
            let (one, other) = try Socket.pair()
            let isNarrow = index % 2 == 0  // Sends park often, at the price of the kernel's timers.
            if isNarrow {
                one.limitBuffers(to: 16384)
                other.limitBuffers(to: 16384)
            }
            let total = Int.random(in: 1...(isNarrow ? 60_000 : 300_000), using: &generator)
            flows.append(Flow(one, other, total: total, salt: UInt8(2 * index)))
            flows.append(Flow(other, one, total: total / 3, salt: UInt8(2 * index + 1)))
        }
    }

    mutating func run() throws {
        let deadline = Clock.now + 60_000_000_000
        while !flows.allSatisfy({ $0.isShut && $0.hasEnded }) {
            try #require(Clock.now < deadline, "stuck: \(flows.map { ($0.total, $0.sent, $0.received) })")
            for index in flows.indices { submit(index) }
            let capacity = Int.random(in: 1...40, using: &generator)
            let isIdle = lent.isEmpty
            for completion in ring.wait(nanoseconds: isIdle ? 200_000_000 : 1_000_000, capacity: capacity) {
                try take(completion)
            }
            mostLent = max(mostLent, lent.count)
            lent.shuffle(using: &generator)
            while let buffer = lent.last, Bool.random(using: &generator) {
                ring_pool_return(ring.ring, buffer)
                lent.removeLast()
            }
        }
        #expect(ring.inFlight == 0)
        #expect(flows.allSatisfy { $0.received == $0.total })
        #expect(
            cancelled > 0 && (starved > 0 || mostLent == 16),
            "cancelled \(cancelled), starved \(starved), lent \(mostLent): the seed tries too little")
    }

    private mutating func submit(_ index: Int) {
        let flow = flows[index]
        let chance = Int.random(in: 0..<100, using: &generator)
        if !flow.isSending, flow.sent < flow.total, chance < 60 { send(flow, index) }
        if flow.sent == flow.total, !flow.isSending, !flow.isShut {
            flow.sender.finish()
            flow.isShut = true
        }
        if !flow.isReceiving, !flow.hasEnded, chance >= 30 {
            flow.isReceiving = true
            if Bool.random(using: &generator) {
                ring.receivePooled(flow.receiver, UInt64(index * 2 + 1))
            } else {
                ring.receive(flow.receiver, into: flow.incoming, UInt64(index * 2 + 1))
            }
        }
        // Strikes this flow's send and the other flow's receive, as they share the socket.
        if Int.random(in: 0..<8, using: &generator) == 0 { ring.cancel(flow.sender) }
    }

    private mutating func send(_ flow: Flow, _ index: Int) {
        let pieceCount = [1, 2, 9, 100, 256].randomElement(using: &generator)!
        var pieces: [iovec] = []
        var offset = flow.sent
        for _ in 0..<pieceCount where offset < flow.total {
            let count = min(Int.random(in: 0...(6_000 / pieceCount), using: &generator), flow.total - offset)
            pieces.append(iovec(iov_base: flow.outgoing.start + offset, iov_len: count))
            offset += count
        }
        flow.isSending = true
        let flags = [0, 0, Int32(MSG_DONTWAIT), Int32(RING_UNHURRIED)].randomElement(using: &generator)!
        ring.send(flow.sender, pieces, flags: flags, UInt64(index * 2))
    }

    private mutating func take(_ completion: ring_completion) throws {
        let flow = flows[Int(completion.token / 2)]
        if completion.token % 2 == 0 {
            flow.isSending = false
            try #require(
                completion.result >= 0 || [-EAGAIN, -ECANCELED].contains(completion.result),
                "send: \(completion.result)")
            flow.sent += Int(max(completion.result, 0))
            if completion.result == -ECANCELED { cancelled += 1 }
            return
        }
        flow.isReceiving = false
        switch completion.result {
        case 0: flow.hasEnded = true
        case -ECANCELED: cancelled += 1
        case -ENOBUFS: starved += 1
        case 1...:
            let isPooled = completion.flags != 0
            let pooled = isPooled ? ring_pool_bytes(ring.ring, completion.buffer) : nil
            let start = pooled ?? UnsafeRawPointer(flow.incoming.start)
            flow.check(UnsafeRawBufferPointer(start: start, count: Int(completion.result)))
            if isPooled { lent.append(completion.buffer) }
        default: try #require(completion.result >= 0, "receive: \(completion.result)")
        }
    }
}
