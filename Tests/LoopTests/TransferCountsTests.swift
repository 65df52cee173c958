import Glibc
import Loop
import Testing

/// What the kernel counts is what was read and written, whichever ends of the connection have been sent.
struct TransferCountsTests {
    private struct Pair {
        let dialled: Int32
        let accepted: Int32

        init() throws {
            let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            defer { close(listener) }
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
            var length = socklen_t(MemoryLayout<sockaddr_in>.size)
            let made = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            let failed = withUnsafeMutablePointer(to: &address) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    bind(listener, $0, length) | listen(listener, 1) | getsockname(listener, $0, &length) | connect(made, $0, length)
                }
            }
            try #require(failed == 0)
            (dialled, accepted) = (made, accept(listener, nil, nil))
            try #require(accepted >= 0)
        }

        func end() {
            close(dialled)
            close(accepted)
        }
    }

    private func counts(_ fd: Int32, isDialled: Bool, until expected: (UInt64, UInt64)) throws -> TransferCounts {
        var found = TransferCounts(fd, isDialled: isDialled)
        // Acknowledgments and FINs take a moment.
        for _ in 0..<200 where found.map({ ($0.read, $0.written) == expected }) != true {
            usleep(5000)
            found = TransferCounts(fd, isDialled: isDialled)
        }
        return try #require(found)
    }

    private func move(_ from: Int32, _ to: Int32, sent: Int, taken: Int) {
        var bytes = [UInt8](repeating: 7, count: max(sent, taken))
        #expect(send(from, bytes, sent, 0) == sent)
        if taken > 0 { #expect(recv(to, &bytes, taken, Int32(MSG_WAITALL)) == taken) }
    }

    @Test(arguments: [[], ["dialled"], ["accepted"], ["dialled", "accepted"], ["accepted", "dialled"]])
    func endsAreNoBytes(ends: [String]) throws {
        let pair = try Pair()
        defer { pair.end() }
        move(pair.dialled, pair.accepted, sent: 1000, taken: 300)
        move(pair.accepted, pair.dialled, sent: 500, taken: 200)
        for end in ends { shutdown(end == "dialled" ? pair.dialled : pair.accepted, Int32(SHUT_WR)) }
        // Time for FINs to arrive, which would be counted.
        usleep(50_000)
        let dialled = try counts(pair.dialled, isDialled: true, until: (200, 1000))
        let accepted = try counts(pair.accepted, isDialled: false, until: (300, 500))
        #expect(dialled.read == 200 && dialled.written == 1000)
        #expect(accepted.read == 300 && accepted.written == 500)
    }

    @Test func aConnectionThatWasResetCountsNothing() throws {
        let pair = try Pair()
        defer { close(pair.dialled) }
        move(pair.accepted, pair.dialled, sent: 10, taken: 10)
        var linger = linger(l_onoff: 1, l_linger: 0)
        setsockopt(pair.accepted, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout.size(ofValue: linger)))
        close(pair.accepted)
        usleep(50_000)
        #expect(TransferCounts(pair.dialled, isDialled: true) == nil)
    }

    @Test func whatIsNoConnectionCountsNothing() {
        #expect(TransferCounts(0x7fff, isDialled: false) == nil)
        var ends: [Int32] = [0, 0]
        #expect(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0)
        #expect(TransferCounts(ends[0], isDialled: false) == nil)
        for end in ends { close(end) }
    }
}
