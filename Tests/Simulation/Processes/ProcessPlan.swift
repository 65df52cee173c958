/// Everything that is decided before a run of whole processes begins. A seed enables its own subset of faults and its own budgets, so that
/// rare combinations come up alone and undisturbed as well.
public struct ProcessPlan: Sendable {
    public enum Fault: Int, CaseIterable, Sendable {
        /// Both directions between a client and the server lose everything for a while; or one of them.
        case silence, halfSilence
        /// All carriers are reset, at both ends or at one.
        case cut, halfCut
        /// A carrier dies at a byte.
        case cutAtByte
        /// The path becomes slower, or fast again.
        case slow
        /// A process gets no time for a while.
        case freeze
        /// Links changed, as far as the kernel tells; or nothing did.
        case networkNews
        case reload
        case killClient, killServer
        /// The origin is not there for a while.
        case refuseOrigin
    }

    public let seed: UInt64
    var chance: Chance

    // Processes.
    var clients = 1
    var hasKey = false
    var splicing = 0
    var bufferByteCount = 1 << 20
    var memoryByteCount = 4 << 20
    var streamsMaximum = 100_000
    var delayMaximum = 20_000

    // The kernel.
    var limits = VirtualKernel.Limits()

    // Users.
    var streams = 4
    var opensWithin: UInt64 = milliseconds(200)
    var bytesMaximum = 64 << 10
    var chunkMaximum = 8 << 10
    var resetsOneIn = 8
    var slowOneIn = 4
    /// One reader in this many stops for ever; the other user ends such a pair by a reset after a while.
    var stopsOneIn = 1000
    var urgentOneIn = 1000

    // The network.
    var latency: UInt64 = milliseconds(1)
    var jitter: UInt64 = 0
    var rate: UInt64 = 0
    var faults: [Fault] = []
    var faultGap: UInt64 = milliseconds(500)
    var healsAt: UInt64 = milliseconds(3000)

    /// Some fault of the plan may cost connections.
    var mayLose: Bool { faults.contains(.killClient) || faults.contains(.killServer) }

    public init(seed: UInt64) {
        self.seed = seed
        var chance = Chance(seed: seed &+ 0x9_0ce5)
        clients = chance.pick([1, 1, 1, 2, 3])
        hasKey = chance.oneIn(6)
        splicing = chance.below(3)
        bufferByteCount = 1 << (20 + chance.below(4))
        memoryByteCount = bufferByteCount << chance.below(4)
        streamsMaximum = chance.oneIn(8) ? 1 + chance.skewed(20) : 100_000
        delayMaximum = chance.skewed(2_000_000)

        limits.receiveBuffer = (4 << 10) + chance.skewed(1 << 20)
        limits.sendBuffer = (4 << 10) + chance.skewed(1 << 20)
        limits.moveMaximum = chance.oneIn(2) ? .max : 512 + chance.skewed(64 << 10)
        limits.shortOneIn = chance.pick([0, 2, 10])
        limits.descriptors = chance.oneIn(8) ? chance.within(256...512) : 4096
        limits.pipeBytes = chance.pick([0, 16 << 20, 16 << 20])
        limits.cancelsLate = chance.oneIn(2)
        limits.hasMiddlebox = chance.oneIn(3)

        streams = chance.oneIn(16) ? 150 : 1 + chance.skewed(20)
        bytesMaximum = chance.oneIn(2) ? chance.skewed(64 << 10) : chance.within(8 << 10 ... 200 << 10)
        if chance.oneIn(6) {
            streams = 1 + chance.below(3)
            bytesMaximum = chance.within(500 << 10 ... 3 << 20)
        }
        if streams > 50 { bytesMaximum = min(bytesMaximum, 8 << 10) }
        chunkMaximum = max(1 + chance.skewed(64 << 10), bytesMaximum / 64)
        limits.moveMaximum = max(limits.moveMaximum, bytesMaximum / 256)
        resetsOneIn = chance.pick([1000, 16, 6])
        slowOneIn = chance.pick([1000, 3, 1])
        stopsOneIn = chance.pick([1000, 1000, 4])
        urgentOneIn = chance.pick([1000, 1000, 3])

        latency = microseconds(20 + chance.skewed(80_000))
        jitter = chance.oneIn(2) ? 0 : microseconds(chance.skewed(20_000))
        rate = chance.oneIn(2) ? 0 : UInt64(100_000 + chance.skewed(100 << 20))
        healsAt = milliseconds(100 + (chance.oneIn(3) ? chance.skewed(20_000) : chance.within(300 ... 3_000)))
        faultGap = healsAt / UInt64(1 + chance.skewed(chance.oneIn(2) ? 40 : 200))
        opensWithin = chance.oneIn(3) ? 1 : UInt64(chance.skewed(Int(healsAt)))
        for fault in Fault.allCases where chance.oneIn(3) { faults.append(fault) }
        if !chance.oneIn(6) { faults.removeAll { $0 == .killServer || $0 == .killClient } }
        if chance.oneIn(8) { faults = [] }
        self.chance = chance
    }
}
