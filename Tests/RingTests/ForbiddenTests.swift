import CRing
import CSeccomp
import Glibc
import Testing

/// Machines that forbid io_uring, or allow it and break it. Each test refuses the call on its own thread.
@Suite struct ForbiddenTests {
    struct Opened {
        var result: Int32
        var driver: ring_driver?
        var why: String
        var works = false
    }

    /// Opens a ring on a thread that gets `error` from the call, and moves a byte through it.
    private func open(_ driver: ring_driver, refusing call: Int, with error: Int32) throws -> Opened {
        try OtherThread.run {
            try #require(seccomp_refuse(call, error) == 0, "no seccomp here")
            var options = ring_options(driver: driver, entries: 64, pool_count: 16, pool_bytes: 512)
            var ring: OpaquePointer?
            var why = [CChar](repeating: 0x7f, count: 200)
            var opened = Opened(result: ring_open(&ring, &options, &why, why.count), why: "")
            opened.why = String(decoding: why.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            guard let ring else { return opened }
            defer { ring_close(ring) }
            opened.driver = ring_driver_in_use(ring)
            let (one, other) = try Socket.pair()
            other.plainSend([42])
            #expect(ring_receive_pooled(ring, one.fd, 1) == 0)
            var completion = ring_completion()
            if ring_wait(ring, 2_000_000_000, &completion, 1) == 1, completion.result == 1 {
                opened.works = ring_pool_bytes(ring, completion.buffer).load(as: UInt8.self) == 42
            }
            return opened
        }
    }

    @Test(arguments: [EPERM, ENOSYS]) func autoTakesEpollAndSaysWhy(error: Int32) throws {
        let opened = try open(RING_DRIVER_AUTO, refusing: seccomp_io_uring_setup(), with: error)
        #expect(opened.result == 0)
        #expect(opened.driver == RING_DRIVER_EPOLL)
        #expect(opened.works)
        #expect(
            opened.why
                == (error == EPERM
                    ? "io_uring is forbidden here (EPERM)"
                    : "the kernel has no io_uring, or a seccomp filter forbids it (ENOSYS)"))
    }

    @Test(arguments: [EPERM, ENOSYS, ENOMEM]) func uringByNameFailsWithTheError(error: Int32) throws {
        let opened = try open(RING_DRIVER_URING, refusing: seccomp_io_uring_setup(), with: error)
        #expect(opened.result == -error)
        #expect(opened.driver == nil)
        #expect(!opened.why.isEmpty)
    }

    @Test(arguments: [EPERM, ENOSYS]) func epollByNameDoesNotCare(error: Int32) throws {
        let opened = try open(RING_DRIVER_EPOLL, refusing: seccomp_io_uring_setup(), with: error)
        #expect(opened.result == 0)
        #expect(opened.driver == RING_DRIVER_EPOLL)
        #expect(opened.works)
        #expect(opened.why.isEmpty)
    }

    @Test(.enabled(if: Driver.uringIsAllowed)) func ringWithoutRegistrationsIsTooOld() throws {
        let opened = try open(RING_DRIVER_AUTO, refusing: seccomp_io_uring_register(), with: EINVAL)
        #expect(opened.driver == RING_DRIVER_EPOLL)
        #expect(opened.works)
        #expect(opened.why == "io_uring of this kernel is too old, it takes Linux 6.1")
    }

    /// What gVisor does: the ring can be had, and nothing ever completes.
    @Test(.enabled(if: Driver.uringIsAllowed)) func completionsThatNeverComeFailTheSelfTest() throws {
        let start = Clock.now
        let opened = try open(RING_DRIVER_AUTO, refusing: seccomp_io_uring_enter(), with: 0)
        #expect(opened.driver == RING_DRIVER_EPOLL)
        #expect(opened.works)
        #expect(opened.why == "io_uring failed its self-test (accept and connect)")
        #expect(Clock.now - start < 1_500_000_000, "it may not hold up the start")
        let byName = try open(RING_DRIVER_URING, refusing: seccomp_io_uring_enter(), with: 0)
        #expect(byName.result == -EIO)
    }

    @Test(.enabled(if: Driver.uringIsAllowed)) func autoTakesUringWhereItWorks() throws {
        let opened = try open(RING_DRIVER_AUTO, refusing: 1 << 20, with: EPERM)
        #expect(opened.driver == RING_DRIVER_URING)
        #expect(opened.works)
        #expect(opened.why.isEmpty)
    }

    @Test(arguments: [ENOSYS, EPERM]) func epollWaitsInMillisecondsOnOldKernels(error: Int32) throws {
        try OtherThread.run {
            try #require(seccomp_refuse(seccomp_epoll_pwait2(), error) == 0)
            let ring = try TestRing(.epoll)
            let start = Clock.now
            #expect(ring.wait(nanoseconds: 20_500_000).isEmpty)
            #expect(Clock.now - start >= 20_500_000)
            #expect(Clock.now - start < 1_000_000_000)
            let waker = OtherThread(after: 20) { ring_wake(ring.ring) }
            #expect(ring.wait(nanoseconds: -1).isEmpty)
            waker.join()
        }
    }
}
