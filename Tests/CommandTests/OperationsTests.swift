import Glibc
import Testing

@testable import tele

/// Running processes seen from outside: status, metrics, top, connect, the service manager.
@Suite(.serialized) struct OperationsTests {
    private let folder: String

    init() throws {
        folder = "/tmp/tele-operations-\(getpid())-\(UInt32.random(in: 0 ... .max))"
        try #require(mkdir(folder, 0o700) == 0)
    }

    private var environment: [String: String] { ["RUNTIME_DIRECTORY": folder, "XDG_RUNTIME_DIR": folder] }

    /// A server, whose origin is `origin`, and a client.
    private func pair(_ origin: UInt16, _ flags: [String] = []) throws -> (server: Program, client: Program, carrier: UInt16, user: UInt16) {
        let (carrier, user) = (try Ports.free(), try Ports.free())
        let server = try Program(["-server", "-in=127.0.0.1:\(origin)", "-out=127.0.0.1:\(carrier)"], environment: environment)
        try Ports.waitUntilListening(carrier, server)
        let client = try Program(["-client", "-in=127.0.0.1:\(user)", "-out=127.0.0.1:\(carrier)"] + flags, environment: environment)
        try client.wait { $0.errors.contains("carrier up") }
        return (server, client, carrier, user)
    }

    private func end(_ programs: Program...) throws {
        for program in programs {
            program.signal(SIGINT)
            #expect(try program.finish(within: 15).status == 0)
        }
    }

    private func tele(_ words: [String]) throws -> Program.Outcome { try Program.run(words, environment: environment) }

    @Test func statusShowsEveryProcess() throws {
        let (server, client, carrier, _) = try pair(1)
        let outcome = try tele(["status"])
        #expect(outcome.status == 0 && outcome.errors == "", "\(outcome)")
        #expect(outcome.output.contains("tele client ") && outcome.output.contains("tele server "))
        #expect(outcome.output.contains("to 127.0.0.1:\(carrier), running") && outcome.output.contains("no outage so far"))
        #expect(!outcome.output.contains("\u{1b}"), "no colours where nobody watches")
        // Others of this machine may be there too.
        let json = try tele(["status", "-json"]).output.split(separator: "\n")
        #expect(json.allSatisfy { $0.hasPrefix("{\"version\":") && $0.hasSuffix("}") })
        for process in [server, client] { #expect(json.count { $0.contains("\"pid\":\(process.number),") } == 1) }
        let (gone, other) = (client.number, server.number)
        try end(client, server)
        let after = try tele(["status"])
        #expect(!after.output.contains(" \(gone),") && !after.output.contains(" \(other),"))
        if after.output.isEmpty { #expect(after.status == 64 && after.errors.hasPrefix("tele: error: no running tele process"), "\(after)") }
    }

    /// A probe of a container, without a port: the exit status says it.
    @Test func readinessIsAnExitStatus() throws {
        let (server, client, _, _) = try pair(1)
        let path = try #require(ControlFolderReader.sockets(folder).first { $0.hasSuffix("/\(client.number).sock") })
        let ready = try tele(["status", "-ready", "-control=\(path)"])
        #expect(ready.status == 0 && ready.output == "ready\n", "\(ready)")
        try end(server)
        try client.wait { $0.errors.contains("cannot reach the server") }
        let alone = try tele(["status", "-ready", "-control=\(path)"])
        #expect(alone.status == 69 && alone.errors.hasPrefix("tele: error: \(path): not ready (no carrier"), "\(alone)")
        try end(client)
        #expect(try tele(["status", "-ready", "-control=\(path)"]).status == 69)
    }

    /// A stopped server is an outage to the client: what waits, and for how long, is on the table; afterwards the outage is.
    @Test func aBacklogIsSeenWithItsAge() throws {
        let (listener, port) = try Ports.listen()
        defer { close(listener) }
        let (server, client, _, user) = try pair(port)
        let socket = try #require(Ports.dial(user))
        defer { close(socket) }
        let origin = accept(listener, nil, nil)
        defer { close(origin) }
        server.signal(SIGSTOP)
        let bytes = [UInt8](repeating: 7, count: 100_000)
        #expect(write(socket, bytes, bytes.count) == bytes.count)
        usleep(1_500_000)
        let path = try #require(ControlFolderReader.sockets(folder).first { $0.hasSuffix("/\(client.number).sock") })
        let status = try ControlClient(path: path).status()
        #expect(status.sessions.count == 1 && status.connections == 1)
        #expect(status.sessions[0].carrier == .suspected)
        #expect(status.sessions[0].backlogBytes >= 100_000)
        #expect(status.sessions[0].backlogSeconds > 1 && status.sessions[0].backlogSeconds < 5)
        let top = try Program.run(["top", "-control=\(path)"], environment: environment, through: ["timeout", "3"])
        #expect(top.output.contains("carrier=suspected connections=1") && !top.output.contains("\u{1b}"), "\(top)")
        server.signal(SIGCONT)
        try client.wait { $0.errors.contains("carrier recovered") || $0.errors.contains("session resumed") }
        usleep(300_000)
        let after = try ControlClient(path: path).status()
        #expect(after.sessions[0].carrier == .up && after.sessions[0].backlogBytes == 0 && after.sessions[0].backlogSeconds == 0)
        // A later HELLO may have taken over behind it: that one was short.
        #expect(after.outages.contains { $0.lengthSeconds > 0.5 && $0.lengthSeconds < 10 }, "\(after.outages)")
        try end(client, server)
    }

    @Test func metricsAreServedAndNothingElse() throws {
        let port = try Ports.free()
        let (server, client, _, _) = try pair(1, ["-metrics=127.0.0.1:\(port)"])
        let page = try HTTP.ask(port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        #expect(page.hasPrefix("HTTP/1.1 200 OK\r\n") && page.contains("text/plain; version=0.0.4"))
        #expect(page.contains("\ntele_sessions_total 1\n") && page.contains("tele_outage_seconds_bucket{le=\"+Inf\"} 0"))
        #expect(try HTTP.ask(port, "GET /healthz?x HTTP/1.0\r\n\r\n").hasSuffix("\r\n\r\nfine\n"))
        #expect(try HTTP.ask(port, "GET /status HTTP/1.1\r\n\r\n").hasPrefix("HTTP/1.1 404 "))
        #expect(try HTTP.ask(port, "POST /drain HTTP/1.1\r\n\r\n").hasPrefix("HTTP/1.1 400 "), "it is for looking only")
        #expect(try HTTP.ask(port, "nonsense\r\n\r\n").hasPrefix("HTTP/1.1 400 "))
        #expect(try HTTP.ask(port, String(repeating: "x", count: 8192)).hasPrefix("HTTP/1.1 400 "))
        try end(client, server)
    }

    /// Many who ask and say nothing cost a few descriptors for a few seconds, and nobody's connection.
    @Test func whoAsksAndSaysNothingIsSentAway() throws {
        let port = try Ports.free()
        let (server, client, _, _) = try pair(1, ["-metrics=127.0.0.1:\(port)"])
        let before = client.descriptorCount
        let silent = (0..<40).compactMap { _ in Ports.dial(port) }
        defer { for socket in silent { close(socket) } }
        usleep(200_000)
        #expect(client.descriptorCount <= before + 16)
        usleep(5_500_000)
        #expect(try HTTP.ask(port, "GET /healthz HTTP/1.1\r\n\r\n").hasSuffix("fine\n"))
        try end(client, server)
    }

    @Test func aClientReconnectsAndDrainsWhenTold() throws {
        let (server, client, _, _) = try pair(1)
        let path = "\(folder)/\(client.number).sock"
        #expect(try tele(["reconnect", "-control=\(path)"]).status == 0)
        try client.wait { $0.errors.contains("session resumed") }
        let refused = try tele(["reconnect", "-control=\(folder)/\(server.number).sock"])
        #expect(refused.status == 69 && refused.errors.contains("a server does not dial"), "\(refused)")
        #expect(try tele(["drain"]).status == 64, "which of them?")
        #expect(try tele(["drain", "-control=\(path)"]).status == 0)
        #expect(try client.finish(within: 15).status == 0)
        #expect(!ControlFolderReader.sockets(folder).contains(path), "the socket's file goes with it")
        try end(server)
    }

    @Test func connectCarriesStdinAndStdout() throws {
        let (listener, port) = try Ports.listen()
        defer { close(listener) }
        let (server, client, carrier, _) = try pair(port)
        let words = ["connect", "-out=127.0.0.1:\(carrier)"]
        let program = try Program(words, environment: environment, through: ["/bin/sh", "-c", "printf hello | exec \"$0\" \"$@\""])
        let origin = accept(listener, nil, nil)
        var bytes = [UInt8](repeating: 0, count: 16)
        #expect(recv(origin, &bytes, 16, Int32(MSG_WAITALL)) == 5, "its end is passed on, though the answer is open")
        #expect(write(origin, "answer", 6) == 6)
        close(origin)
        let outcome = try program.finish(within: 15)
        #expect(outcome == Program.Outcome(output: "answer", errors: "", status: 0), "\(outcome)")
        let unknown = try Program.run(words + ["nobody"], environment: environment, through: ["/bin/sh", "-c", "sleep 9 | exec \"$0\" \"$@\""])
        #expect(unknown.status == 1 && unknown.errors.contains("the server has no origin of this name"), "\(unknown)")
        try end(client, server)
    }

    /// In a user namespace, without any right of the machine's: both sides of a connection work.
    @Test(.enabled(if: OperationsTests.hasUserNamespaces, "this system lets nobody make user namespaces"))
    func itRunsInAUserNamespace() throws {
        let (listener, port) = try Ports.listen()
        defer { close(listener) }
        let (carrier, user) = (try Ports.free(), try Ports.free())
        let apart = ["unshare", "--user", "--map-root-user", "--"]
        let server = try Program(["-server", "-in=127.0.0.1:\(port)", "-out=127.0.0.1:\(carrier)"], environment: environment, through: apart)
        try Ports.waitUntilListening(carrier, server)
        let client = try Program(["-client", "-in=127.0.0.1:\(user)", "-out=127.0.0.1:\(carrier)"], environment: environment, through: apart)
        try client.wait { $0.errors.contains("carrier up") }
        let socket = try #require(Ports.dial(user))
        defer { close(socket) }
        let origin = accept(listener, nil, nil)
        defer { close(origin) }
        var byte: UInt8 = 0
        #expect(write(socket, "x", 1) == 1 && read(origin, &byte, 1) == 1 && byte == UInt8(ascii: "x"))
        try end(client, server)
    }

    static let hasUserNamespaces: Bool = (try? Program.run([], through: ["unshare", "--user", "--map-root-user", "true", "--"]).status) == 0

    /// On a terminal: a second screen, no line wider and no frame higher than it, colours unless told not, and all given back.
    @Test(arguments: [(80, 24, ""), (200, 50, ""), (80, 24, "1"), (30, 5, "")])
    func topFitsTheTerminal(_ columns: Int, _ rows: Int, _ noColor: String) throws {
        let (server, client, _, _) = try pair(1)
        let path = "\(folder)/\(client.number).sock"
        let line = "stty cols \(columns) rows \(rows); '\(Program.tele)' top -control=\(path); stty -a | grep -o '.icanon\\b'"
        let outcome = try Program.run(
            [], environment: environment.merging(["TERM": "xterm", "NO_COLOR": noColor]) { $1 },
            through: ["/bin/sh", "-c", "(sleep 5; printf q; sleep 1) | script -qec \"\(line)\" /dev/null"])
        #expect(outcome.status == 0, "\(outcome)")
        let text = outcome.output
        let begin = try #require(text.firstRange(of: "\u{1b}[?1049h\u{1b}[?25l")), close = try #require(text.firstRange(of: "\u{1b}[?25h\u{1b}[?1049l"))
        #expect(!text[close.upperBound...].contains("-icanon"), "the terminal is as it was")
        let frames = text[begin.upperBound..<close.lowerBound].split(separator: "\u{1b}[H")
        #expect(frames.count >= 2)
        for frame in frames {
            let lines = frame.split(separator: "\r\n", omittingEmptySubsequences: false)
            #expect(lines.count <= rows)
            // The terminal's driver puts a carriage return of its own before each new line.
            for line in lines.map({ $0.filter { $0 != "\r" } }) { #expect(Terminal.clipped(line, columns) == line) }
        }
        #expect(text[begin.upperBound..<close.lowerBound].contains("\u{1b}[3") == noColor.isEmpty)
        if rows > 20 { #expect(text.contains("from users") && text.contains("q or Ctrl-C ends this")) }
        try end(client, server)
    }

    /// It is told, though it has nothing that could keep it.
    @Test func aClientWithoutACarrierDrainsAtOnceAndSaysSo() throws {
        let port = try Ports.free()
        let client = try Program(["-client", "-in=127.0.0.1:\(port)", "-out=127.0.0.1:1", "-drain=0s"], environment: environment)
        try Ports.waitUntilListening(port, client)
        let outcome = try tele(["drain", "-control=\(folder)/\(client.number).sock"])
        #expect(outcome.output.hasPrefix("draining the client of 127.0.0.1:1, process \(client.number): "))
        #expect(outcome.errors == "" && outcome.status == 0)
        #expect(try client.finish(within: 5).status == 0)
    }

    /// ssh ends its ProxyCommand by SIGHUP, or dies: nobody is left who dials for ever, and nobody who wants a word of it.
    @Test(arguments: [SIGHUP, 0])
    func connectEndsWithWhoeverStartedIt(_ signal: Int32) throws {
        var ends: [Int32] = [-1, -1]
        try #require(pipe(&ends) == 0)
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        close(ends[0])
        defer { close(ends[1]) }
        // The server is not there: it would wait.
        let words = ["connect", "-out=127.0.0.1:1", "-log-level=critical"]
        let program = try Program(
            words, environment: environment, output: signal == 0 ? .descriptor(ends[1]) : .kept,
            through: ["/bin/sh", "-c", "exec \"$0\" \"$@\" < \(signal == 0 ? "/dev/null" : "/dev/zero")"])
        usleep(500_000)
        if signal != 0 { program.signal(signal) }
        let outcome = try program.finish(within: 5)
        #expect(outcome.status == 1 && outcome.errors == "")
    }

    /// Who asks for one connection hears within seconds that it cannot be had, and why.
    @Test func connectGivesUpWhenItNeverReachesTheServer() throws {
        let outcome = try Program(
            ["connect", "-out=127.0.0.1:1", "-log-level=critical"], environment: environment,
            through: ["/bin/sh", "-c", "exec \"$0\" \"$@\" < /dev/zero"]
        ).finish(within: 20)
        #expect(outcome.status == 69)
        #expect(outcome.errors.hasPrefix("tele: error: cannot reach the server at 127.0.0.1:1 (connection refused)\ntele: hint: is \"tele -server\""))
    }

    /// What does not pass by itself ends it sooner, with a status of its own.
    @Test func aWrongKeyIsDenied() throws {
        for name in ["one", "two"] { #expect(try tele(["keygen", "-out=\(folder)/\(name)", "-name=\(name)"]).status == 0) }
        let port = try Ports.free()
        let server = try Program(["-server", "-in=127.0.0.1:1", "-out=127.0.0.1:\(port)", "-key=\(folder)/one"], environment: environment)
        try Ports.waitUntilListening(port, server)
        let client = try Program(
            ["-client", "-out=127.0.0.1:\(port)", "-key=\(folder)/two", "-exit-on-failure", "-control=none"],
            environment: environment)
        let outcome = try client.finish(within: 10)
        #expect(outcome.status == 77)
        #expect(outcome.errors.contains("tele: error: cannot reach the server at 127.0.0.1:\(port) (the server does not accept this key"))
        #expect(outcome.errors.split(separator: "\n").count { $0.contains("cannot reach the server") } <= 2)
        server.signal(SIGTERM)
        _ = try server.finish(within: 15)
    }

    /// sd_notify: ready, reloading and ready again, alive, stopping; and a loop that stands says nothing.
    @Test func theServiceManagerHears() throws {
        let manager = try NotifySocket("\(folder)/notify")
        let port = try Ports.free()
        let program = try Program(
            ["-client", "-in=127.0.0.1:\(port)", "-out=127.0.0.1:1"],
            environment: environment.merging([
                "NOTIFY_SOCKET": "\(folder)/notify", "WATCHDOG_USEC": "400000",
            ]) { $1 })
        try Ports.waitUntilListening(port, program)
        usleep(900_000)
        let said = manager.take()
        #expect(said.first == "READY=1" && said.count { $0 == "WATCHDOG=1" } >= 3, "\(said)")
        #expect(said.contains("STATUS=no carrier, users wait"))
        program.signal(SIGSTOP)
        usleep(300_000)
        _ = manager.take()
        usleep(600_000)
        #expect(manager.take().isEmpty)
        program.signal(SIGCONT)
        usleep(300_000)
        #expect(manager.take().contains("WATCHDOG=1"))
        program.signal(SIGTERM)
        #expect(try program.finish(within: 15).status == 0)
        #expect(manager.take().contains("STOPPING=1"))
    }
}

private enum ControlFolderReader {
    static func sockets(_ folder: String) -> [String] {
        guard let directory = opendir(folder) else { return [] }
        defer { closedir(directory) }
        var paths: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) } }
            if name.hasSuffix(".sock") { paths.append("\(folder)/\(name)") }
        }
        return paths
    }
}

/// A socket that hears what sd_notify says.
private struct NotifySocket {
    private let fd: Int32

    init(_ path: String) throws {
        fd = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(fd, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
        try #require(bound == 0)
    }

    /// Everything that has been said since the last time.
    func take() -> [String] {
        var said: [String] = []
        var bytes = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = recv(fd, &bytes, bytes.count, 0)
            guard count > 0 else { return said }
            said.append(String(decoding: bytes[..<count], as: UTF8.self))
        }
    }
}

private enum HTTP {
    /// The whole answer.
    static func ask(_ port: UInt16, _ request: String) throws -> String {
        let fd = try #require(Ports.dial(port))
        defer { close(fd) }
        var limit = timeval(tv_sec: 10, tv_usec: 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        _ = write(fd, request, request.utf8.count)
        var answer: [UInt8] = []
        var bytes = [UInt8](repeating: 0, count: 65536)
        while case let count = read(fd, &bytes, bytes.count), count > 0 { answer += bytes[..<count] }
        return String(decoding: answer, as: UTF8.self)
    }
}
