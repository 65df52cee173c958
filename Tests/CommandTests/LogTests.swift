import Glibc
import Logging
import Testing

@testable import tele

/// Lines as people and machines read them, and a reader that stands still.
@Suite struct LogTests {
    private let time = timespec(tv_sec: 1_795_428_000, tv_nsec: 123_999_999)

    @Test func textLine() {
        let line = LogFormat.text.line(
            .info, "carrier up", ["rtt": "0.3ms", "peer": "1.2.3.4:40300"], at: time, forJournal: false)
        #expect(line == "2026-11-23T10:00:00.123Z info carrier up peer=1.2.3.4:40300 rtt=0.3ms\n")
    }

    @Test func valuesAreQuotedWhenTheyAreNotOneWord() {
        let line = LogFormat.text.line(
            .error, "went\naway",
            ["a": "", "b": "two words", "c": "x=y", "d": "\"q\"\\", "e": "\u{1b}[31m", "f": "é"],
            at: time, forJournal: false)
        #expect(
            line.dropFirst(25) == #"""
                error went\naway a="" b="two words" c="x=y" d="\"q\"\\" e="\u001b[31m" f=é

                """#)
    }

    @Test func jsonLine() {
        let metadata: Logger.Metadata = [
            "peer": "a\"b\n", "bytes": .stringConvertible(42), "warm": .stringConvertible(true),
            "share": .stringConvertible(0.5), "level": "own", "list": ["1", "2"], "map": ["k": "v"],
        ]
        let line = LogFormat.json.line(.warning, "carrier lost", metadata, at: time, forJournal: false)
        #expect(
            line == #"""
                {"time":"2026-11-23T10:00:00.123Z","level":"warning","message":"carrier lost","bytes":42,"level_":"own",\#
                "list":["1","2"],"map":{"k":"v"},"peer":"a\"b\n","share":0.5,"warm":true}

                """#)
    }

    @Test(arguments: [
        (Logger.Level.critical, 2), (.error, 3), (.warning, 4), (.notice, 5), (.info, 6), (.debug, 7),
        (.trace, 7),
    ])
    func journalGetsAPriorityAndNoTime(_ level: Logger.Level, _ priority: Int) {
        let line = LogFormat.text.line(level, "m", [:], at: time, forJournal: true)
        #expect(line == "<\(priority)>\(level.rawValue) m\n")
    }

    @Test func handlerMergesMetadataAndHonoursTheLevel() throws {
        let pipe = try Pipe()
        let sink = try LogSink(format: .text, descriptor: pipe.input)
        var logger = Logger(label: "tele") { _ in LogLines(sink: sink) }
        logger[metadataKey: "role"] = "client"
        logger.debug("not shown")
        logger.notice("shown", metadata: ["a": "1"])
        sink.flush(withinMilliseconds: 5000)
        #expect(pipe.read(within: 1).hasSuffix("Z notice shown a=1 role=client\n"))
    }

    /// Nobody reads: the lines that fit wait, the others are counted, no call blocks, and a flush gives up in
    /// time. Then somebody reads: everything that waited comes in order, then how many are missing, then new
    /// lines.
    @Test func stoppedReaderLosesCountedLinesAndNoTime() throws {
        let pipe = try Pipe()
        let sink = try LogSink(format: .text, descriptor: pipe.input)
        let total = 40_000
        let begin = now()
        var slowest = 0.0
        for number in 0..<total {
            let before = now()
            sink.line(.info, "line", ["n": "\(number)"])
            slowest = max(slowest, now() - before)
        }
        #expect(slowest < 0.5, "a line took \(slowest) s")
        let beforeFlush = now()
        sink.flush(withinMilliseconds: 200)
        #expect((0.15..<2).contains(now() - beforeFlush))

        var text = pipe.read(within: 2) { $0.contains("dropped") }
        sink.line(.info, "after", [:])
        text += pipe.read(within: 2) { $0.contains("after") }
        let lines = text.split(separator: "\n")
        let numbers = lines.compactMap { line in
            line.split(separator: " n=").dropFirst().first.flatMap { Int($0) }
        }
        #expect(numbers == Array(0..<numbers.count), "what is read is the beginning, in order")
        let dropped = lines.compactMap { line in
            line.contains("log lines dropped")
                ? line.split(separator: "count=").last.flatMap { Int($0) } : nil
        }
        #expect(dropped.count == 1)
        #expect(numbers.count + dropped.reduce(0, +) == total, "in \(now() - begin) s")
        #expect(lines.last?.hasSuffix("info after") == true)
    }

    @Test func linesThatStderrRefusedAreCountedWhenItTakesLinesAgain() throws {
        let pipe = try Pipe()
        let full = open("/dev/full", O_WRONLY)
        let target = dup(full)
        close(full)
        let sink = try LogSink(format: .text, descriptor: target)
        for number in 0..<3 {
            sink.line(.info, "lost", ["n": "\(number)"])
            sink.flush(withinMilliseconds: 5000)
        }
        try #require(dup2(pipe.input, target) == target)
        sink.line(.info, "seen", [:])
        let lines = pipe.read(within: 2) { $0.contains("seen") }.split(separator: "\n")
        #expect(lines.count == 2)
        #expect(lines.first?.hasSuffix("warning log lines dropped count=3") == true)
    }
}

/// A pipe whose reading end the test reads when it likes. Its descriptors are left to the end of the test
/// process, as a sink's writer may be at one of them.
final class Pipe {
    let output, input: Int32

    init() throws {
        var ends: [Int32] = [-1, -1]
        try #require(pipe(&ends) == 0)
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        (output, input) = (ends[0], ends[1])
    }

    /// Reads until the condition holds or nothing has come for so long.
    func read(within seconds: Double, until isEnough: (String) -> Bool = { $0.hasSuffix("\n") }) -> String {
        var bytes: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 65536)
        while true {
            var wait = pollfd(fd: output, events: Int16(POLLIN), revents: 0)
            guard poll(&wait, 1, Int32(seconds * 1000)) > 0 else { break }
            let count = Glibc.read(output, &piece, piece.count)
            guard count > 0 else { break }
            bytes += piece[..<count]
            if isEnough(String(decoding: bytes.suffix(4096), as: UTF8.self)) { break }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
