import Glibc
import Testing

/// The whole program: every accepted spelling listens, says where when it must, and ends in order when asked.
@Suite(.serialized) struct RunningTests {
    /// `IN` and `OUT` become free ports. The words are split at blanks.
    private func words(_ line: String, _ input: UInt16, _ output: UInt16) -> [String] {
        line.split(separator: " ").map { word in
            var word = String(word)
            for (name, port) in [("IN", input), ("OUT", output)] where word.hasSuffix(":\(name)") {
                word = word.dropLast(name.count) + "\(port)"
            }
            return word
        }
    }

    static let servers = [
        "-server -in=:IN -out=:OUT", "--server --in=:IN --out=:OUT", "-server -in :IN -out :OUT",
        "--server --in :IN --out :OUT", "-out=:OUT -in=:IN -server", "-server=true -in=:IN -out=:OUT",
        "-client=false -server -in=:IN -out=:OUT", "-server -in=localhost:IN -out=127.0.0.1:OUT",
        "-server -in=127.0.0.1:IN -out=localhost:OUT", "-server -in=[::1]:IN -out=:OUT",
        "-server -in=:IN -out=:OUT -io=epoll -buffer=1MiB -memory=64MiB -hold=7d -max-streams=10 -max-sessions=2",
        "-server -in=:IN -out=:OUT -io=auto -drain=500ms -log-format=json -log-level=debug",
        "-server -in=name.invalid:IN -out=:OUT",
    ]

    static let clients = [
        "-client -in=:OUT -out=localhost:IN -drain=100ms", "--client --in=:OUT --out=localhost:IN --drain=100ms",
        "-client -in :OUT -out 127.0.0.1:IN -drain 100ms", "-out=:IN -client=true -in=localhost:OUT -drain=100ms",
        "-client -in=127.0.0.1:OUT -out=name.invalid:IN -io epoll -drain 0s",
    ]

    /// With both addresses given nothing goes to stdout. The other side need not be there.
    @Test(arguments: servers + clients)
    func acceptedLineListensAndEndsInOrder(_ line: String) throws {
        let input = try Ports.free()
        let output = try Ports.free()
        let program = try Program(words(line, input, output))
        try Ports.waitUntilListening(output, program)
        program.signal(SIGTERM)
        let outcome = try program.finish(within: 15)
        #expect(outcome.status == 0, "\(outcome)")
        #expect(outcome.output == "")
    }

    @Test(arguments: [
        ("-server -in=:IN", ""), ("-client -out=:IN", "127.0.0.1:"),
        ("-server -in=:IN -out=127.0.0.1:0", "127.0.0.1:"),
        ("-client -in=localhost:0 -out=:IN", ""),
    ])
    func freePortIsPrintedAloneOnOneLine(_ line: String, _ begin: String) throws {
        let program = try Program(words(line, try Ports.free(), 0))
        try program.wait { $0.output.contains("\n") }
        program.signal(SIGTERM)
        let outcome = try program.finish(within: 15)
        #expect(outcome.status == 0, "\(outcome)")
        let lines = outcome.output.split(separator: "\n", omittingEmptySubsequences: false)
        #expect(lines.count == 2 && lines.last == "")
        #expect(outcome.output.hasPrefix(begin))
        let port = outcome.output.dropLast().split(separator: ":").last.flatMap { UInt16($0) }
        #expect(port != nil && port != 0)
    }

    /// Nobody there to read the address is no reason not to serve.
    @Test func closedOutputDoesNotStopTheClient() throws {
        let port = try Ports.free()
        let program = try Program(["-client", "-in=127.0.0.1:\(port)", "-out=:1"], output: .closed)
        try Ports.waitUntilListening(port, program)
        program.signal(SIGTERM)
        #expect(try program.finish(within: 15).status == 0)

        let unheard = try Program(["-client", "-out=:1"], output: .closed)
        try unheard.wait { $0.errors.contains("cannot print the address") }
        unheard.signal(SIGTERM)
        #expect(try unheard.finish(within: 15).status == 0)
    }

    @Test(arguments: ["-server -in=:IN -out=127.0.0.1:OUT", "-client -in=127.0.0.1:OUT -out=:IN"])
    func portInUseIsStatus69(_ line: String) throws {
        let (listener, port) = try Ports.listen()
        defer { close(listener) }
        let outcome = try Program.run(words(line, try Ports.free(), port))
        expectFault(outcome, status: 69, naming: "127.0.0.1:\(port)")
    }

    /// It may come with a network that is not up yet: one line says so, and the process stays.
    @Test(arguments: ["-server -in=:IN -out=192.0.2.1:OUT", "-client -in=192.0.2.1:OUT -out=:IN"])
    func anAddressThatIsNotThereIsWaitedFor(_ line: String) throws {
        let program = try Program(words(line, try Ports.free(), try Ports.free()))
        try program.wait { $0.errors.contains("listen address does not exist yet") && $0.errors.contains("address=192.0.2.1:") }
        usleep(300_000)
        program.signal(SIGTERM)
        #expect(try program.finish(within: 15).status == 0)
    }

    @Test func nameThatCannotBeListenedOnIsStatus69() throws {
        expectFault(
            try Program.run(["-client", "-in=name.invalid:2222", "-out=:1"]), status: 69,
            naming: "name.invalid")
    }

    @Test(.enabled(if: Ports.firstUnprivileged > 1, "every port is free to everyone on this machine"))
    func privilegedPortIsStatus69() throws {
        let dropping = geteuid() == 0 ? ["setpriv", "--bounding-set=-net_bind_service", "--"] : []
        let outcome = try Program.run(["-server", "-in=:22222", "-out=127.0.0.1:1"], through: dropping)
        expectFault(outcome, status: 69, naming: "127.0.0.1:1")
    }

    /// One sentence and one hint are the last two lines, whatever was logged before.
    private func expectFault(_ outcome: Program.Outcome, status: Int32, naming part: String) {
        #expect(outcome.status == status, "\(outcome)")
        let lines = outcome.errors.split(separator: "\n").suffix(2)
        #expect(
            lines.first?.hasPrefix("tele: error: ") == true && lines.first?.contains(part) == true,
            "\(outcome)")
        #expect(lines.last?.hasPrefix("tele: hint: ") == true)
        #expect(lines.allSatisfy { !$0.hasSuffix(".") })
        #expect(outcome.output == "")
    }

    @Test func stoppedReaderOfStderrDoesNotStopTheEnd() throws {
        let pipe = try Pipe()
        // Full before tele starts, so that its first line already finds no room.
        _ = fcntl(pipe.input, F_SETFL, O_NONBLOCK)
        let filling = [UInt8](repeating: 10, count: 4096)
        while write(pipe.input, filling, filling.count) > 0 {}
        while write(pipe.input, filling, 1) > 0 {}
        _ = fcntl(pipe.input, F_SETFL, 0)

        let port = try Ports.free()
        let program = try Program(
            ["-client", "-in=127.0.0.1:\(port)", "-out=127.0.0.1:1", "-log-level=trace"],
            errors: .descriptor(pipe.input))
        try Ports.waitUntilListening(port, program)
        program.signal(SIGTERM)
        #expect(try program.finish(within: 15).status == 0)
    }

    @Test func logLinesHaveTheAskedForm() throws {
        for (format, begin, end) in [("text", "20", ""), ("json", "{\"time\":\"20", "}")] {
            let port = try Ports.free()
            let program = try Program(["-server", "-in=:1", "-out=:\(port)", "-log-format=\(format)"])
            try Ports.waitUntilListening(port, program)
            program.signal(SIGTERM)
            let lines = try program.finish(within: 15).errors.split(separator: "\n")
            #expect(!lines.isEmpty)
            #expect(lines.allSatisfy { $0.hasPrefix(begin) && $0.hasSuffix(end) }, "\(lines)")
        }
    }

    @Test func childOfADemoThatIsGoneEnds() throws {
        let program = try Program(
            ["-client", "-out=:1"], environment: ["TELE_LEASH": "stdin"],
            through: ["/bin/sh", "-c", "exec \"$0\" \"$@\" </dev/null"])
        #expect(try program.finish(within: 15).status == 0)
    }

    @Test(arguments: ["auto", "epoll"])
    func demoArrivesThroughEveryFault(_ driver: String) throws {
        let outcome = try Program.run(["demo", "-seconds=8", "-io=\(driver)"], within: 60)
        #expect(outcome.status == 0, "\(outcome)")
        #expect(outcome.output.hasSuffix("every byte arrived, once and in order\n"))
        for kind in ["blackhole", "reset", "stall"] { #expect(outcome.output.contains("\(kind)"), "\(kind)") }
    }
}

/// Ports of this machine.
enum Ports {
    static func listen() throws -> (descriptor: Int32, port: UInt16) {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = loopback(0)
        let bound = with(&address) { bind(descriptor, $0, 16) }
        try #require(bound == 0 && Glibc.listen(descriptor, 8) == 0)
        var length = socklen_t(16)
        _ = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
        }
        return (descriptor, UInt16(bigEndian: address.sin_port))
    }

    /// A connection to a port of this machine.
    static func dial(_ port: UInt16) -> Int32? {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = loopback(port)
        if with(&address, { connect(descriptor, $0, 16) }) == 0 { return descriptor }
        close(descriptor)
        return nil
    }

    /// A port that nobody has just now.
    static func free() throws -> UInt16 {
        let (descriptor, port) = try listen()
        close(descriptor)
        return port
    }

    static func waitUntilListening(_ port: UInt16, _ program: Program) throws {
        let deadline = now() + 10
        while now() < deadline, !program.hasEnded {
            let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            defer { close(descriptor) }
            var address = loopback(port)
            if with(&address, { connect(descriptor, $0, 16) }) == 0 { return }
            usleep(10_000)
        }
        program.signal(SIGKILL)
        throw Program.Failure(description: "nobody listens on port \(port): \(try program.finish(within: 5))")
    }

    static var firstUnprivileged: Int {
        let file = open("/proc/sys/net/ipv4/ip_unprivileged_port_start", O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return 1024 }
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: 16)
        let count = read(file, &bytes, bytes.count)
        return Int(String(decoding: bytes[..<max(0, count)], as: UTF8.self).filter(\.isNumber)) ?? 1024
    }

    private static func loopback(_ port: UInt16) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        return address
    }

    private static func with(_ address: inout sockaddr_in, _ body: (UnsafePointer<sockaddr>) -> Int32)
        -> Int32
    {
        withUnsafePointer(to: &address) { $0.withMemoryRebound(to: sockaddr.self, capacity: 1, body) }
    }
}
