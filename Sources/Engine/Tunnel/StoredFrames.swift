import State
import Wire

/// The frame borders of a session's stored bytes, found again in the bytes themselves: behind one border every frame says where the next is.
public struct StoredFrames {
    private var borders: [(offset: UInt64, data: UInt64)] = []
    private var resets: [UInt64] = []
    private let removed: UInt64

    /// `bytes`: all that is stored, from the offset `head` on. `border`: where some frame begins, or the end. `sent`: what `Endpoint.saveSent`
    /// saved. `parity`: the lowest bit of the identifiers of the endpoint's own streams.
    public init(_ bytes: [UInt8], head: UInt64, border: UInt64, sent: UnsafeRawBufferPointer, parity: UInt64) throws(StateFault) {
        var (acknowledged, dataFramed): (UInt64, UInt64) = (0, 0)
        try Endpoint.facts(of: sent, &acknowledged, &dataFramed)
        let end = head + UInt64(bytes.count)
        guard border >= head, border <= end else { throw StateFault("a border that is not among the bytes") }
        var found: [(offset: UInt64, data: UInt64)] = []
        var (offset, last, data): (Int, UInt64, UInt64) = (Int(border - head), border, 0)
        while offset < bytes.count {
            let frame: (frame: Frame, byteCount: Int)?
            do throws(ProtocolFault) { frame = try decodeFrame(bytes.span.bytes.extracting(offset..<bytes.count)) } catch { frame = nil }
            guard let (frame, count) = frame else { throw StateFault("stored bytes that are no frames") }
            offset += count
            switch frame {
            case .data(_, let payload):
                guard payload <= bytes.count - offset else { throw StateFault("a stored frame that is not whole") }
                offset += payload
                data += UInt64(count + payload)
            case .reset(let stream, _) where stream & 1 == parity && head + UInt64(offset) > acknowledged:
                resets.append(head + UInt64(offset))
            default: break
            }
            let place = head + UInt64(offset)
            if place - last >= Endpoint.borderDistance {
                found.append((place, data))
                last = place
            }
        }
        guard data <= dataFramed else { throw StateFault("more is stored than was sent") }
        removed = dataFramed - data
        if border > acknowledged, border < end { borders.append((border, removed)) }
        borders += found.map { ($0.offset, removed + $0.data) }
    }

    /// As `Endpoint.archive` saves them.
    public func save(_ archive: inout StateArchive) throws(StateFault) {
        var removed = removed
        try archive.number(&removed)
        _ = try archive.count(borders.count, most: .max)
        for var border in borders {
            try archive.number(&border.offset)
            try archive.number(&border.data)
        }
        var none: UInt64 = 0
        try archive.number(&none)
        _ = try archive.count(resets.count, most: .max)
        for var reset in resets {
            try archive.number(&reset)
            try archive.number(&none)
        }
    }
}

extension Endpoint {
    /// Reads what `saveSent` saved.
    static func facts(of saved: UnsafeRawBufferPointer, _ acknowledged: inout UInt64, _ dataFramed: inout UInt64) throws(StateFault) {
        var archive = StateArchive(restoring: saved)
        var word: UInt64 = 0
        try archive.mark(0x656e_6470_6f69_6e74)
        for _ in 0..<4 { try archive.number(&word) }  // Whether it is established, epoch, sent, handed.
        try archive.number(&acknowledged)
        for _ in 0..<2 { try archive.number(&word) }  // Cursor, payload sent.
        try archive.number(&dataFramed)
    }
}
