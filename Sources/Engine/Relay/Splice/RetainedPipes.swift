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
        for frame in frames { pipes.give(frame.pipe, left: 0) }
        self = RetainedPipes()
        return true
    }

    /// Reads frame after frame.
    private struct Reader {
        var frames: ArraySlice<(pipe: Pipe, byteCount: Int)>
        let pipes: Pipes
        /// Of the first.
        var acknowledged: Int

        mutating func read(_ memory: UnsafeMutableRawPointer, _ count: Int) {
            if acknowledged > 0, let first = frames.first {
                precondition(pipes.discard(first.pipe, acknowledged), "a kept frame is not whole")
                frames[frames.startIndex].byteCount -= acknowledged
                acknowledged = 0
            }
            var filled = 0
            while filled < count {
                guard let first = frames.first,
                    case .success(let moved) = first.pipe.read(memory + filled, min(count - filled, first.byteCount)),
                    moved > 0
                else { preconditionFailure("a kept frame is not whole") }
                filled += moved
                frames[frames.startIndex].byteCount -= moved
                if frames[frames.startIndex].byteCount == 0 { frames.removeFirst() }
            }
        }
    }
}
