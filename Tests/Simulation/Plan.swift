import Chance
import Wire

/// Everything that is decided before a run of whole processes begins. A seed enables its own subset of faults and its own budgets, so that
/// rare combinations come up alone and undisturbed as well.
public struct Plan: Sendable {
    public enum Fault: Int, CaseIterable, Sendable {
        /// Both directions between a client and the server lose everything for a while; or one of them.
        case silence, halfSilence
        /// All carriers are reset, at both ends or at one.
        case cut, halfCut
        /// A carrier dies at a byte.
        case cutAtByte
        /// Something between a client and the server forgets their carriers.
        case forget
        /// The ring of a process has no room for a while.
        case refuse
        /// The path becomes slower, or fast again.
        case slow
        /// A process gets no time for a while.
        case freeze
        /// A client's machine sleeps.
        case sleep
        /// What the carriers carry takes longer for a while; new ones do not.
        case lag
        /// Somebody who has seen the first bytes of a carrier sends them once more.
        case oldHello
        /// Nobody answers questions for names for a while.
        case namesFail
        /// Links changed, as far as the kernel tells; or nothing did.
        case networkNews
        case reload
        case killClient, killServer
        /// The server drains, ends, and is started again.
        case drainServer
        /// The origin is not there for a while.
        case refuseOrigin
        /// Another program takes a process over.
        case upgrade
        /// A process dies in the middle of what it does, and another one goes on with what it left.
        case crash
    }

    /// What a run is about. Most are mixed; the others hold still what they do not ask for.
    public enum Story: Int, CaseIterable, Sendable {
        case mixed
        /// Many idle clients, and a few connections that move bytes.
        case crowd
        /// Thousands of connections that are reset as soon as they are made, and a few that are not (protocol 6.9, 6.15).
        case resetStorm
        /// Forty readers that stop for ever, and one that reads (protocol 2.8, 7.6, 7.7).
        case stoppedReaders
        /// One connection that uploads over a long path, among idle clients (protocol 7.2, 7.5).
        case longPath
        /// The server stands still for ten seconds; later something between the two forgets the carrier, and the path is whole.
        case forgottenCarrier
        /// The ring refuses operations for a while.
        case refusals
        /// Urgent bytes in streams that are spliced.
        case urgent
        /// Twenty users upload while the path is silent, and memory is scarce.
        case hoard
        /// A few small connections on a calm network.
        case conversation
        /// Users who stop to read their downloads, one after another, and reset them; the last of them do not (protocol 6.10, 6.11).
        case abandonedDownloads
        /// Several servers of one name, and carriers that do not last (protocol 4.22).
        case replicas
        /// A list of servers, each of which is away for seconds now and then (protocol 4.24, 4.25).
        case failover
        /// Many clients with keys come back at once to a server that has few descriptors.
        case crowdReturns
        /// Other programs take both sides over, again and again, also during outages.
        case takeovers
        /// The path that carries goes silent, again and again, beside another one (protocol 4.27, 8.10).
        case twoPaths
        /// Both sides die again and again, also during outages, and others go on with what they left.
        case crashes
        /// A session makes the process crash that works on it: it is given up, and nobody else's connections are lost.
        case poisoned
        /// Many streams over a path that loses packets: the carrier has subflows (protocol 4.28).
        case lossy
        /// Processes with several loops: carriers come to another one than their session's, and are passed on (docs/internals/threads.md).
        case loops
        /// Both sides die again and again while long streams are spliced in both directions.
        case splicedCrashes
    }

    /// What stands at an address of the server's name.
    enum Door {
        /// A tele server; the first is one. Several are replicas, which know nothing of each other.
        case server
        /// Nobody listens.
        case refusing
        /// Nothing answers.
        case silent
        /// Takes bytes and says nothing.
        case swallowing
        /// Says something else (protocol 2.2, 10.4).
        case foreign
    }

    /// The death of a process at one of its system calls, of those since it began.
    struct CallDeath: Sendable {
        /// In front of the call, although it is noted; in it, so that nothing knows what it came to; or behind it.
        enum Place: Int, CaseIterable { case before, within, behind }

        var side: Side
        var call: Int
        var place: Place
    }

    /// The death of one carrier, of those that a sweep asks for.
    struct Cut {
        /// Which carrier, from 1 on.
        var carrier: Int
        /// Whose bytes are counted.
        var from: Side
        /// It dies when so many bytes have arrived.
        var afterBytes: Int
        var death: TCPSocket.Death
    }

    public let seed: UInt64
    var chance = Chance(seed: 0)
    var story = Story.mixed
    /// Nanoseconds from the start, within which every connection is over that can be.
    var endsWithin: UInt64?

    // Processes.
    var clients = 1
    var hasKey = false
    var splicing = 0
    var bufferByteCount = 1 << 20
    var memoryByteCount = 4 << 20
    var streamsMaximum = 100_000
    var delayMaximum = 20_000

    /// Loops of each process, which all have their own time.
    var threads = 1

    var doors: [Door] = [.server]
    /// Clients have a list of the doors' addresses, this one first; else they know the first by its number, or all by one name.
    var listedFirst: Int?
    var hasName: Bool { doors.count > 1 && listedFirst == nil }
    /// How long a client waits for a server before it goes to the next one.
    var failoverSeconds = 10
    /// Of each client to its server. Nil: as many connections as the path needs.
    var carriers: Int? = 1
    /// Connections to a server that a client has at most, besides one that takes another's place.
    var connectionsMaximum: Int { (carriers ?? 1 + Specification.subflowsMaximum) * threads }
    /// Clients have two interfaces, and paths to the servers from each.
    var hasTwoPaths = false

    // The kernel.
    var limits = VirtualKernel.Limits()

    // Users.
    var streams = 4
    /// One in this many connects to the server, and is carried to an origin beside a client.
    var reverseOneIn = Plan.never
    /// One in this many says itself where it wants to go.
    var asksOneIn = Plan.never
    var asks: Bool { asksOneIn < Plan.never }
    static let never = 1_000_000
    var isReversible: Bool { reverseOneIn < Plan.never }
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
    /// One burst in this many is lost between machines.
    var lossOneIn = Plan.never
    /// What this side sends on the first client's carriers is changed on the way. With a key nobody notices; without one, that client's
    /// users may see anything.
    public var liar: Side?
    /// States that are handed over are changed on the way, at random.
    public var spoilsStates = false
    var cuts: [Cut] = []
    var faults: [Fault] = []
    var faultGap: UInt64 = milliseconds(500)
    var healsAt: UInt64 = milliseconds(3000)

    /// Some fault of the plan may cost connections.
    var mayLose: Bool { faults.contains(.killClient) || faults.contains(.killServer) || faults.contains(.drainServer) }

    /// What the liar changes reaches users: there is no key.
    var isBelieved: Bool { liar != nil && !hasKey }
    /// Bytes of each carrier that are kept, for those who repeat or read them.
    var recordMaximum: Int { isSwept ? .max : faults.contains(.oldHello) ? 1000 : 0 }
    private var isSwept = false
    /// Another process goes on with what one leaves that dies.
    var isKept: Bool { keeps || faults.contains(.crash) }
    private var keeps = false
    private(set) var callDeath: CallDeath?

    /// One side lies to the other, or what is between them does; somebody else is there as well.
    public mutating func hasLiar(_ side: Side) {
        liar = side
        endsWithin = nil
        clients = max(clients, 2)
    }

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
        bytesMaximum = chance.oneIn(2) ? chance.skewed(64 << 10) : chance.within(8 << 10...200 << 10)
        if chance.oneIn(6) {
            streams = 1 + chance.below(3)
            bytesMaximum = chance.within(500 << 10...3 << 20)
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
        healsAt = milliseconds(100 + (chance.oneIn(3) ? chance.skewed(20_000) : chance.within(300...3_000)))
        faultGap = healsAt / UInt64(1 + chance.skewed(chance.oneIn(2) ? 40 : 200))
        opensWithin = chance.oneIn(3) ? 1 : UInt64(chance.skewed(Int(healsAt)))
        for fault in Fault.allCases where chance.oneIn(3) { faults.append(fault) }
        if !chance.oneIn(6) { faults.removeAll { $0 == .killServer || $0 == .killClient || $0 == .drainServer } }
        if !chance.oneIn(3) { faults.removeAll { $0 == .crash } }
        if chance.oneIn(8) { faults = [] }
        if chance.oneIn(8) { hasLiar(chance.pick(Side.allCases)) }
        for _ in 1..<chance.pick([1, 1, 1, 2, 3]) { doors.append(chance.pick([.server, .server, .refusing, .silent, .swallowing, .foreign])) }
        var told: Story = chance.oneIn(6) ? chance.pick(Story.allCases) : .mixed
        // These take as long as thirty others.
        if told == .resetStorm || told == .crowdReturns, !chance.oneIn(3) { told = .mixed }
        if doors.count > 1 {
            failoverSeconds = chance.pick([0, 1, 3, 10])
            if chance.oneIn(2) { listedFirst = chance.below(doors.count) }
        }
        carriers = chance.pick([1, 1, 1, 2, 4])
        hasTwoPaths = chance.oneIn(3)
        asksOneIn = chance.pick([Plan.never, Plan.never, 2, 1])
        if doors.count == 1 { reverseOneIn = chance.pick([Plan.never, 2, 1]) }
        if chance.oneIn(6) { (carriers, lossOneIn) = (nil, 10) }
        self.chance = chance
        // Of a chance of its own: what was drawn before stays.
        var ofThreads = Chance(seed: seed &+ 0x7_4ead)
        if ofThreads.oneIn(4), !isKept { threads = ofThreads.pick([2, 2, 3]) }
        tell(told)
    }

    /// The plan of a story.
    public init(_ story: Story, seed: UInt64) {
        self.init(seed: seed)
        tell(story)
    }

    /// A small conversation on a calm network: the ground of a sweep. `ground`: which of many.
    init(sweep cuts: [Cut], splices: Bool, hasKey: Bool, ground: UInt64, isKept: Bool = false, callDeath: CallDeath? = nil) {
        self.init(seed: 0x5eed + ground)
        tell(.conversation)
        (splicing, self.hasKey) = (splices ? 1 : 2, hasKey)
        reverseOneIn = 2
        // Less than a user may configure: streams use their credit up.
        bufferByteCount = 4 << 10
        self.cuts = cuts
        (isSwept, keeps, self.callDeath) = (true, isKept, callDeath)
        // Nothing is spliced that does not come fast.
        if splices { (streams, bytesMaximum, chunkMaximum, bufferByteCount, memoryByteCount) = (4, 800 << 10, 64 << 10, 1 << 20, 4 << 20) }
    }

    private mutating func tell(_ story: Story) {
        self.story = story
        guard story != .mixed else { return }
        let (ways, asking, spread, twoPaths) = (reverseOneIn, asksOneIn, carriers, hasTwoPaths)
        (carriers, hasTwoPaths, lossOneIn, threads) = (1, false, Plan.never, 1)
        (reverseOneIn, asksOneIn) = (Plan.never, Plan.never)
        limits = VirtualKernel.Limits()
        doors = [.server]
        listedFirst = nil
        liar = nil
        faults = []
        endsWithin = nil
        (clients, hasKey, delayMaximum, streamsMaximum) = (1, chance.oneIn(8), 20_000, 100_000)
        (bufferByteCount, memoryByteCount) = (8 << 20, 16 << 20)
        (latency, jitter, rate) = (milliseconds(1), 0, 0)
        (resetsOneIn, slowOneIn, stopsOneIn, urgentOneIn) = (1_000_000, 1_000_000, 1_000_000, 1_000_000)
        (chunkMaximum, opensWithin, healsAt) = (64 << 10, milliseconds(500), milliseconds(1000))
        switch story {
        case .mixed: break
        case .crowd:
            (clients, streams, bytesMaximum, latency) = (40, 3, 1 << 20, milliseconds(20))
            endsWithin = milliseconds(10_000)
        case .resetStorm:
            (streams, streamsMaximum, bytesMaximum, latency) = (1500, 300, 64 << 10, microseconds(50))
            opensWithin = 1
            endsWithin = milliseconds(60_000)
        case .stoppedReaders:
            (streams, bytesMaximum, latency, opensWithin) = (41, 2 << 20, milliseconds(chance.pick([1, 5, 20])), 1)
            (bufferByteCount, memoryByteCount) = (1 << 20, 4 << 20)
            limits.receiveBuffer = chance.pick([16, 64, 128]) << 10
            limits.sendBuffer = limits.receiveBuffer
            endsWithin = milliseconds(20_000)
        case .longPath:
            (clients, streams, bytesMaximum, latency, opensWithin) = (30, 1, 8 << 20, milliseconds(100), 1)
            (bufferByteCount, memoryByteCount) = (16 << 20, 64 << 20)
            limits.receiveBuffer = 16 << 20
            limits.sendBuffer = 16 << 20
            endsWithin = milliseconds(5_000)
        case .forgottenCarrier:
            (streams, opensWithin, healsAt) = (1, 1, milliseconds(30_000))
            latency = milliseconds(chance.pick([1, 20, 60]))
        case .refusals:
            (streams, bytesMaximum, healsAt) = (10, 256 << 10, milliseconds(3000))
        case .urgent:
            (streams, bytesMaximum, splicing, hasKey, urgentOneIn, opensWithin) = (2, 2 << 20, 1, false, 1, 1)
        case .abandonedDownloads:
            (streams, bytesMaximum, latency, opensWithin) = (80, 512 << 10, milliseconds(5), milliseconds(4000))
            (bufferByteCount, memoryByteCount) = (1 << 20, 4 << 20)
            (limits.receiveBuffer, limits.sendBuffer) = (16 << 10, 16 << 10)
            endsWithin = milliseconds(20_000)
        case .replicas:
            (streams, bytesMaximum, opensWithin, healsAt) = (10, 8 << 10, milliseconds(2500), milliseconds(2600))
            doors = Array(repeating: .server, count: 5)
            (faults, faultGap) = ([.cut, .halfCut, .silence, .slow], milliseconds(40))
            failoverSeconds = chance.pick([0, 1, 10])
            listedFirst = chance.oneIn(2) ? chance.below(doors.count) : nil
            latency = milliseconds(chance.pick([30, 60]))
        case .failover:
            (clients, streams, bytesMaximum, opensWithin, healsAt) = (2, 60, 8 << 10, milliseconds(12_000), milliseconds(12_500))
            doors = [.server, .server, chance.pick([.server, .refusing, .silent])]
            (listedFirst, failoverSeconds) = (chance.oneIn(4) ? nil : chance.below(3), chance.pick([0, 1, 2]))
            (resetsOneIn, slowOneIn, asksOneIn, carriers, hasTwoPaths) = (6, 2, asking, spread, twoPaths)
            latency = milliseconds(chance.pick([0, 1, 20]))
            faults = [.silence, .silence, .halfSilence, .forget, .cut, .freeze, .upgrade, .refuse, .networkNews]
            faultGap = milliseconds(400)
        case .crowdReturns:
            (clients, streams, bytesMaximum, hasKey) = (40, 40, 4 << 10, true)
            (latency, opensWithin, healsAt) = (milliseconds(30), milliseconds(8000), milliseconds(1000))
            limits.descriptors = 160
            endsWithin = milliseconds(20_000)
        case .conversation:
            (streams, bytesMaximum, opensWithin, healsAt) = (8, 700, milliseconds(20), milliseconds(40))
            (chunkMaximum, resetsOneIn) = (120, 4)
        case .takeovers:
            (clients, streams, bytesMaximum, opensWithin, healsAt) = (2, 16, 300 << 10, milliseconds(2000), milliseconds(3000))
            (resetsOneIn, slowOneIn, stopsOneIn, urgentOneIn) = (4, 2, 8, 4)
            latency = milliseconds(chance.pick([0, 1, 20]))
            (reverseOneIn, asksOneIn, carriers, hasTwoPaths) = (ways, asking, spread, twoPaths)
            (bufferByteCount, memoryByteCount) = (1 << 20, 2 << 20)
            limits.receiveBuffer = chance.pick([8, 64, 512]) << 10
            limits.sendBuffer = limits.receiveBuffer
            faults = [.upgrade, .upgrade, .upgrade, .oldHello, .cut, .silence, .halfSilence, .refuse, .freeze, .refuseOrigin]
            faultGap = milliseconds(60)
        case .crashes:
            (clients, streams, bytesMaximum, opensWithin, healsAt) = (2, 16, 300 << 10, milliseconds(2000), milliseconds(3000))
            (resetsOneIn, slowOneIn, stopsOneIn) = (4, 2, 8)
            latency = milliseconds(chance.pick([0, 1, 20]))
            (reverseOneIn, carriers, hasTwoPaths) = (ways, spread, twoPaths)
            (bufferByteCount, memoryByteCount) = (1 << 20, 2 << 20)
            limits.receiveBuffer = chance.pick([8, 64, 512]) << 10
            limits.sendBuffer = limits.receiveBuffer
            faults = [.crash, .crash, .crash, .crash, .upgrade, .oldHello, .cut, .silence, .halfSilence, .refuse, .freeze, .refuseOrigin]
            faultGap = milliseconds(40)
        case .splicedCrashes:
            (clients, streams, bytesMaximum, opensWithin, healsAt) = (chance.pick([1, 2]), 1 + chance.below(5), 2 << 20, milliseconds(300), milliseconds(3000))
            (splicing, hasKey, reverseOneIn, chunkMaximum) = (1, false, ways, 32 << 10)
            (resetsOneIn, slowOneIn, stopsOneIn, urgentOneIn) = (8, chance.pick([3, 1_000_000]), 12, 6)
            latency = milliseconds(chance.pick([0, 0, 1, 20]))
            limits.receiveBuffer = chance.pick([64, 512, 2048]) << 10
            limits.sendBuffer = chance.pick([16, 64, 512]) << 10
            (limits.pipeBytes, limits.shortOneIn) = (16 << 20, chance.pick([0, 3]))
            faults = [.crash, .crash, .crash, .crash, .crash, .crash, .upgrade, .cut, .silence, .halfSilence, .refuse, .freeze]
            faultGap = milliseconds(chance.pick([5, 20, 60]))
        case .poisoned:
            (clients, streams, bytesMaximum, opensWithin, healsAt) = (3, 24, 300 << 10, milliseconds(2000), milliseconds(3000))
            (slowOneIn, reverseOneIn, carriers) = (2, ways, spread)
            latency = milliseconds(chance.pick([0, 1, 20]))
            faults = [.crash, .cut, .silence, .halfSilence]
            faultGap = milliseconds(200)
        case .lossy:
            (streams, bytesMaximum, opensWithin, healsAt) = (2 + chance.below(12), 3 << 20, 1, milliseconds(12_000))
            (carriers, lossOneIn, latency, hasTwoPaths) = (nil, chance.pick([3, 10, 20]), milliseconds(chance.pick([5, 20, 50])), twoPaths)
            (slowOneIn, resetsOneIn, reverseOneIn) = (chance.pick([1_000_000, 3]), chance.pick([1_000_000, 6]), ways)
            limits.receiveBuffer = chance.pick([32, 64, 256]) << 10
            limits.sendBuffer = limits.receiveBuffer
            limits.shortOneIn = chance.pick([0, 3])
            let usual: [Fault] = [.cut, .halfCut, .cutAtByte, .silence, .halfSilence, .forget, .oldHello, .lag, .freeze, .refuse, .upgrade, .reload]
            faults = chance.pick([[], usual, usual + [.crash, .crash, .killClient]])
            faultGap = milliseconds(700)
        case .loops:
            (clients, streams, bytesMaximum, opensWithin, healsAt) = (chance.pick([1, 2, 4]), 24, 300 << 10, milliseconds(2000), milliseconds(4000))
            (threads, carriers, hasTwoPaths, reverseOneIn, asksOneIn) = (chance.pick([2, 2, 3, 5]), spread, twoPaths, ways, asking)
            (hasKey, slowOneIn, resetsOneIn, latency) = (chance.oneIn(2), 3, 6, milliseconds(chance.pick([0, 1, 20])))
            limits.receiveBuffer = chance.pick([8, 64, 512]) << 10
            limits.sendBuffer = limits.receiveBuffer
            limits.shortOneIn = chance.pick([0, 3])
            let usual: [Fault] = [
                .cut, .halfCut, .cutAtByte, .silence, .halfSilence, .forget, .oldHello, .lag, .freeze, .refuse, .reload, .sleep, .networkNews,
            ]
            faults = chance.pick([usual, usual + [.upgrade, .upgrade, .upgrade], usual + [.killClient, .killServer, .drainServer]])
            faultGap = milliseconds(chance.pick([60, 300]))
        case .twoPaths:
            (streams, opensWithin, healsAt, hasTwoPaths) = (2, 1, milliseconds(30_000), true)
            latency = milliseconds(chance.pick([1, 10, 60]))
            hasKey = chance.oneIn(2)
        case .hoard:
            (streams, bytesMaximum, healsAt, opensWithin) = (20, 300 << 10, milliseconds(8000), milliseconds(50))
            (bufferByteCount, memoryByteCount) = (1 << 20, 1 << 20)
        }
    }

    /// What the user, or the origin, of a connection does.
    func script(_ number: Int, _ side: Side, _ chance: inout Chance) -> Talker.Script {
        var script = Talker.Script()
        script.total = chance.skewed(bytesMaximum)
        script.chunk = 1 + chance.below(chunkMaximum)
        switch story {
        case .conversation where isSwept && splicing == 1: script.total = number == 0 ? bytesMaximum : 300
        case .mixed, .refusals, .conversation, .replicas, .failover, .takeovers, .crashes, .poisoned, .loops, .splicedCrashes: break
        case .lossy: script.total = bytesMaximum
        case .crowd:
            script.total = side == .server ? bytesMaximum : 0
            return script
        case .longPath:
            script.total = side == .client ? bytesMaximum : 0
            // Byte by byte it would take more steps than a run has.
            script.chunk = max(script.chunk, 1 << 10)
            return script
        case .urgent, .hoard: script.total = bytesMaximum
        case .resetStorm:
            // Late enough that the other side has heard of it.
            if side == .client, number >= 4 { (script.chunk, script.writeGap, script.resetsAtWritten) = (1, milliseconds(2), 2) }
            if side == .client { script.total = max(script.total, 100) }
            return script
        case .stoppedReaders:
            script.total = side == .client ? 0 : bytesMaximum
            if side == .client, number < 40 { script.stopsReadingAt = 0 }
            return script
        case .crowdReturns:
            script.total = bytesMaximum
            return script
        case .abandonedDownloads:
            script.total = side == .client ? 0 : bytesMaximum
            if side == .client, number % 20 != 0 { (script.stopsReadingAt, script.resetsAfter) = (chance.below(64 << 10), milliseconds(500)) }
            return script
        case .forgottenCarrier, .twoPaths:
            (script.total, script.chunk, script.writeGap) = (6000, 10, milliseconds(50))
            return script
        }
        if chance.oneIn(slowOneIn) { script.writeGap = microseconds(chance.skewed(200_000)) }
        if chance.oneIn(slowOneIn) { script.readGap = microseconds(chance.skewed(200_000)) }
        // A slow one must come to its end within the run.
        if script.writeGap > 0 { script.chunk = max(script.chunk, script.total / 64) }
        if chance.oneIn(resetsOneIn) { script.resetsAtWritten = chance.below(script.total + 1) }
        if chance.oneIn(resetsOneIn) { script.resetsAtReceived = chance.below(bytesMaximum + 1) }
        if chance.oneIn(stopsOneIn) { script.stopsReadingAt = chance.below(bytesMaximum + 1) }
        if chance.oneIn(urgentOneIn) { script.urgentAt = chance.below(script.total + 1) }
        return script
    }
}
