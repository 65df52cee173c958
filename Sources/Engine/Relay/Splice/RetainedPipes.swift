import CSlab
import Loop

/// The payload of spliced frames, from the oldest that is not acknowledged on: each in a pipe of its own, by reference. The
/// store knows their places (`queue_append_outside`); here their bytes are.
struct RetainedPipes {
    private var frames: [(pipe: Pipe, byteCount: Int)] = []
    private(set) var byteCount = 0

    mutating func append(_ pipe: Pipe, _ count: Int) {
        frames.append((pipe, count))
        byteCount += count
    }

    /// Gives back what the store knows no more.
    mutating func release(_ store: byte_queue, to pipes: Pipes) {
        while let oldest = frames.first, byteCount - oldest.byteCount >= store.outside {
            frames.removeFirst()
            byteCount -= oldest.byteCount
            pipes.give(oldest.pipe, left: oldest.byteCount)
        }
    }

    /// Everything is read into the store's memory. False: there is none, and nothing happened.
    mutating func copyIntoMemory(_ store: inout byte_queue, _ arena: OpaquePointer, _ pipes: Pipes) -> Bool {
        guard byteCount > 0 else { return true }
        release(store, to: pipes)
        // Of the oldest some bytes may be acknowledged.
        var reader = Reader(frames: frames[...], pipes: pipes, acknowledged: byteCount - store.outside)
        let failed = withUnsafeMutablePointer(to: &reader) { reader in
            queue_bring_in(&store, arena, { $0!.assumingMemoryBound(to: Reader.self).pointee.read($1!, $2) }, reader)
        }
        guard failed == 0 else { return false }
        for frame in frames { pipes.giveRead(frame.pipe, frame.byteCount) }
        self = RetainedPipes()
        return true
    }

    /// For the ledger.
    func forEach<Failure>(_ body: (Pipe, Int) throws(Failure) -> Void) throws(Failure) {
        for frame in frames { try body(frame.pipe, frame.byteCount) }
    }

    var count: Int { frames.count }

    /// Reads frame after frame.
    private struct Reader {
        var frames: ArraySlice<(pipe: Pipe, byteCount: Int)>
        let pipes: Pipes
        /// Of the first.
        var acknowledged: Int
        /// Of the first: where it is read, and how much is left there.
        var source: (pipe: Pipe, left: Int)?

        mutating func read(_ memory: UnsafeMutableRawPointer, _ count: Int) {
            var filled = 0
            while filled < count {
                let (pipe, left) = source ?? open()
                guard case .success(let moved) = pipe.read(memory + filled, min(count - filled, left)), moved > 0
                else { preconditionFailure("a kept frame is not whole") }
                filled += moved
                source = left == moved ? nil : (pipe, left - moved)
                if left == moved { frames.removeFirst() }
            }
        }

        private mutating func open() -> (Pipe, Int) {
            guard let first = frames.first, let pipe = pipes.source(of: first.pipe, first.byteCount), pipes.discard(pipe, acknowledged) else {
                preconditionFailure("a kept frame is not whole")
            }
            defer { acknowledged = 0 }
            return (pipe, first.byteCount - acknowledged)
        }
    }
}
