import Control
import Loop

/// Local sockets in raw memory that never moves, found by index, and what they moved. Free entries keep their generation, so that a late
/// completion finds nothing.
final class LocalTable {
    /// Bytes read from local sockets, and bytes that they took.
    var traffic = Traffic()
    private static let chunkBits = 9
    private static let chunkCount = 1 << chunkBits
    private var chunks: [UnsafeMutablePointer<LocalSocket>] = []
    private var free: [UInt32] = []
    private(set) var count = 0

    deinit { for chunk in chunks { chunk.deallocate() } }

    /// Changes are noted: who was reached since the last commit, and the records of those that are gone.
    private var notesChanges = false
    private var touched: [UInt32] = []
    private var removed: [UInt32] = []

    /// Whoever may change one comes by here: so every change is in the next commit.
    @inline(__always)
    subscript(index: UInt32) -> UnsafeMutablePointer<LocalSocket> {
        let user = unnoted(index)
        if notesChanges { touch(index, user) }
        return user
    }

    /// For those who only read.
    @inline(__always)
    func unnoted(_ index: UInt32) -> UnsafeMutablePointer<LocalSocket> {
        chunks[Int(index) >> LocalTable.chunkBits] + (Int(index) & (LocalTable.chunkCount - 1))
    }

    /// From now on, for the ledger.
    func noteChanges() { notesChanges = true }

    @inline(never)
    private func touch(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>) {
        guard !user.pointee.isTouched else { return }
        user.pointee.isTouched = true
        touched.append(index)
    }

    /// A socket that was changed, each once. Nil: no more.
    func takeTouched() -> UInt32? {
        guard let index = touched.popLast() else { return nil }
        unnoted(index).pointee.isTouched = false
        return index
    }

    /// The record of a socket that was removed. Nil: no more.
    func takeRemoved() -> UInt32? { removed.popLast() }

    @inline(__always)
    func token(_ index: UInt32, _ operation: Operation) -> Token { operation.token(index, unnoted(index).pointee.generation) }

    /// The socket that a token means, unless it has gone.
    @inline(__always)
    func find(_ index: UInt32, _ generation: UInt32) -> UnsafeMutablePointer<LocalSocket>? {
        guard Int(index) < chunks.count * LocalTable.chunkCount else { return nil }
        let user = self[index]
        return user.pointee.isThere && user.pointee.generation == generation ? user : nil
    }

    /// A new socket's place.
    func insert(fd: Int32, isConnecting: Bool) -> UInt32 {
        if free.isEmpty { grow() }
        let index = free.removeLast()
        let generation = unnoted(index).pointee.generation
        let user = unnoted(index)
        user.initialize(to: LocalSocket(fd: fd, isConnecting: isConnecting, generation: generation))
        user.pointee.isThere = true
        if notesChanges { touch(index, user) }
        count += 1
        return index
    }

    func remove(_ index: UInt32) {
        let user = self[index]
        precondition(user.pointee.isThere, "removed a socket twice")
        if notesChanges, user.pointee.record != 0 { removed.append(user.pointee.record) }
        user.pointee.isThere = false
        user.pointee.fd = -1
        user.pointee.generation = (user.pointee.generation + 1) & 0xff_ffff
        free.append(index)
        count -= 1
    }

    /// Linear.
    func forEach(_ body: (UInt32, UnsafeMutablePointer<LocalSocket>) -> Void) {
        for index in 0..<UInt32(chunks.count * LocalTable.chunkCount) where unnoted(index).pointee.isThere { body(index, self[index]) }
    }

    /// Linear at worst.
    func contains(_ isMeant: (UnsafeMutablePointer<LocalSocket>) -> Bool) -> Bool {
        (0..<UInt32(chunks.count * LocalTable.chunkCount)).contains { unnoted($0).pointee.isThere && isMeant(unnoted($0)) }
    }

    private func grow() {
        let chunk = UnsafeMutablePointer<LocalSocket>.allocate(capacity: LocalTable.chunkCount)
        chunk.initialize(repeating: LocalSocket(fd: -1, isConnecting: false, generation: 0), count: LocalTable.chunkCount)
        let base = UInt32(chunks.count * LocalTable.chunkCount)
        chunks.append(chunk)
        for index in (0..<UInt32(LocalTable.chunkCount)).reversed() { free.append(base + index) }
    }
}
