/// 128 random bits that name a session. Guessing one is useless without the secret.
public struct SessionIdentity: Hashable, Sendable {
    public let high: UInt64
    public let low: UInt64

    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    public static let none = SessionIdentity(high: 0, low: 0)
}

/// 256 bits that only the two ends of a session know.
public struct Secret: Equatable, Sendable {
    public let words: (UInt64, UInt64, UInt64, UInt64)

    public init(_ a: UInt64, _ b: UInt64, _ c: UInt64, _ d: UInt64) { words = (a, b, c, d) }

    public static let zero = Secret(0, 0, 0, 0)

    public static func == (left: Secret, right: Secret) -> Bool { left.words == right.words }
}

/// A message authentication code of 256 bits: the proof of a HELLO or a WELCOME.
public struct MAC: Equatable, Sendable {
    public var words: (UInt64, UInt64, UInt64, UInt64)

    public init(_ a: UInt64, _ b: UInt64, _ c: UInt64, _ d: UInt64) { words = (a, b, c, d) }

    public static let zero = MAC(0, 0, 0, 0)

    /// Takes the same time wherever the difference lies, so that a proof cannot be guessed byte by byte.
    public static func == (left: MAC, right: MAC) -> Bool {
        (left.words.0 ^ right.words.0) | (left.words.1 ^ right.words.1)
            | (left.words.2 ^ right.words.2) | (left.words.3 ^ right.words.3) == 0
    }
}

/// The client's first words on a carrier: which session, and from where each side goes on.
public struct Hello: Equatable, Sendable {
    public var versionMinimum: UInt8 = Specification.version
    public var versionMaximum: UInt8 = Specification.version
    /// `.none`: a new session is wanted.
    public var identity: SessionIdentity
    /// Counts this client's carriers of the session, strictly increasing; an older one can never displace a newer one.
    public var attempt: UInt64
    /// Session offset up to which the client has received: the server replays from here.
    public var received: UInt64
    /// Session offset at which the early bytes start: what the client knows to be acknowledged.
    public var replay: UInt64
    /// Sequenced bytes that follow this HELLO at once, with nothing between them.
    public var earlyByteCount: UInt32
    /// How many payload bytes in all the server may send in this session.
    public var dataLimit: UInt64
    /// A MAC over all of HELLO before this field, keyed with the session's secret. Zero for a new session.
    public var proof: MAC
    /// The targets of the client's own origins, to which the server may open streams. At most `Specification.clientOriginsMaximum`.
    public var origins: [UInt64] = []

    public init(
        identity: SessionIdentity, attempt: UInt64, received: UInt64, replay: UInt64, earlyByteCount: UInt32,
        dataLimit: UInt64, proof: MAC = .zero
    ) {
        self.identity = identity
        self.attempt = attempt
        self.received = received
        self.replay = replay
        self.earlyByteCount = earlyByteCount
        self.dataLimit = dataLimit
        self.proof = proof
    }

    static let fixedBodyByteCount = 16 + 8 + 8 + 8 + 4 + 8 + 32
    /// Where the proof starts: the bytes that it covers.
    public static let provenByteCount = Specification.prefaceByteCount + fixedBodyByteCount - 32
    /// Without origins.
    public static let leastByteCount = Specification.prefaceByteCount + fixedBodyByteCount
    private var bodyByteCount: Int { Hello.fixedBodyByteCount + (origins.isEmpty ? 0 : 1 + 8 * origins.count) }
    public var byteCount: Int { Specification.prefaceByteCount + bodyByteCount }

    public func encode(into writer: inout ByteWriter) {
        writer.append(contentsOf: Specification.magic)
        writer.append(versionMinimum)
        writer.append(versionMaximum)
        writer.append(integer: UInt16(bodyByteCount))
        writer.append(identity)
        writer.append(integer: attempt)
        writer.append(integer: received)
        writer.append(integer: replay)
        writer.append(integer: earlyByteCount)
        writer.append(integer: dataLimit)
        writer.append(proof)
        guard !origins.isEmpty else { return }
        writer.append(UInt8(origins.count))
        for target in origins { writer.append(integer: target) }
    }

    /// Reads the HELLO at the start of `bytes`; nil when more bytes are needed. A fault as soon as a byte is wrong, so
    /// a stranger is not waited for. Bytes behind the fields known here belong to later versions and are passed over.
    public static func decode(_ bytes: RawSpan) throws(ProtocolFault) -> (hello: Hello, byteCount: Int)? {
        for index in 0..<min(bytes.byteCount, Specification.magic.count)
        where bytes.unsafeLoad(fromByteOffset: index, as: UInt8.self) != Specification.magic[index] {
            throw ProtocolFault("the peer does not speak tele")
        }
        var offset = Specification.magic.count
        guard let minimum = bytes.byte(at: &offset), let maximum = bytes.byte(at: &offset),
            let length = bytes.integer(UInt16.self, at: &offset)
        else { return nil }
        guard length >= fixedBodyByteCount, length <= Specification.helloBodyMaximum else {
            throw ProtocolFault("HELLO has an impossible length")
        }
        guard minimum <= maximum else { throw ProtocolFault("HELLO has an empty version range") }
        let end = offset + Int(length)
        guard bytes.byteCount >= end else { return nil }
        guard let identity = bytes.identity(at: &offset),
            let attempt = bytes.integer(UInt64.self, at: &offset),
            let received = bytes.integer(UInt64.self, at: &offset),
            let replay = bytes.integer(UInt64.self, at: &offset),
            let early = bytes.integer(UInt32.self, at: &offset),
            let limit = bytes.integer(UInt64.self, at: &offset),
            let proof = bytes.mac(at: &offset)
        else { throw ProtocolFault("HELLO ends inside a field") }
        guard received <= Specification.offsetMaximum, replay <= Specification.offsetMaximum,
            limit <= Specification.offsetMaximum, attempt <= Specification.offsetMaximum,
            early <= Specification.earlyMaximum
        else {
            throw ProtocolFault("HELLO names an impossible offset")
        }
        var hello = Hello(
            identity: identity, attempt: attempt, received: received, replay: replay,
            earlyByteCount: early, dataLimit: limit, proof: proof)
        hello.versionMinimum = minimum
        hello.versionMaximum = maximum
        if offset < end { hello.origins = try origins(bytes, at: &offset, before: end) }
        return (hello, end)
    }

    private static func origins(_ bytes: RawSpan, at offset: inout Int, before end: Int) throws(ProtocolFault) -> [UInt64] {
        guard let count = bytes.byte(at: &offset), count <= Specification.clientOriginsMaximum, offset + 8 * Int(count) <= end else {
            throw ProtocolFault("HELLO names more origins than it holds")
        }
        var origins: [UInt64] = []
        for _ in 0..<count {
            guard let target = bytes.integer(UInt64.self, at: &offset), target <= Varint.maximum else {
                throw ProtocolFault("HELLO names an impossible origin")
            }
            origins.append(target)
        }
        return origins
    }
}

/// The server's answer: the session goes on, from here.
public struct Welcome: Equatable, Sendable {
    public var version: UInt8 = Specification.version
    public var identity: SessionIdentity
    /// Of a new session only; else zero.
    public var secret: Secret
    /// The attempt that is answered.
    public var attempt: UInt64
    /// The number of carriers that the session has had.
    public var epoch: UInt32
    /// Session offset up to which the server has received: the client goes on from here.
    public var received: UInt64
    /// How many payload bytes in all the client may send in this session.
    public var dataLimit: UInt64
    /// Streams that may be open at a time.
    public var maximumStreams: UInt64
    /// The most that the client may declare as `sendCredit` in OPEN.
    public var initialCredit: UInt64
    /// A MAC over all of WELCOME's body before this field, keyed with the session's secret. Zero for a new session.
    public var proof: MAC
    /// What the server says to each of HELLO's origins, in their order. Empty: it does not know them.
    public var answers: [OriginAnswer] = []
    /// Which server this is, and for how many seconds it keeps a session without a carrier. Nil: it is older than these fields.
    public var server: ServerIdentity?
    public var holdSeconds: UInt32 = 0
    /// How many subflows a carrier may have. Nil: it is older than this field.
    public var subflows: UInt8?

    public enum OriginAnswer: UInt8, Sendable {
        /// Streams may come.
        case served = 0
        /// The server has no listener of this name.
        case unknown = 1
        /// This client may not serve it.
        case forbidden = 2
    }

    public init(
        identity: SessionIdentity, secret: Secret, attempt: UInt64, epoch: UInt32, received: UInt64,
        dataLimit: UInt64, maximumStreams: UInt64, initialCredit: UInt64, proof: MAC = .zero
    ) {
        self.identity = identity
        self.secret = secret
        self.attempt = attempt
        self.epoch = epoch
        self.received = received
        self.dataLimit = dataLimit
        self.maximumStreams = maximumStreams
        self.initialCredit = initialCredit
        self.proof = proof
    }

    static let fixedBodyByteCount = 1 + 16 + 32 + 8 + 4 + 8 + 8 + 8 + 8 + 32
    /// Without answers.
    public static let leastByteCount = 1 + Varint.byteCount(UInt64(fixedBodyByteCount)) + fixedBodyByteCount
    private var bodyByteCount: Int {
        Welcome.fixedBodyByteCount + (answers.isEmpty && server == nil ? 0 : 1 + answers.count)
            + (server == nil ? 0 : ServerIdentity.byteCount + 4 + (subflows == nil ? 0 : 1))
    }
    public var byteCount: Int { 1 + Varint.byteCount(UInt64(bodyByteCount)) + bodyByteCount }
    /// Where the proof starts: the bytes that it covers. The length takes two bytes, with and without answers.
    public static let provenByteCount = 1 + Varint.byteCount(UInt64(fixedBodyByteCount)) + fixedBodyByteCount - 32

    public func encode(into writer: inout ByteWriter) {
        writer.append(FrameType.welcome)
        writer.append(varint: UInt64(bodyByteCount))
        writer.append(version)
        writer.append(identity)
        writer.append(secret)
        writer.append(integer: attempt)
        writer.append(integer: epoch)
        writer.append(integer: received)
        writer.append(integer: dataLimit)
        writer.append(integer: maximumStreams)
        writer.append(integer: initialCredit)
        writer.append(proof)
        guard !answers.isEmpty || server != nil else { return }
        writer.append(UInt8(answers.count))
        for answer in answers { writer.append(answer.rawValue) }
        guard let server else { return }
        writer.append(server)
        writer.append(integer: holdSeconds)
        if let subflows { writer.append(subflows) }
    }

    init(decoding body: RawSpan) throws(ProtocolFault) {
        var offset = 0
        guard let version = body.byte(at: &offset),
            let identity = body.identity(at: &offset),
            let secret = body.secret(at: &offset),
            let attempt = body.integer(UInt64.self, at: &offset),
            let epoch = body.integer(UInt32.self, at: &offset),
            let received = body.integer(UInt64.self, at: &offset),
            let dataLimit = body.integer(UInt64.self, at: &offset),
            let maximumStreams = body.integer(UInt64.self, at: &offset),
            let initialCredit = body.integer(UInt64.self, at: &offset),
            let proof = body.mac(at: &offset)
        else { throw ProtocolFault("WELCOME ends inside a field") }
        guard received <= Specification.offsetMaximum, dataLimit <= Specification.offsetMaximum else {
            throw ProtocolFault("WELCOME names an impossible offset")
        }
        self.init(
            identity: identity, secret: secret, attempt: attempt, epoch: epoch, received: received,
            dataLimit: dataLimit, maximumStreams: maximumStreams, initialCredit: initialCredit, proof: proof)
        self.version = version
        guard let count = body.byte(at: &offset) else { return }
        for _ in 0..<count {
            // A later version may have more to say: what it is, this one does not know.
            guard let answer = body.byte(at: &offset) else { throw ProtocolFault("WELCOME ends inside a field") }
            answers.append(OriginAnswer(rawValue: answer) ?? .unknown)
        }
        guard let server = body.server(at: &offset), let hold = body.integer(UInt32.self, at: &offset) else { return }
        (self.server, holdSeconds) = (server, hold)
        subflows = body.byte(at: &offset)
    }
}

/// Tells servers apart (docs/protocol.md 4.24).
public struct ServerIdentity: Hashable, Sendable {
    /// Random, of one run of a server; an upgrade keeps it.
    public var run: UInt64
    /// Of its host and of where it listens there: the same after a restart. Hosts that were copied from each other may share it.
    public var place: UInt64

    public init(run: UInt64, place: UInt64) { (self.run, self.place) = (run, place) }

    static let byteCount = 8 + 8
}

/// The server's other answer.
public struct Refusal: Equatable, Sendable {
    public var code: CloseCode
    /// The attempt that is answered.
    public var attempt: UInt64
    public var reason: String
    /// Which server says so. Nil: it is older than this field.
    public var server: ServerIdentity?

    public init(code: CloseCode, attempt: UInt64, reason: String, server: ServerIdentity? = nil) {
        self.code = code
        self.attempt = attempt
        self.reason = reason
        self.server = server
    }

    public func encode(into writer: inout ByteWriter) {
        let words = reason.utf8.prefix(Specification.reasonMaximum)
        writer.append(FrameType.refuse)
        let rest = server == nil ? 0 : 1 + ServerIdentity.byteCount
        writer.append(varint: UInt64(Varint.byteCount(code.rawValue) + Varint.byteCount(attempt) + words.count + rest))
        writer.append(varint: code.rawValue)
        writer.append(varint: attempt)
        writer.append(contentsOf: words)
        guard let server else { return }
        // No reason has a zero byte: it ends there.
        writer.append(UInt8(0))
        writer.append(server)
    }

    init(decoding body: RawSpan) throws(ProtocolFault) {
        var offset = 0
        guard let code = body.varint(at: &offset), let attempt = body.varint(at: &offset) else {
            throw ProtocolFault("REFUSE ends inside a field")
        }
        var end = offset
        while end < body.byteCount, body.unsafeLoad(fromByteOffset: end, as: UInt8.self) != 0 { end += 1 }
        var rest = end + 1
        let server = rest < body.byteCount ? body.server(at: &rest) : nil
        self.init(
            code: CloseCode(rawValue: code), attempt: attempt,
            reason: readableReason(body.extracting(offset..<(server == nil ? body.byteCount : end))), server: server)
    }
}

extension ByteWriter {
    mutating func append(_ identity: SessionIdentity) {
        append(integer: identity.high)
        append(integer: identity.low)
    }

    mutating func append(_ server: ServerIdentity) {
        append(integer: server.run)
        append(integer: server.place)
    }

    mutating func append(_ secret: Secret) { append(secret.words) }

    mutating func append(_ code: MAC) { append(code.words) }

    private mutating func append(_ words: (UInt64, UInt64, UInt64, UInt64)) {
        append(integer: words.0)
        append(integer: words.1)
        append(integer: words.2)
        append(integer: words.3)
    }
}

extension RawSpan {
    func identity(at offset: inout Int) -> SessionIdentity? {
        guard let high = integer(UInt64.self, at: &offset), let low = integer(UInt64.self, at: &offset) else { return nil }
        return SessionIdentity(high: high, low: low)
    }

    func server(at offset: inout Int) -> ServerIdentity? {
        guard let run = integer(UInt64.self, at: &offset), let place = integer(UInt64.self, at: &offset) else { return nil }
        return ServerIdentity(run: run, place: place)
    }

    func secret(at offset: inout Int) -> Secret? { words(at: &offset).map { Secret($0.0, $0.1, $0.2, $0.3) } }

    func mac(at offset: inout Int) -> MAC? { words(at: &offset).map { MAC($0.0, $0.1, $0.2, $0.3) } }

    private func words(at offset: inout Int) -> (UInt64, UInt64, UInt64, UInt64)? {
        guard let a = integer(UInt64.self, at: &offset), let b = integer(UInt64.self, at: &offset),
            let c = integer(UInt64.self, at: &offset), let d = integer(UInt64.self, at: &offset)
        else { return nil }
        return (a, b, c, d)
    }
}
