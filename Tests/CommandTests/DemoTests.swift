import Glibc
import Testing

@testable import tele

/// The demo's own parts. What tele does is done by a stand-in here, which repairs nothing and lies on
/// request, because a demo that cannot fail shows nothing. The real one is in `RunningTests`.
@Suite(.serialized) struct DemoTests {
    private func demo(_ arguments: [String], _ order: String = "") throws -> Program.Outcome {
        try Program.run(
            ["demo", "-binary=\(Program.standIn)"] + arguments, environment: ["STAND_IN": order], within: 60)
    }

    @Test func succeedsWithoutFaults() throws {
        let outcome = try demo(["-seconds=5", "-faults=none"])
        #expect(outcome.status == 0, "\(outcome)")
        #expect(outcome.output.hasSuffix("every byte arrived, once and in order\n"))
        #expect(outcome.errors == "")
        #expect(!outcome.output.contains("\u{1b}"), "no redrawing where nobody watches")
    }

    @Test func stallIsSurvivedByAnyone() throws {
        let outcome = try demo(["-seconds=5", "-faults=stall"])
        #expect(outcome.status == 0, "\(outcome)")
        #expect(outcome.output.contains("stall 0.5 s is over, first new byte after 0."))
    }

    @Test(arguments: [
        (
            "-faults=none", "flip=100000", "tele: error: stream ",
            ": the first wrong byte is at offset 99992, 0x"
        ),
        ("-faults=none", "cut=100000", "tele: error: stream ", " up: ended cleanly at offset 99992, though "),
        ("-faults=none", "quit=600", "tele: error: the tele client ended with status 3", ""),
        // The stand-in passes a reset on as a reset or as an end, as it comes.
        ("-faults=reset", "", "tele: error: ", " at offset "),
        ("-faults=blackhole", "", "tele: error: ", " did not arrive within 10 s"),
    ])
    func failsAndSaysWhere(_ faults: String, _ order: String, _ begin: String, _ part: String) throws {
        let outcome = try demo(["-seconds=5", faults], order)
        #expect(outcome.status == 1)
        #expect(outcome.errors.hasPrefix(begin) && outcome.errors.contains(part), "\(outcome.errors)")
        #expect(!outcome.output.contains("every byte arrived"))
    }

    @Test func failsWhenAChildNeverListens() throws {
        let outcome = try demo([], "mute")
        #expect(outcome.status == 1)
        #expect(outcome.errors.hasPrefix("tele: error: the tele server did not listen within 10 s\n"))
    }

    @Test func failsWithoutABinary() throws {
        let outcome = try Program.run(["demo", "-binary=/nowhere/tele"])
        #expect(outcome.status == 1)
        #expect(
            outcome.errors.hasPrefix("tele: error: cannot run /nowhere/tele (no such file or directory)\n"))
    }

    @Test(arguments: [(SIGINT, 130), (SIGTERM, 143)] as [(Int32, Int32)])
    func leavesNothingBehindWhenInterrupted(_ signal: Int32, _ status: Int32) throws {
        let before = try standIns()
        let program = try Program(["demo", "-binary=\(Program.standIn)", "-faults=none"])
        try program.wait { $0.output.contains("driver -> ") }
        #expect(try standIns().count == before.count + 2)
        program.signal(signal)
        #expect(try program.finish(within: 10).status == status)
        #expect(try standIns() == before)
    }

    @Test func terminalGetsOneRedrawnLineAndColoursUnlessToldNot() throws {
        func run(noColor: String) throws -> Program.Outcome {
            let command =
                "script -qec '\(Program.tele) demo -binary=\(Program.standIn) -seconds=5 -faults=none' /dev/null"
            return try Program.run(
                [], environment: ["TERM": "xterm", "NO_COLOR": noColor], through: ["/bin/sh", "-c", command],
                within: 30)
        }
        let colourful = try run(noColor: "")
        #expect(colourful.output.contains("\r\u{1b}[K\u{1b}[32mup\u{1b}[0m  "))
        #expect(colourful.output.contains(" MiB/s  ") && colourful.output.contains(" on the way  "))
        let plain = try run(noColor: "1")
        #expect(plain.output.contains("\r\u{1b}[Kup  ") && !plain.output.contains("\u{1b}[32m"))
    }

    /// The stand-ins that run now, by process number.
    private func standIns() throws -> Set<pid_t> {
        let folder = try #require(opendir("/proc"))
        defer { closedir(folder) }
        var found: Set<pid_t> = []
        while let entry = readdir(folder) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            guard let process = pid_t(name) else { continue }
            var path = [CChar](repeating: 0, count: 4096)
            let count = readlink("/proc/\(name)/exe", &path, path.count)
            guard count > 0 else { continue }
            let target = String(decoding: path[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
            if target == Program.standIn { found.insert(process) }
        }
        return found
    }

    // MARK: In pieces

    @Test func patternIsTheSameHoweverItIsCut() {
        let pattern = Pattern(seed: 7)
        let whole = UnsafeMutableRawBufferPointer.allocate(byteCount: 1000, alignment: 8)
        let part = UnsafeMutableRawBufferPointer.allocate(byteCount: 1000, alignment: 8)
        defer {
            whole.deallocate()
            part.deallocate()
        }
        pattern.fill(whole, from: 0)
        for (from, count) in [(0, 1), (1, 7), (3, 13), (8, 8), (5, 900), (993, 7)] {
            let piece = UnsafeMutableRawBufferPointer(rebasing: part[..<count])
            pattern.fill(piece, from: from)
            #expect(piece.elementsEqual(whole[from..<from + count]), "\(count) bytes from \(from)")
        }
        #expect(!whole.elementsEqual(repeatElement(0, count: 1000)))
    }

    @Test(arguments: [5, 8, 20, 60])
    func scheduleLeavesTimeToRecoverAfterEveryFault(_ seconds: Int) {
        let sending = Double(seconds) - 2
        let faults = Fault.schedule(Fault.Kind.allCases, sendingFor: sending)
        #expect(Set(faults.map(\.kind)) == Set(Fault.Kind.allCases))
        let quiet = 1.4 * min(1, sending / 10)
        for (fault, next) in zip(faults, faults.dropFirst()) { #expect(next.start - fault.end >= quiet) }
        #expect(faults.last.map { sending - $0.end >= quiet } == true)
    }
}
