/// User sockets in raw memory that never moves, found by index. Free entries keep their generation, so that a late
/// completion finds nobody.
struct UserTable: ~Copyable {
    private static let chunkBits = 9
    private static let chunkCount = 1 << chunkBits
    private var chunks: [UnsafeMutablePointer<UserSocket>] = []
    private var free: [UInt32] = []
    private(set) var count = 0

    deinit { for chunk in chunks { chunk.deallocate() } }

    @inline(__always)
    subscript(index: UInt32) -> UnsafeMutablePointer<UserSocket> {
        chunks[Int(index) >> UserTable.chunkBits] + (Int(index) & (UserTable.chunkCount - 1))
    }

    /// The socket that a token means, unless it has gone.
    @inline(__always)
    func find(_ index: UInt32, _ generation: UInt32) -> UnsafeMutablePointer<UserSocket>? {
        let user = self[index]
        return user.pointee.fd >= 0 && user.pointee.generation == generation ? user : nil
    }

    mutating func insert(fd: Int32, flags: UserSocket.Flags) -> UInt32 {
        if free.isEmpty { grow() }
        let index = free.removeLast()
        let generation = self[index].pointee.generation
        self[index].initialize(to: UserSocket(fd: fd, flags: flags, generation: generation))
        count += 1
        return index
    }

    mutating func remove(_ index: UInt32) {
        let user = self[index]
        user.pointee.fd = -1
        user.pointee.flags = []
        user.pointee.generation = (user.pointee.generation + 1) & 0xff_ffff
        free.append(index)
        count -= 1
    }

    /// Linear in the table's size: for sweeps.
    func forEach(_ body: (UInt32) -> Void) {
        for index in 0..<UInt32(chunks.count * UserTable.chunkCount) where self[index].pointee.fd >= 0 { body(index) }
    }

    private mutating func grow() {
        let chunk = UnsafeMutablePointer<UserSocket>.allocate(capacity: UserTable.chunkCount)
        chunk.initialize(repeating: UserSocket(fd: -1, flags: [], generation: 0), count: UserTable.chunkCount)
        let base = UInt32(chunks.count * UserTable.chunkCount)
        chunks.append(chunk)
        for index in (0..<UInt32(UserTable.chunkCount)).reversed() { free.append(base + index) }
    }
}
