import Testing
import Time
import Tunnel
@testable import Control

@Suite struct SocketLifeTests {
    /// protocol 6.6
    @Test func bothHalvesEndInOrder() {
        var life = SocketLife(isConnecting: false)
        life.receivedFin()
        #expect(!life.mayReceive)
        life.receivedPeerFin()
        #expect(life.tookAll() == .finish)
        #expect(life.outward == .ended)
        #expect(life.tookAll() == .none)
        #expect(life.close(.orderly) == true)
        #expect(life.mayRelease)
    }

    @Test func aDescriptorOutlivesItsOperations() {
        var life = SocketLife(isConnecting: false)
        life.submitted(.receive)
        #expect(life.close(.reset) == true)
        #expect(life.close(.reset) == false)
        #expect(!life.mayRelease)
        life.completed(.receive)
        #expect(life.mayRelease)
    }

    /// protocol 6.7
    @Test func whatWasWrittenBeforeAResetGoesFirstWhenCreditCoversIt() {
        var life = SocketLife(isConnecting: false)
        #expect(life.receivedReset(coversRest: true) == .resetLater)
        #expect(life.receivedReset(coversRest: false) == .none)
        var other = SocketLife(isConnecting: false)
        #expect(other.receivedReset(coversRest: false) == .resetNow)
        var ended = SocketLife(isConnecting: false)
        ended.receivedFin()
        #expect(ended.receivedReset(coversRest: true) == .resetNow)
    }

    /// A session that ends is no clean end, unless nothing was missing.
    /// protocol 6.14, 11.6
    @Test func aLostStreamIsNeverACleanEnd() {
        for hasBytes in [false, true] {
            for isComplete in [false, true] {
                for finEnds in [false, true] {
                    for peerEnds in [false, true] {
                        var life = SocketLife(isConnecting: false)
                        if finEnds { life.receivedFin() }
                        if peerEnds { life.receivedPeerFin() }
                        let isOrderly = isComplete && finEnds && peerEnds
                        let end = life.streamEnded(hasBytes: hasBytes, isComplete: isComplete)
                        #expect(end == (hasBytes || isOrderly ? .flush : .closeNow(.reset)))
                        #expect(life.farewell == (isOrderly ? .orderly : .reset))
                        if end == .flush { #expect(life.tookAll() == .close(isOrderly ? .orderly : .reset)) }
                    }
                }
            }
        }
    }

    @Test func aConnectingSocketHasNothingToFlush() {
        var life = SocketLife(isConnecting: true)
        #expect(life.streamEnded(hasBytes: true, isComplete: false) == .closeNow(.reset))
    }
}

@Suite struct StoppingTests {
    private func at(_ milliseconds: UInt64) -> Instant { Instant(nanoseconds: milliseconds * 1_000_000) }

    /// protocol 11.3
    @Test func aDrainEndsWhenAllIsDelivered() {
        var stopping = Stopping(drainFor: .seconds(10))
        #expect(stopping.handleRequest(gently: true, now: at(0)) == .drain)
        #expect(stopping.advance(isIdle: false, closeSent: true, now: at(9_999)) == .none)
        #expect(stopping.advance(isIdle: true, closeSent: false, now: at(9_999)) == .close)
        #expect(stopping.advance(isIdle: true, closeSent: false, now: at(10_000)) == .none)
        #expect(stopping.advance(isIdle: true, closeSent: true, now: at(10_001)) == .stop)
        #expect(stopping.isStopped)
    }

    @Test func aDrainEndsAtItsDeadlineAndAtASecondRequest() {
        var late = Stopping(drainFor: .seconds(1))
        _ = late.handleRequest(gently: true, now: at(0))
        #expect(late.nextTimeout == at(1000))
        #expect(late.advance(isIdle: false, closeSent: false, now: at(1000)) == .close)
        var twice = Stopping(drainFor: .seconds(1))
        _ = twice.handleRequest(gently: true, now: at(0))
        #expect(twice.handleRequest(gently: true, now: at(1)) == .close)
        #expect(twice.handleRequest(gently: true, now: at(2)) == .none)
        #expect(twice.advance(isIdle: false, closeSent: false, now: at(301)) == .stop)
    }

    @Test func withoutADrainItEndsAtOnce() {
        var stopping = Stopping(drainFor: .zero)
        #expect(stopping.handleRequest(gently: true, now: at(0)) == .close)
        var rough = Stopping(drainFor: .seconds(10))
        #expect(rough.handleRequest(gently: false, now: at(0)) == .close)
    }
}
