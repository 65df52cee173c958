import Logging
import Loop
import Relay
import Testing

@testable import tele

/// How accepted command lines are read. The same lines are run from outside in `RunningTests`.
@Suite struct ReadingTests {
    private func settings(_ words: String) throws -> Settings {
        let arguments = words.split(separator: " ").map(String.init)
        return try Settings(Tele.parsed(GoFlags(GoFlag.ofTele, listedBy: "tele -help").normalised(arguments)))
    }

    @Test(arguments: [
        "-server -in=:22 -out=:40300", "--server --in=:22 --out=:40300", "-server -in :22 -out :40300",
        "--server --in :22 --out :40300", "-out=:40300 -in=:22 -server", "-in=:22 -server=true -out :40300",
        "-server=1 -in=:22 -out=:40300", "-server=T -client=false -in=:22 -out=:40300",
        "-client -client=false -server -in=:22 -out=:40300", "-in=:1 -server -in=:22 -out=:40300",
    ])
    func serverOfTheSeedDocument(_ words: String) throws {
        let settings = try settings(words)
        #expect(settings.configuration.role == .server)
        #expect(settings.configuration.mappings[0].address == HostPort(host: "", port: 22))
        #expect(settings.configuration.output == HostPort(host: "", port: 40300))
        #expect(!settings.printsAddress)
    }

    @Test(arguments: [
        "-client -in=:22999 -out=host9.datacenter.net:40300",
        "--out host9.datacenter.net:40300 --in :22999 --client=true",
    ])
    func clientOfTheSeedDocument(_ words: String) throws {
        let settings = try settings(words)
        #expect(settings.configuration.role == .client)
        #expect(settings.configuration.mappings[0].address == HostPort(host: "", port: 22999))
        #expect(settings.configuration.output == HostPort(host: "host9.datacenter.net", port: 40300))
    }

    @Test func missingListenersGetAFreePort() throws {
        let client = try settings("-client -out=[2001:db8::1]:40300")
        #expect(client.configuration.mappings[0].address == HostPort(host: "127.0.0.1", port: 0))
        #expect(client.configuration.output == HostPort(host: "2001:db8::1", port: 40300))
        #expect(client.printsAddress)
        let server = try settings("-server -in=10.0.0.1:22")
        #expect(server.configuration.output == HostPort(host: "", port: 0))
        #expect(server.printsAddress)
        #expect(try settings("-server -in=:22 -out=127.0.0.1:0").printsAddress)
    }

    @Test func limitsAndDefaults() throws {
        let plain = try settings("-server -in=:22").configuration
        #expect(
            plain.driver == .auto && plain.bufferByteCount == 64 << 20 && plain.memoryByteCount == 1 << 30)
        #expect(plain.holdSeconds == 7 * 86400 && plain.drainSeconds == 10)
        #expect(plain.maximumStreams == 100_000 && plain.maximumSessions == 1024)

        let set = try settings(
            "-server -in=:22 -io=epoll -buffer=2MiB -memory 3mb -hold=1h30m -drain=500ms -max-streams=7 "
                + "-max-sessions=9 -log-format=json -log-level=debug")
        #expect(set.configuration.driver == .epoll)
        #expect(
            set.configuration.bufferByteCount == 2 << 20 && set.configuration.memoryByteCount == 3_000_000)
        #expect(set.configuration.holdSeconds == 5400 && set.configuration.drainSeconds == 1)
        #expect(set.configuration.maximumStreams == 7 && set.configuration.maximumSessions == 9)
        #expect(set.logFormat == .json && set.logLevel == .debug)
    }

    @Test func serversAreAList() throws {
        let one = try settings("-client -out=h:1").configuration
        #expect(one.servers == [HostPort(host: "h", port: 1)] && one.failoverSeconds == 10)
        let several = try settings("-client -out=h:1,[::1]:2,unix:/run/t -failover=3s").configuration
        #expect(several.servers == [HostPort(host: "h", port: 1), HostPort(host: "::1", port: 2), HostPort(path: "/run/t")])
        #expect(several.failoverSeconds == 3)
        #expect(one.carriers == nil)
        #expect(one.threads == 1)
        #expect(try settings("-client -out=h:1 -threads=3").configuration.threads == 3)
        #expect(1...8 ~= (try settings("-client -out=h:1 -threads=auto").configuration.threads))
        #expect(try settings("-client -out=h:1 -carriers=8").configuration.carriers == 8)
        #expect(try settings("-client -out=h:1 -carriers=auto").configuration.carriers == nil)
        // A path may have a comma.
        #expect(try settings("-client -out=unix:/run/a,b").configuration.servers == [HostPort(path: "/run/a,b")])
    }

    @Test func pathsAreAllOrNamed() throws {
        #expect(try settings("-client -out=h:1").configuration.paths == .all)
        #expect(try settings("-client -out=h:1 -paths=usual").configuration.paths == .usual)
        #expect(try settings("-client -out=h:1 -paths=wlan0,wwan0").configuration.paths == .named(["wlan0", "wwan0"]))
        for wrong in ["", "eth0,", "eth0,eth0", "a-name-that-is-too-long", "eth/0"] {
            #expect(throws: CommandError.self) { try settings("-client -out=h:1 -paths=\(wrong)") }
        }
        #expect(throws: CommandError.self) { try settings("-server -in=:22 -paths=eth0") }
    }

    @Test func largeBufferRaisesTheBudgetThatNobodySet() throws {
        #expect(try settings("-server -in=:22 -buffer=2GiB").configuration.memoryByteCount == 2 << 30)
    }

    @Test(
        arguments: [
            ("0", 0), ("65536", 65536), ("1b", 1), ("512KiB", 512 << 10), ("64MiB", 64 << 20),
            ("1GiB", 1 << 30),
            ("2TiB", 2 << 40), ("3KB", 3000), ("3mb", 3_000_000), ("1GB", 1_000_000_000),
            ("", nil), ("MiB", nil), ("1 MiB", nil), ("1MiB2", nil), ("1M", nil), ("0x10", nil), ("+1", nil),
            ("١", nil),
            ("9223372036854775807", Int.max), ("9223372036854775808", nil), ("8796093022208MiB", nil),
        ] as [(String, Int?)])
    func sizes(_ text: String, _ bytes: Int?) { #expect(Quantity.byteCount(text) == bytes) }

    @Test(
        arguments: [
            ("0", 0), ("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("24h", 86_400_000),
            ("7d", 604_800_000),
            ("1h30m", 5_400_000), ("1s500ms", 1500),
            ("", nil), ("10", nil), ("s", nil), ("10 s", nil), ("1.5h", nil), ("-1s", nil), ("1w", nil),
            ("10S", nil),
            ("9223372036854775807d", nil), ("9223372036854775807ms1ms", nil),
        ] as [(String, Int?)])
    func durations(_ text: String, _ milliseconds: Int?) {
        #expect(Quantity.milliseconds(text) == milliseconds)
    }

    /// `GoFlags` checks flags against its own list; a flag in one list only would be a refusal in odd words.
    @Test func bothListsOfFlagsAgree() throws {
        for flag in GoFlag.ofTele where !["h", "help", "version"].contains(flag.name) {
            let word = flag.kind == .toggle ? "--\(flag.name)" : "--\(flag.name)=x"
            #expect(throws: Never.self) { try Tele.parsed([word]) }
        }
        for flag in GoFlag.ofDemo where !["h", "help"].contains(flag.name) {
            #expect(throws: Never.self) { try DemoArguments.parsed(["--\(flag.name)=x"]) }
        }
    }
}
