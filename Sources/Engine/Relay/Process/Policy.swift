import CSlab
import Time
import Tunnel

/// Every limit and delay of this module that no flag sets. Those of the dialer, the registry and the shutdown are in
/// Control, those of the protocol in Tunnel and Wire.
enum Policy {
    // MARK: Time

    /// A ring that refused an operation, or a call that met a shortage, is tried again after this.
    static let retryDelay = Interval.milliseconds(10)
    /// Accepting pauses for this long when descriptors or memory run out.
    static let acceptPause = Interval.milliseconds(100)
    /// A handshake that was dropped is gone after this; the next has at least this, times the number that there is room for, to complete.
    static let givingWay = Interval.milliseconds(20)
    /// When there is no room for another handshake, one that is silent for this, or not complete after that, is dropped.
    static let silenceGivingWay = Interval.milliseconds(500)
    static let slownessGivingWay = Interval.seconds(3)
    /// HELLO is complete within this, however slowly its bytes arrive.
    static let helloMaximum = Interval.seconds(10)
    /// The origin must accept within this, all its addresses together.
    static let originMaximum = Interval.seconds(10)
    /// A carrier that is closed in order has this long to send its last frames.
    static let lastWordsMaximum = Interval.seconds(1)
    /// Bytes of a session that has ended wait for their local socket for this long.
    static let flushMaximum = Interval.seconds(30)
    /// A client with -exit-on-failure has seen a permanent failure this often, and for this long, before it exits.
    static let lastingFailures = (count: 3, time: Interval.seconds(1))
    /// The server's port has refused connections for this long: the host is up, and the server with the session is gone.
    static let goneAfter = Interval.seconds(15)
    /// A path that TCP knows to be slow is asked about again after this.
    static let patience = Interval.milliseconds(250)
    /// Readers that wait for memory try again after this, even if no session of theirs freed any.
    static let blockedRetry = Interval.milliseconds(100)
    /// A hot socket that was quiet for this long releases its slab.
    static let hotMaximum = Interval.seconds(1)
    /// A carrier is busy after this many receives in a row with less than `hotMaximum` between them.
    static let busyArrivals = 8
    /// Free memory is looked at this often.
    static let trimInterval = Interval.seconds(1)
    /// A wait that took this much longer than asked for means that the machine slept.
    static let pauseMinimum = Interval.seconds(5)
    /// Or the kernel says that it slept for more than this.
    static let sleepMinimum = Interval.milliseconds(100)
    /// At its start a server waits this long for the addresses of its origins.
    static let firstLookupMaximum = Interval.seconds(3)
    /// An admin connection has this long for its request and its answer.
    static let adminTimeout = Interval.seconds(5)
    /// Further loops of the process have this long to say what they do; and, at the end, to end.
    static let reportPatience = Interval.seconds(1)
    static let othersPatience = Interval.seconds(3)
    /// A further loop that was given a connection and does not turn for so long gets no more.
    static let standingPatience = Interval.seconds(1)
    /// Where one waits for another outside of its loop, it looks again after this.
    static let othersPause = Interval.milliseconds(1)
    /// During an outage a name is looked up again after this.
    static let lookupInterval = Interval.seconds(5)
    /// At the start, a port in use is retried for this long: io_uring is torn down only after a killed process is gone.
    static let bindPatience = Interval.seconds(3)
    /// Certificate files are read again when they have been stable for this long, and once more after this if they do not match.
    static let filesPause = Interval.seconds(1)
    static let filesPatience = Interval.seconds(5)
    /// Certificates that expire within this are logged once a day.
    static let expiryNotice = Interval.seconds(14 * 24 * 3600)
    static let expiryInterval = Interval.seconds(24 * 3600)
    /// Between two reactions to network changes.
    static let networkPause = Interval.milliseconds(250)
    /// Questions to name servers that are not answered yet: each may take fifteen seconds, and the next one is asked after one.
    static let lookupsMaximum = 16
    /// Between two look-ups of one name.
    static let lookupLeast = Interval.milliseconds(100)
    /// A client with several servers sends a new user's bytes to one that has answered within this, and asks it else.
    static let answerMoment = Interval.milliseconds(250)
    /// A standby carrier is asked by the kernel when it has been idle for so long: often enough for what a NAT forgets.
    static let standbyIdleSeconds: Int32 = 10
    static let standbySoon = Interval.milliseconds(200)
    /// To connect and authenticate one takes at most this.
    static let standbyMaximum = Interval.seconds(5)
    /// After a subflow that could not be made, until the next is tried.
    static let subflowPause = Interval.seconds(2)...Interval.seconds(64)
    /// After an extra uplink that has found another server, until the next is made.
    static let strayPause = Interval.milliseconds(100)...Interval.seconds(10)
    /// Bytes of a chunk: little enough that a slow subflow does not keep the others' bytes waiting for long.
    static let chunkByteCount = 16 << 10
    /// Bytes that the subflows of one carrier have brought too early, and the part of `-memory` that all of them may be.
    static let waitingMaximum = 8 << 20
    static let waitingPart = 16
    /// Of a process's descriptors, this part may be subflows.
    static let subflowsPart = 8
    /// Users of a further carrier that has not reached the server this long after the first one has are moved to the first.
    static let extraMoment = Interval.milliseconds(500)
    /// A client that has no carrier believes its server's `-hold` to be over this much later: the server may have missed the carrier later.
    static let holdMargin = Interval.seconds(60)
    /// A name without an address is looked up again after this, when it is needed.
    static let lookupPause = Interval.seconds(1)

    // MARK: Counts

    /// Lines of one kind in the log; more are left out, unless its level is debug or trace.
    static let linesAtOnce = 50
    static let linesPerSecond = 1
    /// Carriers without a session at a time; one gives way to the next.
    static let handshakesMaximum = 1024
    /// Of the descriptors, one in so many may be theirs: a crowd that comes back takes none from sessions.
    static let handshakesPart = 4
    /// Streams that one carrier may open or reset in one iteration: each costs some microseconds, and a receive may bring 30 000.
    static let openingsAtOnce = 256
    /// Sessions that expire in one iteration.
    static let expiriesAtOnce = 64
    /// Connections that are accepted in one iteration, from each listener.
    static let acceptsAtOnce = 64
    /// Descriptors kept for carriers: a quarter of the limit, within these bounds.
    static let reservedDescriptors = 16...256
    static let usersMinimum = 8
    /// Connects to one origin under way at a time; the others wait their turn, and cost little if they are reset meanwhile.
    static let connectsMaximum = 512

    /// Users at a time who have not said where they want to go, how long each may take, and how much is read of one at a time.
    static let requestsMaximum = 512
    static let requestTimeout = Interval.seconds(10)
    static let requestReadByteCount = 4096

    /// Admin connections at a time, of each kind; beyond that the oldest idle one is closed.
    static let adminConnectionsMaximum = 16
    /// Names of mappings, or of clients, that metrics and status tell apart.
    static let labelsMaximum = 100
    /// Clients whose bytes are remembered after their sessions have ended.
    static let clientsMaximum = 1000
    /// Outages that are remembered for people.
    static let outagesMaximum = 32
    /// What is shorter is none.
    static let outageMinimum = Interval.milliseconds(1)

    // MARK: Bytes

    /// An HTTP request, of which only the first line matters.
    static let adminRequestByteCount = 8 << 10

    /// The shared receive pool.
    static let poolByteCount = 16 << 10
    static let poolCount = 128
    /// A hot socket whose receive brings less than this is cold again.
    static let coldBelow = 2048
    /// A slab less a frame's header: with it, the bytes fill one receive of the peer, not one and a few bytes more.
    static let directByteCount = Int(SLAB_BYTES) - 64
    /// Room that a slab must have for another receive.
    static let slabRoomMinimum = 64 << 10
    static let hotUsersMaximum = 64
    /// Carriers with a slab of their own: at most this many, or an eighth of the memory.
    static let hotCarriersMinimum = 8
    /// A hot carrier whose receive brings less than this is cold again.
    static let carrierColdBelow: Int32 = 4096
    /// Room that a carrier's page must have for another receive: what is unread in it moves to the start of a fresh one.
    static let pageRoomMinimum = 2 << 10
    /// Pieces shorter than this are copied into the store, longer ones referenced.
    static let copyBelow = 2048
    /// Payload shorter than this is copied out of a carrier's slab, so that a slow user does not pin it.
    static let outboundCopyBelow = 2048
    static let outboundCopyBelowWhenSlow = 16 << 10
    /// Memory that blocks may hold beyond the bytes in them, and a quarter of those.
    static let fragmentedByteCount = 16 << 20
    /// Longer copies would take a slab.
    static let copyAtOnce = 32 << 10
    /// What a stream may hold while the carrier works: more would only add delay.
    static let inboundWhileAttached = 2 << 20
    /// And what it may hold beyond its credit: enough to go on at once when more comes.
    static let inboundAheadOfCredit = 64 << 10
    /// A stream that holds bytes is read again when there is room for this many more.
    static let pieceMinimum = 16 << 10
    /// What every stream may hold, however many there are.
    static let inboundLeast = 512
    /// Bytes of one send on a carrier.
    static let batchByteCount = 512 << 10
    /// Without a carrier only this much is sequenced: what waits can still be reordered.
    static let detachedBatchByteCount = 64 << 10
    /// Bytes that the kernel takes for all users ahead of what it may send; and for one: a bound above the first means none.
    static let unsentByteCount = 128 << 20
    static let unsentMaximum = 2 << 20
    static let unsentMinimum = 64 << 10
    /// Bytes of one send to a user.
    static let userSendByteCount = 1 << 20
    static let userIovecMaximum = 64
    /// Of a send behind which nothing waits, its completion may be late; with more bytes, room may be short, and then there is a next one.
    static let unhurriedMaximum = 16 << 10
    static let iovecMaximum = 256
    /// Free memory that stays committed: touching a fresh slab costs more than filling it.
    static let spareByteCount = 32 << 20
    /// The arena's address space, beyond `-memory` and half of it again.
    static let arenaSpare = 64 << 20
    static let arenaMaximum = 1 << 40
    // MARK: Pipes

    /// What a pipe holds in pages of 4 KiB; segments on loopback are larger. More needs a privilege.
    static let pipeByteCount = 1 << 20
    /// What it holds at least of what comes from a network, in segments of some KiB; and on loopback, where they have up to 64.
    static let pipeHolds = 256 << 10
    static let pipeHoldsOnLoopback = 4 << 20
    /// Pipes of the process: half of what an unprivileged user may have, for two processes.
    static let pipesMaximum = 32
    /// One pipe for this many descriptors that the process may have.
    static let descriptorsPerPipe = 32
    static let pipesIdleMaximum = 16
    /// A system that refused a pipe is asked again after this.
    static let pipeRetry = Interval.seconds(10)
    /// A socket that brings this much within this time is spliced, until most splices are shorter than this.
    static let spliceWindow = Interval.milliseconds(50)
    static let spliceWindowByteCount = 512 << 10
    static let spliceAbove = 24 << 10
    static let spliceEndStreak = 16
    /// Payload of one spliced frame.
    static let spliceByteCount = 1 << 20
    /// Bytes that all spliced streams send in a round.
    static let spliceRoundByteCount = 8 << 20
    /// A stream's share of a round when many are spliced, or others wait that are not.
    static let spliceShareMinimum = 512 << 10
    /// Streams of a session beyond which none is spliced: copies take short turns, and no socket stays full for long.
    static let splicersMaximum = 128
    /// On a network with several streams, a frame is what passes in this time; it must be at least this long, or the CPU is not the limit.
    static let spliceTime = Interval.microseconds(500)
    static let spliceFastMinimum = 256 << 10
    /// A round trip on a path where the CPU is the limit is shorter.
    static let nearMicroseconds = 1000
    /// Bytes that are spliced before other streams get their turn.
    static let spliceTurnByteCount = 2 << 20
    static let spliceTurnBesideOthers = 512 << 10
    /// Payload is spliced to a local socket from this length on, and to this many sockets at a time.
    static let passAbove = 48 << 10
    /// Its pieces are mostly at least this long.
    static let passLeast = 8 << 10
    /// The carrier is read into memory again when so many payloads, nearly in a row, were shorter than half of that, or came in
    /// shorter pieces.
    static let passEndStreak = 8
    static let passedUsersMaximum = 64
    /// Pipes that one user's bytes may wait in.
    static let pipesOfUserMaximum = 4
    /// Credit of such a stream: its pipes hold this also when their pages are not full.
    static let passedAhead = 3 << 20
    /// Frames between such payload are received in pieces of this size.
    static let headerByteCount = 1 << 10

    /// Released bytes after which readers of other sessions look again at once.
    static let wakeByteCount = 256 << 10

    // MARK: TCP, on carriers

    /// A carrier is always read by its peer, so a window that stays shut means a dead path: give up after this.
    static let userTimeoutMilliseconds: Int32 = 120_000
    /// Retransmissions back off to this only (Linux 6.15), so that a path that is whole is noticed.
    static let retransmissionMaximumMilliseconds: Int32 = 1_000
    /// The most that it is for bulk on a long path.
    static let retransmissionMaximumFarMilliseconds: Int32 = 10_000
    /// Unacknowledged bytes of a session that sends bulk.
    static let bulkByteCount = 512 << 10
    static let connectRepetitions: Int32 = 120
    /// What was held through an outage comes as fast as TCP on the other side lets it: its first doublings find this room.
    static let receiveAheadByteCount: Int32 = 2 << 20
    /// What the kernel takes ahead of sending cannot be reordered any more.
    static let notSentLowWater: Int32 = 128 << 10

    // MARK: Upgrades

    /// Time for the check.
    static let successorMaximum = Interval.seconds(5)
    /// Time for operations in flight to end.
    static let settleMaximum = Interval.seconds(2)
    /// Signs of life for the keeper, which ends a process that gives none for ten seconds.
    static let keeperBeat = Interval.seconds(1)
    /// Pauses after which listeners look for connections that a dead process's ring may have been told of.
    static let looksAfterDeath: [Interval] = [.milliseconds(5), .milliseconds(20), .milliseconds(100), .milliseconds(1000)]
    /// Counters of a process that dies are at most this old.
    static let recordedEvery = Interval.seconds(1)
}
