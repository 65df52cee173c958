import CSlab
import Glibc
import Testing

/// What the system may refuse. Limits hold for a whole process, so each test is one.
struct ScarcityTests {
    @Test func withoutAMemfdTheArenaWorksTheSame() async {
        await #expect(processExitsWith: .success) {
            // No descriptor to be had; and a limit on file sizes, past which ftruncate(2) would kill us.
            var signals = sigset_t()  // The test runner blocks them.
            sigfillset(&signals)
            pthread_sigmask(SIG_UNBLOCK, &signals, nil)
            for (resource, limit) in [(RLIMIT_NOFILE, 0), (RLIMIT_FSIZE, 4_096)] {
                let arena = try withLimit(resource, UInt(limit)) { try Arena() }
                #expect(arena_descriptor(arena.pointer) == -1)
                do {
                    let queue = Queue(arena), bytes = pattern(300_000, from: 1)
                    #expect(queue.copy(bytes) && queue.contents == bytes)
                    #expect(queue.gather().allSatisfy { $0[0] != 0 })
                }
                #expect(arena.used == 0 && arena.committed == 2 * slabBytes)
                arena_trim(arena.pointer, 0)
                #expect(arena.committed == 0)
                let slab = try #require(arena.slab())
                #expect(slab.load(as: UInt8.self) == 0)  // The hole was punched.
                arena.release(slab)
                #expect(arena.fault == nil)
            }
        }
    }

    @Test func tooLittleAddressSpaceIsAnErrorCode() async {
        await #expect(processExitsWith: .success) {
            try withLimit(RLIMIT_AS, 1 << 30) {
                var created: OpaquePointer?
                let descriptor = dup(0)
                close(descriptor)
                #expect(arena_create(&created, 64 << 30) == -ENOMEM)
                #expect(created == nil)
                #expect(dup(0) == descriptor)  // The memfd was closed again.
            }
        }
    }

    /// AddressSanitizer's allocator ends the process instead of returning NULL.
    @Test(.enabled(if: dlsym(nil, "__asan_init") == nil))
    func aRingThatCannotGrowRefusesAndChangesNothing() async {
        await #expect(processExitsWith: .success) {
            let arena = try Arena(), queue = Queue(arena), from = Queue(arena)
            let slab = try arena.filledSlab(), full = 1 << 22
            for index in 0..<full { _ = queue.refer(slab + index % 2 * 2, 1) }
            #expect(queue.pieces.count == full && queue.queue.capacity == UInt32(full))
            #expect(from.refer(slab + 100, 50_000) && from.copy(pattern(10)))
            let references = arena.references(slab), used = arena.used
            try withLimit(RLIMIT_AS, 1 << 20) {
                #expect(!queue.refer(slab + 50, 1))
                #expect(!queue.copy([1]))
                #expect(!from.move(50_010, to: queue, copyBelow: 512))
            }
            #expect(arena.references(slab) == references && arena.used == used)
            #expect(queue.count == full && from.count == 50_010 && queue.fault == nil && from.fault == nil)
            #expect(from.move(50_010, to: queue, copyBelow: 512) && queue.count == full + 50_010)
            arena.release(slab)
        }
    }
}

/// Lowers a limit of this process for the time of `body`.
private func withLimit<Result>(
    _ resource: __rlimit_resource, _ limit: UInt,
    _ body: () throws -> Result
) throws -> Result {
    var before = rlimit()
    try #require(getrlimit(__rlimit_resource_t(resource.rawValue), &before) == 0)
    var lowered = rlimit(rlim_cur: min(rlim_t(limit), before.rlim_max), rlim_max: before.rlim_max)
    try #require(setrlimit(__rlimit_resource_t(resource.rawValue), &lowered) == 0)
    defer { setrlimit(__rlimit_resource_t(resource.rawValue), &before) }
    return try body()
}
