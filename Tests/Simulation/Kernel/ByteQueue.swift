/// Bytes in order. Pieces are shared, not copied, when they move from queue to queue.
struct ByteQueue {
    private var pieces: [ArraySlice<UInt8>] = []
    private var head = 0
    private(set) var count = 0

    var isEmpty: Bool { count == 0 }
    var pieceCount: Int { pieces.count - head }

    mutating func append(_ piece: ArraySlice<UInt8>) {
        guard !piece.isEmpty else { return }
        pieces.append(piece)
        count += piece.count
    }

    mutating func append(_ bytes: UnsafeRawBufferPointer) { append(ArraySlice(bytes)) }

    /// The first bytes, at most `maximum`, which leave the queue.
    mutating func take(_ maximum: Int) -> [ArraySlice<UInt8>] {
        var taken: [ArraySlice<UInt8>] = []
        var left = min(maximum, count)
        count -= left
        while left > 0 {
            let piece = pieces[head]
            if piece.count <= left {
                taken.append(piece)
                left -= piece.count
                pieces[head] = []
                head += 1
            } else {
                taken.append(piece.prefix(left))
                pieces[head] = piece.dropFirst(left)
                left = 0
            }
        }
        if head > 64, head * 2 > pieces.count {
            pieces.removeFirst(head)
            head = 0
        }
        return taken
    }

    /// The first bytes, at most `maximum`, which stay.
    func first(_ maximum: Int) -> [ArraySlice<UInt8>] {
        var found: [ArraySlice<UInt8>] = []
        var left = min(maximum, count)
        var index = head
        while left > 0 {
            let part = pieces[index].prefix(left)
            found.append(part)
            left -= part.count
            index += 1
        }
        return found
    }

    /// Copies the first bytes out; how many.
    mutating func read(into memory: UnsafeMutableRawPointer, _ maximum: Int) -> Int {
        var done = 0
        for piece in take(maximum) {
            piece.withUnsafeBytes { memory.advanced(by: done).copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
            done += piece.count
        }
        return done
    }

    mutating func removeAll() {
        pieces = []
        (head, count) = (0, 0)
    }
}
