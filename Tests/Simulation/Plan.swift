import Time
import Tunnel

public enum Side: Int, Sendable, CaseIterable {
    case client = 0, server = 1
    public var other: Side { self == .client ? .server : .client }
}

/// Nanoseconds of virtual time.
func milliseconds(_ count: Int) -> UInt64 { UInt64(count) * 1_000_000 }
func microseconds(_ count: Int) -> UInt64 { UInt64(count) * 1_000 }

/// Everything that is decided before a run begins. Most plans are drawn from a seed; each seed enables its own subset
/// of the faults and its own budgets, so that rare combinations come up alone and undisturbed as well.
public struct Plan: Sendable {
    /// The faults that a seed may enable.
    public enum Fault: Int, CaseIterable, Sendable {
        case cut, cutAtByte, halfCut, blackhole, holdForEver, clogCarriers, clogUsers, refuseDials, freeze, clockJump
        case restartWithState, restartWithout, probe, oldHello
    }

    /// One cut, of those that a sweep asks for.
    public struct Cut: Sendable {
        /// Which carrier, counted from the first.
        public var carrier: Int
        /// Whose bytes are counted.
        public var from: Side
        /// The carrier dies when so many bytes have arrived.
        public var afterBytes: Int
        public var style: Int

        public init(carrier: Int, from: Side, afterBytes: Int, style: Int) {
            self.carrier = carrier
            self.from = from
            self.afterBytes = afterBytes
            self.style = style
        }
    }

    public var seed: UInt64
    var chance: Chance

    // The two processes.
    var limits: [Endpoint.Limits]
    var unsentTarget = 64 << 10
    var batchLimit = 256 << 10
    var payloadMaximum = 256 << 10
    var earlyMaximum = 64 << 10
    var copyBelow = 512

    // The users.
    var streamCount = 4
    var opensWithin = milliseconds(50)
    var serverOpens = false
    var bytesMaximum = 64 << 10
    var chunkMaximum = 8 << 10
    var resetsOneIn = 8
    var slowReadersOneIn = 4
    var queueMaximum = 64 << 10
    /// Bytes go past memory, at times.
    var splices = false

    // The network.
    var latency = milliseconds(1)
    var jitter = milliseconds(1)
    /// TCP tells the round trip that its handshake took.
    var measuresPath = true
    var kernelRoom = 256 << 10
    /// Bytes that arrive at a time; 1: byte by byte.
    var arrivalMaximum = 64 << 10
    /// Bytes that the kernel takes at a time.
    var takeMaximum = Int.max
    var completionDelay = microseconds(10)
    var takesLate = false

    // Misfortune.
    var faults: [Fault] = []
    var faultGap = milliseconds(50)
    var healsAt = milliseconds(1000)
    var cuts: [Cut] = []
    /// Ways to the server; some lead nowhere, some take bytes and lose them.
    var addressCount = 1
    var deadAddresses: Set<Int> = []
    var swallowingAddresses: Set<Int> = []
    /// Some lead to another server, which knows nobody.
    var strangerAddresses: Set<Int> = []
    /// The server keeps a session without a carrier for so long.
    var hold = milliseconds(3_600_000)
    /// This side's bytes are mutated once a link is agreed.
    public var liar: Side?
    /// Ends the session with CLOSE when all is done.
    var closes = false

    /// The plan of a seed.
    public init(seed: UInt64) {
        self.seed = seed
        var chance = Chance(seed: seed)
        limits = [Plan.limits(&chance), Plan.limits(&chance)]
        unsentTarget = 1 + chance.skewed(256 << 10)
        batchLimit = 1 + chance.skewed(256 << 10)
        payloadMaximum = chance.oneIn(2) ? 256 << 10 : 1 + chance.skewed(64 << 10)
        earlyMaximum = chance.oneIn(3) ? 0 : chance.skewed(64 << 10)
        copyBelow = chance.oneIn(2) ? 512 : chance.skewed(8 << 10)

        streamCount = chance.oneIn(24) ? 200 : 1 + chance.skewed(16)
        serverOpens = chance.oneIn(3)
        bytesMaximum = chance.oneIn(2) ? chance.skewed(64 << 10) : chance.within(2 << 10 ... 48 << 10)
        if chance.oneIn(8) {
            // A few long streams, which outlast their windows.
            streamCount = min(streamCount, 3)
            bytesMaximum = chance.within(64 << 10 ... 600 << 10)
        }
        if streamCount > 64 { bytesMaximum = min(bytesMaximum, 1 << 10) }
        chunkMaximum = 1 + chance.skewed(32 << 10)
        // A byte at a time is a good story for short streams only.
        chunkMaximum = max(chunkMaximum, bytesMaximum / 64)
        resetsOneIn = chance.pick([1000, 16, 8, 3])
        slowReadersOneIn = chance.pick([1000, 4, 2])
        queueMaximum = 1 + chance.skewed(256 << 10)

        splices = chance.oneIn(2)

        latency = microseconds(chance.skewed(40_000))
        jitter = microseconds(chance.skewed(10_000))
        measuresPath = chance.oneIn(2)
        kernelRoom = 1 + chance.skewed(256 << 10)
        arrivalMaximum = 1 + chance.skewed(64 << 10)
        takeMaximum = chance.oneIn(2) ? Int.max : 1 + chance.skewed(64 << 10)
        queueMaximum = max(queueMaximum, bytesMaximum / 256)
        let transfer = bytesMaximum * streamCount
        // The slowest pipes are for the smallest transfers: a run has a bounded number of steps.
        kernelRoom = max(kernelRoom, transfer / 2048)
        arrivalMaximum = max(arrivalMaximum, transfer / 2048)
        takeMaximum = max(takeMaximum, transfer / 2048)
        payloadMaximum = max(payloadMaximum, transfer / 2048)
        batchLimit = max(batchLimit, transfer / 2048)
        completionDelay = microseconds(chance.skewed(chance.oneIn(4) ? 200_000 : 100))
        takesLate = chance.oneIn(3)
        if completionDelay > milliseconds(1) || latency > milliseconds(1) {
            kernelRoom = max(kernelRoom, 1024)
            takeMaximum = max(takeMaximum, 256)
        }

        healsAt = milliseconds(20 + (chance.oneIn(2) ? chance.skewed(8_000) : chance.within(300 ... 3_000)))
        addressCount = chance.pick([1, 1, 2, 3])
        for address in 1..<max(addressCount, 2) where address < addressCount {
            if chance.oneIn(3) { deadAddresses.insert(address) } else if chance.oneIn(3) { swallowingAddresses.insert(address) }
            else if chance.oneIn(2) { strangerAddresses.insert(address) }
        }
        if chance.oneIn(12) { hold = milliseconds(chance.skewed(4_000)) }
        opensWithin = UInt64(chance.skewed(Int(healsAt)))
        // From a few faults in a run to some hundreds.
        faultGap = healsAt / UInt64(4 + chance.skewed(250))
        for fault in Fault.allCases where chance.oneIn(2) { faults.append(fault) }
        if chance.oneIn(12) { faults = [] }
        if !chance.oneIn(4) { faults.removeAll { $0 == .restartWithout } }
        closes = chance.oneIn(2)
        self.chance = chance
    }

    /// A small transfer both ways on a calm network: the ground for sweeps. Every kind of frame is in it; with `splices` some of
    /// them go past memory.
    /// `ground`: which of many such conversations.
    public init(sweep cuts: [Cut], splices: Bool = false, ground: UInt64 = 0) {
        self.splices = splices
        seed = 0
        chance = Chance(seed: 0x5eed + 2 * ground + (splices ? 1 : 0))
        limits = Array(repeating: Endpoint.Limits(retained: 64 << 10, received: 64 << 10, streams: 100), count: 2)
        streamCount = 8
        bytesMaximum = 700
        chunkMaximum = 120
        opensWithin = milliseconds(4)
        resetsOneIn = 4
        serverOpens = true
        healsAt = milliseconds(40)
        earlyMaximum = 300
        arrivalMaximum = splices ? 40 : 200  // Payload that comes in parts may be passed on.
        closes = true
        self.cuts = cuts
    }

    /// A small transfer on a path that is as long as `roundTrip` milliseconds, and never fails.
    public init(longPath roundTrip: Int, seed: UInt64) {
        self.init(sweep: [])
        self.seed = seed
        chance = Chance(seed: seed)
        latency = milliseconds(roundTrip / 2)
        jitter = 1
        closes = false
        healsAt = milliseconds(1)
    }

    private static func limits(_ chance: inout Chance) -> Endpoint.Limits {
        func budget() -> Int {
            switch chance.below(3) {
            case 0: (4 << 10) + chance.skewed(60 << 10)
            case 1: (64 << 10) + chance.skewed(960 << 10)
            default: 64 << 20
            }
        }
        return Endpoint.Limits(retained: budget(), received: budget(),
                               streams: chance.oneIn(6) ? 1 + chance.skewed(8) : 100_000)
    }
}
