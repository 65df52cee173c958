/// Every constant that two tele processes must agree on, in one place (docs/protocol.md §3 and §9).
public enum Specification {
    /// The first bytes of every carrier, in every version.
    public static let magic: [UInt8] = [0x54, 0x45, 0x4c, 0x45]
    public static let version: UInt8 = 1

    /// Longest body of a DATA frame. Its payload is passed on as it arrives, so no memory depends on it.
    public static let dataBodyMaximum = 1 << 20
    /// Longest body of any other frame; such a frame is held until it is whole.
    public static let controlBodyMaximum = 1024
    /// Longest header of a DATA frame: type, length, stream.
    public static let dataHeaderMaximum = 1 + 4 + 8
    /// Longest frame that is not DATA.
    public static let controlFrameMaximum = 1 + 4 + controlBodyMaximum
    /// Magic, version range, body length.
    public static let prefaceByteCount = 4 + 1 + 1 + 2
    /// Longest HELLO body, with parameters of later versions.
    public static let helloBodyMaximum = 1024
    /// Longest reason in CLOSE and REFUSE, UTF-8.
    public static let reasonMaximum = 256

    /// Initial stream credit never exceeds this, whatever a peer declares.
    public static let initialCreditMaximum: UInt64 = 256 << 10
    /// Early bytes that may follow a resuming HELLO before the WELCOME.
    public static let earlyMaximum = 64 << 10
    /// Subflows that a carrier has at a time, and the highest number of one (docs/protocol.md 4.28).
    public static let subflowsMaximum = 8
    public static let subflowNumberMaximum: UInt64 = 63
    /// Longest chunk, without its header.
    public static let chunkMaximum = 64 << 10

    /// No offset reaches this; a peer that names a larger one lies.
    public static let offsetMaximum = Varint.maximum

    /// The number by which OPEN names an origin: 0 for the one without a name, else FNV-1a of the name's bytes, the lower 62
    /// bits (docs/protocol.md 6.2). Two names of one server must differ in it.
    public static func target(of name: String) -> UInt64 {
        guard !name.isEmpty else { return 0 }
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in name.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        return max(1, hash & Varint.maximum)
    }

    /// Origins that one client can have, so that HELLO and WELCOME name them all (docs/protocol.md 4.23).
    public static let clientOriginsMaximum = 100

    /// The target of streams that begin with their destination (docs/protocol.md 6.16): the number of a name that no mapping has.
    public static let destinationTarget = target(of: "destination:")
}

/// The first byte of a frame. Two bits speak for frames that a reader does not know: `sequenced` says whether the
/// frame counts in the session's byte sequence, `optional` whether it may be skipped.
public enum FrameType {
    public static let sequenced: UInt8 = 0x40
    public static let optional: UInt8 = 0x80

    public static let acknowledgment: UInt8 = 0x01
    public static let ping: UInt8 = 0x02
    public static let pong: UInt8 = 0x03
    public static let close: UInt8 = 0x04
    public static let subflows: UInt8 = 0x05
    public static let welcome: UInt8 = 0x11
    public static let refuse: UInt8 = 0x12

    public static let open: UInt8 = 0x41
    public static let data: UInt8 = 0x42
    public static let fin: UInt8 = 0x43
    public static let reset: UInt8 = 0x44
    public static let streamCredit: UInt8 = 0x45
}
