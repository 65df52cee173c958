import CRing

/// An operation of a process that died, which had ended, and of which the process had committed nothing.
public struct Ended {
    public enum Kind { case other, accept, receive, send }
    public let kind: Kind
    public let token: Token
    public let descriptor: Int32
    /// As in a completion. Nil: it was begun, and perhaps done.
    public let result: Int32?
    /// Where a receive's bytes lie: an address in the process that died.
    public let address: UInt64

    /// All of them, oldest first. `trace` and `mark` are the dead process's (`Loop.trace`, `Loop.mark`), and its descriptors are this one's.
    /// `find` gives bytes at an address of it.
    public static func all(
        trace: UInt64, mark: UInt32, _ find: @escaping (_ address: UInt64, _ count: Int) -> UnsafeRawPointer?
    ) throws(SystemError) -> [Ended] {
        let reader = Reader(find)
        let failed = ring_ended_since(
            trace, mark, { Unmanaged<Reader>.fromOpaque($0!).takeUnretainedValue().find($1, $2) }, Unmanaged.passUnretained(reader).toOpaque(),
            { Unmanaged<Reader>.fromOpaque($0!).takeUnretainedValue().ended.append(Ended($1!.pointee)) })
        guard failed == 0 else { throw SystemError(-failed) }
        return reader.ended
    }

    private init(_ raw: ring_ended) {
        kind =
            switch ring_ended_kind(raw.kind) {
            case RING_ENDED_ACCEPT: .accept
            case RING_ENDED_RECEIVE: .receive
            case RING_ENDED_SEND: .send
            default: .other
            }
        (token, descriptor, address) = (Token(rawValue: raw.token), raw.fd, raw.memory)
        result = raw.result == Int32.min ? nil : raw.result
    }

    private final class Reader {
        let find: (UInt64, Int) -> UnsafeRawPointer?
        var ended: [Ended] = []

        init(_ find: @escaping (UInt64, Int) -> UnsafeRawPointer?) { self.find = find }
    }
}
