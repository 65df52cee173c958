import Glibc
import Testing
@testable import Loop

/// What the kernel tells of files and of sleep.
@Suite struct EventsTests {
    private func isReadable(_ fd: Int32, _ milliseconds: Int32 = 0) -> Bool {
        var wanted = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
        return poll(&wanted, 1, milliseconds) == 1
    }

    /// Sets the wall clock to what it says. False: not allowed.
    private static func setsClock() -> Bool {
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        return clock_settime(CLOCK_REALTIME, &now) == 0
    }

    private func folder() -> String {
        var name = Array("/tmp/tele-events-XXXXXX".utf8CString)
        #expect(mkdtemp(&name) != nil)
        return String(decoding: name.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    private func put(_ text: String, _ path: String) {
        let fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        #expect(write(fd, text, text.utf8.count) == text.utf8.count && close(fd) == 0)
    }

    /// As certbot and Kubernetes renew: another target behind a link, in another folder.
    @Test func aFileBehindALinkThatChangesIsNoticed() throws {
        let (top, first, second) = (folder(), folder(), folder())
        defer { for path in ["\(top)/a", "\(first)/f", "\(second)/f", top, first, second] { remove(path) } }
        put("one", "\(first)/f")
        put("two", "\(second)/f")
        #expect(symlink("\(first)/f", "\(top)/a") == 0)
        let events = try #require(FileEvents(["\(top)/a"]))
        defer { close(events.fd) }
        #expect(!isReadable(events.fd))
        let before = FileStamp("\(top)/a")
        put("three", "\(first)/f")
        #expect(isReadable(events.fd) && FileStamp("\(top)/a") != before)
        events.drain()
        #expect(!isReadable(events.fd))
        #expect(symlink("\(second)/f", "\(top)/b") == 0 && rename("\(top)/b", "\(top)/a") == 0)
        #expect(isReadable(events.fd))
        events.drain()
        let renewed = FileStamp("\(top)/a")
        put("four", "\(second)/f")
        #expect(isReadable(events.fd) && FileStamp("\(top)/a") != renewed)
        #expect(FileStamp("\(top)/nothing") == FileStamp("\(top)/nobody"))
    }

    /// The wall clock is set to what it says: the kernel tells it as it tells that the machine woke, and no sleep is found.
    @Test(.enabled(if: EventsTests.setsClock(), "needs the right to set the clock (CAP_SYS_TIME)")) func aClockThatWasSetIsNoSleep() throws {
        var events = try #require(WakeEvents())
        defer { close(events.fd) }
        for _ in 0..<2 {
            #expect(!isReadable(events.fd))
            #expect(EventsTests.setsClock())
            #expect(isReadable(events.fd, 1000))
            #expect(events.take() < 100_000_000)
        }
    }
}
