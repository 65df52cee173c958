import Testing
import Wire

@testable import Relay

@Suite struct LoopGroupTests {
    @Test(arguments: [2, 3, 7, 8, 64]) func aSessionNamesItsLoop(count: Int) {
        let group = LoopGroup(count: count, identity: nil)
        for number in [0, 1, 12345, .max / 2, .max - 70, .max - 1, .max] as [UInt64] {
            for loop in 0..<count {
                let marked = group.mark(number, for: loop)
                #expect(group.owner(of: SessionIdentity(high: 7, low: marked)) == loop)
                // The other bits are as random as they were.
                #expect(marked >= number ? marked - number < UInt64(count) : number - marked < 2 * UInt64(count))
            }
        }
    }

    @Test func theLoopsShareWhatTheProcessHas() {
        var whole = Configuration(role: .server, input: .init(host: "localhost", port: 1), output: .init(host: "", port: 2))
        whole.metrics = .init(host: "localhost", port: 3)
        whole.control = "/run/tele/a.sock"
        whole.maximumSessions = 1000
        whole.idleExitSeconds = 5
        #expect(whole.part(0) == whole)
        whole.threads = 3
        let parts = (0..<3).map { whole.part($0) }
        #expect(parts.map(\.memoryByteCount) == [whole.memoryByteCount / 3, whole.memoryByteCount / 3, whole.memoryByteCount / 3])
        #expect(parts.map(\.maximumSessions) == [334, 334, 334])
        #expect(parts.map { $0.control != nil && $0.metrics != nil && $0.idleExitSeconds != nil } == [true, false, false])
        #expect(parts.allSatisfy { $0.mappings == whole.mappings && $0.bufferByteCount <= $0.memoryByteCount })
    }
}
