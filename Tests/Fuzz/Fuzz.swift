import Control
import Time
import Tunnel
import Wire

/// libFuzzer's entry: the first byte says which part is fed, the rest is what a hostile peer sends or causes. A trap, a leak
/// or a hang is a defect; every fault is an answer. `Tests/Fuzz/run` builds and runs it.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    guard let data, count > 0 else { return 0 }
    let bytes = UnsafeRawBufferPointer(start: data + 1, count: count - 1)
    switch data[0] % 4 {
    case 0:
        fuzzFrames(bytes)
        fuzzChunks(bytes)
    case 1: fuzzHandshake(bytes)
    case 2: EndpointFuzz.run(Input(bytes))
    default: fuzzRegistry(Input(bytes))
    }
    return 0
}

/// Frames one after the other, as far as they go.
private func fuzzFrames(_ bytes: UnsafeRawBufferPointer) {
    var offset = 0
    while offset < bytes.count {
        guard let (_, count) = try? decodeFrame(bytes.bytes.extracting(offset..<bytes.count)) else { return }
        precondition(count > 0 && count <= bytes.count - offset, "a frame longer than its bytes")
        offset += count
    }
}

/// Chunks of one connection, whose bytes are those that follow.
private func fuzzChunks(_ bytes: UnsafeRawBufferPointer) {
    var order = ChunkOrder()
    var offset = 0
    while offset < bytes.count {
        guard let header = try? ChunkHeader.decode(bytes.bytes.extracting(offset..<bytes.count)), var chunk = try? order.begin(header) else { return }
        offset += ChunkHeader.encodedByteCount
        precondition(!order.isPast(chunk), "a chunk that was read")
        guard order.isDue(chunk) else { return }
        let count = min(header.byteCount, bytes.count - offset)
        guard count > 0 else { return }
        let before = order.next
        precondition(order.read(count, of: &chunk) == (count == header.byteCount) && order.next == before + UInt64(count), "a chunk read wrongly")
        offset += count
    }
}

private func fuzzHandshake(_ bytes: UnsafeRawBufferPointer) {
    guard let (hello, count) = try? Hello.decode(bytes.bytes) else { return }
    precondition(count >= Hello.leastByteCount && count <= bytes.count, "a HELLO longer than its bytes")
    var again = [UInt8](repeating: 0, count: hello.byteCount)
    again.withUnsafeMutableBytes { buffer in
        var writer = ByteWriter(buffer)
        hello.encode(into: &writer)
    }
}

/// The server's registry, told things in any order that its owner could tell them in.
private func fuzzRegistry(_ input: consuming Input) {
    var input = input
    var registry = Registry(limits: .init(sessions: 3, hold: .seconds(9), grantTotal: 8 << 20, grantMaximum: 4 << 20))
    var now: UInt64 = 1
    var alive: Set<UInt32> = []
    var nextKey: UInt32 = 1
    func forget(_ key: UInt32?, _ registry: inout Registry) {
        guard let key else { return }
        registry.forget(key)
        alive.remove(key)
    }
    while let operation = input.byte() {
        let instant = Instant(nanoseconds: now)
        let some = alive.isEmpty ? nil : alive.sorted()[Int(input.byte() ?? 0) % alive.count]
        switch operation % 6 {
        case 0:
            let key = input.byte().map { UInt32($0) } ?? 0
            let hello = Hello(
                identity: key == 0 ? .none : SessionIdentity(high: 7, low: UInt64(key)), attempt: input.number(),
                received: input.number(), replay: input.number(), earlyByteCount: 0, dataLimit: 0)
            let peer = operation & 64 == 0 ? "" : "another"
            switch registry.judge(hello, from: peer, isDraining: operation & 128 != 0, isProven: { _ in key % 2 == 0 }) {
            case .begin(let grant):
                let evicted = registry.admit(
                    nextKey, SessionIdentity(high: 7, low: UInt64(nextKey)), of: peer, secret: .zero,
                    attempt: hello.attempt, grant: grant, now: instant)
                alive.insert(nextKey)
                nextKey += 1
                forget(evicted, &registry)
            case .resume(let key):
                precondition(alive.contains(key), "a session that is gone was resumed")
                registry.resumed(key, attempt: hello.attempt)
            case .standBy(let key):
                precondition(alive.contains(key), "a session that is gone has a standby")
                precondition(hello.attempt == 0, "an attempt that stands by")
            case .refuse:
                break
            }
        case 1:
            guard let some else { break }
            switch registry.proved(some, now: instant) {
            case .known: break
            case .welcome(_, let evicted): forget(evicted, &registry)
            case .full: forget(some, &registry)
            }
        case 2:
            if let some { registry.detached(some, isPrecious: operation & 128 != 0, now: instant) }
        case 3:
            forget(some, &registry)
        case 4:
            now += input.number() % 20_000_000_000
        default:
            while let key = registry.nextExpired(now: instant) { forget(key, &registry) }
        }
        precondition(registry.count == alive.count, "sessions were miscounted")
        registry.checkInvariants()
    }
}

/// What the fuzzer wants, read step by step.
struct Input: ~Copyable {
    private let bytes: UnsafeRawBufferPointer
    private var offset = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    mutating func byte() -> UInt8? {
        guard offset < bytes.count else { return nil }
        defer { offset += 1 }
        return bytes[offset]
    }

    /// Small or large, as a varint is; 0 when nothing is left.
    mutating func number() -> UInt64 {
        guard let first = byte() else { return 0 }
        var value = UInt64(first & 0x3f)
        for _ in 0..<(1 << Int(first >> 6)) - 1 { value = value << 8 | UInt64(byte() ?? 0) }
        return value
    }

    /// The next so many bytes, or what is left.
    mutating func take(_ count: Int) -> UnsafeRawBufferPointer {
        let end = min(bytes.count, offset + count)
        defer { offset = end }
        return UnsafeRawBufferPointer(rebasing: bytes[offset..<end])
    }
}
