import Glibc
import Loop
import Relay
import Testing

@testable import tele

@Suite struct ConfigurationFileTests {
    static let client = """
        [client]
        out = "host9:40300"
        buffer = "8MiB"
        max-streams = 200
        require-key = false

        [client.listen]
        ssh = "127.0.0.1:22999"
        kafka = { address = "127.0.0.1:9092", proxy-protocol = true }
        db = "unix:/run/db"
        """
    static let server = """
        [server]
        out = ":40300"
        allow = ["a", "b"]
        cert = "c.pem"
        cert-key = "k.pem"
        ca = "a.pem"

        [server.origins]
        ssh = "localhost:22"
        """

    /// Written to a file, read as the command would.
    private func settings(_ text: String, _ flags: [String] = []) throws -> Settings {
        let path = "/tmp/tele-configuration-\(getpid())-\(UInt32.random(in: 0 ... .max)).toml"
        let file = try #require(fopen(path, "w"))
        fputs(text, file)
        fclose(file)
        defer { unlink(path) }
        return try Settings.read(["--config=\(path)"] + flags)
    }

    @Test func aClientHasItsMappingsAndFlags() throws {
        let configuration = try settings(ConfigurationFileTests.client).configuration
        #expect(configuration.role == .client)
        #expect(configuration.output == HostPort(host: "host9", port: 40300))
        #expect(configuration.bufferByteCount == 8 << 20 && configuration.maximumStreams == 200)
        #expect(
            configuration.mappings == [
                Mapping(name: "ssh", address: HostPort(host: "127.0.0.1", port: 22999)),
                Mapping(name: "kafka", address: HostPort(host: "127.0.0.1", port: 9092), tellsAddress: true),
                Mapping(name: "db", address: HostPort(path: "/run/db")),
            ])
    }

    @Test func serversAreAList() throws {
        let client = try settings("[client]\nout = [\"a:1\", \"b:2\"]\nfailover = \"3s\"\n[client.listen]\nssh = \"localhost:22\"").configuration
        #expect(client.servers == [HostPort(host: "a", port: 1), HostPort(host: "b", port: 2)] && client.failoverSeconds == 3)
        #expect(throws: CommandError.self) { try settings("[client]\nout = []\n[client.listen]\nssh = \"localhost:22\"") }
        #expect(throws: CommandError.self) { try settings("[server]\nout = [\":1\", \":2\"]\nin = \":22\"") }
    }

    /// Users of the server's listeners, and origins beside the client; both directions in one file.
    @Test func reverseMappingsHaveTheOtherTable() throws {
        let server = try settings(
            """
            [server]
            out = ":40300"
            key = "k"
            refuse-after = "30s"
            [server.origins]
            ssh = ":22"
            [server.listen]
            ssh = { address = ":2222", proxy-protocol = true, refuse-after = "never" }
            web = ":8080"
            [server.clients.pi]
            listeners = ["web"]
            """
        ).configuration
        var ssh = Mapping(name: "ssh", address: HostPort(host: "", port: 2222), tellsAddress: true)
        ssh.refuseAfterSeconds = .max
        var web = Mapping(name: "web", address: HostPort(host: "", port: 8080))
        web.refuseAfterSeconds = 30
        #expect(server.reverseMappings == [ssh, web])
        #expect(server.mappings == [Mapping(name: "ssh", address: HostPort(host: "", port: 22))])
        let client = try settings("[client]\nout = \"h:1\"\n[client.origins]\nweb = \"localhost:80\"").configuration
        #expect(client.reverseMappings == [Mapping(name: "web", address: HostPort(host: "localhost", port: 80))])
        #expect(client.mappings.isEmpty)
    }

    @Test func aServerHasItsOriginsAndNames() throws {
        let configuration = try settings(ConfigurationFileTests.server).configuration
        #expect(configuration.role == .server)
        #expect(configuration.security == .certificates(chain: "c.pem", key: "k.pem", authority: "a.pem", allowed: ["a", "b"]))
        #expect(configuration.mappings == [Mapping(name: "ssh", address: HostPort(host: "localhost", port: 22))])
    }

    @Test func theCommandLineCountsMore() throws {
        let configuration = try settings(ConfigurationFileTests.client, ["--buffer=2MiB", "--in=:5000"]).configuration
        #expect(configuration.bufferByteCount == 2 << 20)
        #expect(configuration.mappings.first == Mapping(address: HostPort(host: "", port: 5000)))
        #expect(configuration.mappings.count == 4)
    }

    @Test func aFileForBothSidesIsToldWhich() throws {
        let both = ConfigurationFileTests.client + "\n" + ConfigurationFileTests.server
        #expect(throws: CommandError.self) { try settings(both) }
        #expect(try settings(both, ["--server"]).configuration.role == .server)
        #expect(try settings(both, ["--client"]).configuration.role == .client)
    }

    @Test func sectionsMayComeInAnyOrder() throws {
        let text = "[client.listen.web]\naddress = \":8080\"\n[client]\nproxy-protocol = true\nout = \"h:1\"\n[client.listen]\nssh.address = \":22\"\n"
        #expect(
            try settings(text).configuration.mappings == [
                Mapping(name: "web", address: HostPort(host: "", port: 8080), tellsAddress: true),
                Mapping(name: "ssh", address: HostPort(host: "", port: 22), tellsAddress: true),
            ])
    }

    /// Each mistake: its line, a part of the sentence, a part of the hint.
    @Test(
        arguments: [
            ("[client]\nout = \"h:1\"\nbufer = 1", 3, "there is no key bufer in [client]", "did you mean buffer?"),
            (
                "[client]\nout = \"h:1\"\n[client.listen]\na = { address = \":1\", kind = \"sock\" }", 4, "\"sock\" is not a kind of listener",
                "the kinds are fixed"
            ),
            (
                "[client]\nout = \"h:1\"\n[client.listen]\nk = { names = [\"10.0.0.1:9092\"] }", 4, "\"10.0.0.1:9092\" is not NAME:PORT",
                "write the name that the cluster"
            ),
            (
                "[client]\nout = \"h:1\"\n[client.listen]\nk = { names = [] }", 4, "k has names, and an address or kind besides, or no names",
                "write k = { names"
            ),
            (
                "[client]\nout = \"h:1\"\n[client.listen]\nk = { names = [\"a{3..1}:1\"] }", 4, "\"a{3..1}:1\" has a range that is not understood",
                "write {1..3}, once in a name"
            ),
            (
                "[client]\nout = \"h:1\"\n[client.listen]\nk = { names = [\"a{1..2}b{1..2}:1\"] }", 4, "has a range that is not understood",
                "write {1..3}, once in a name"
            ),
            ("[client]\nout = \"h:1\"\n[client.listen]\nk = { names = [\"a{1,3}:1\"] }", 4, "has a range that is not understood", "write {1..3}"),
            ("[client]\nout = \"h:1\"\n[client.listen]\nk = { address = \":1\", names = [\"a:1\"] }", 4, "k has names, and an address", "write k = { names"),
            (
                "[client]\nout = \"h:1\"\n[client.listen]\nk = { names = [\"a:1\"], loopback = \"10.0.0.1\" }", 4, "\"10.0.0.1\" is no address of 127.0.0.0/8",
                "write loopback"
            ),
            (
                "[client]\nout = \"h:1\"\n[client.listen]\nk = { names = [\"a:1\", \"b:1\"], loopback = \"127.255.255.255\" }", 4,
                "no loopback address is left for b:1", "write a lower"
            ),
            ("[client]\nout = \"h:1\"\n[client.listen]\nk = { names = \"a:1\" }", 4, "names is a list of strings", "write { address"),
            ("[server]\ndestinations = [\"a\"]", 2, "destinations has \"a\", which is not HOST:PORT", "write a name"),
            ("[server]\nin = \":22\"\n[server.clients.bob]\nmappings = []", 3, "clients have names only with keys or certificates", "set key"),
            (
                "[server]\nkey = \"k\"\n[server.origins]\nssh = \":22\"\n[server.clients.bob]\nmappings = [\"shh\"]", 6, "there is no origin \"shh\"",
                "did you mean ssh?"
            ),
            ("[server]\nkey = \"k\"\nin = \":22\"\n[server.clients.bob]\nmapping = [\"ssh\"]", 5, "a client has no key mapping", "did you mean mappings?"),
            (
                "[server]\nkey = \"k\"\nin = \":22\"\n[server.clients.bob]\nmappings = \"ssh\"", 5, "mappings is a list of strings",
                "write [server.clients.NAME]"
            ),
            ("[server]\nkey = \"k\"\nin = \":22\"\n[server.clients.bob]\ndestinations = [\"a\"]", 5, "\"a\" is not HOST:PORT", "write a name"),
            (
                "[server]\nkey = \"k\"\nin = \":22\"\n[server.listen]\nweb = \":80\"\n[server.clients.bob]\nlisteners = [\"wbe\"]", 7,
                "there is no listener \"wbe\"", "did you mean web?"
            ),
            ("[server]\nin = \":22\"\n[server.listen]\nweb = { address = \":80\", kind = \"socks5\" }", 4, "kind is a string, in [client.listen]", "write"),
            ("[client]\nout = \"h:1\"\n[client.origins]\nweb = { address = \":80\", mode = \"0660\" }", 4, "mode is a string, where users connect", "write"),
            ("[client]\nout = \"h:1\"\n[client.origins]\nweb = \":0\"", 4, "\":0\" has port 0, which cannot be dialled", "write the port"),
            ("[server]\nin = \":22\"\n[server.listen]\nweb = \":80\"\nshop = \":80\"", 5, "shop and web listen on the same address", "give each its own"),
            (
                "[server]\nkey = \"k\"\nin = \":22\"\n[server.clients.bob]\nstreams = 0", 5, "streams is a number from 1 to 1000000", "write streams = 100"
            ),
            ("[server]\nkey = \"k\"\nin = \":22\"\nclients = 3", 4, "clients holds a table for each client", "write [server.clients.NAME]"),
            ("[client]\nout = \"h:1\"\nfrobnicate = 1", 3, "there is no key frobnicate", "the keys are the flags"),
            ("[clent]\nout = \"h:1\"", 1, "there is no section [clent]", "did you mean client?"),
            ("client = 1", 1, "client is a section", "write [client]"),
            ("", 0, "has no section", "begin it with [client] or [server]"),
            ("[client]\nout = h:1", 2, "this is no TOML", "double quotes"),
            ("[client]\nout = \"h:1\"\nout = \"h:2\"", 3, "this is no TOML", ""),
            ("[client]\nout = \"h\"", 2, "out=h has no port", "write HOST:PORT"),
            ("[client]\nout = \"h:0\"", 2, "out=h:0 has port 0", ""),
            ("[client]\nout = true", 2, "out has a value of a kind that it does not take", "write out = \"host:40300\""),
            ("[client]\nout = \"h:1\"\nbuffer = \"8 parsecs\"", 3, "buffer cannot be \"8 parsecs\"", "write bytes or a unit"),
            ("[client]\nout = \"h:1\"\nbuffer = 1", 3, "buffer=1 is out of range", "buffer takes 1MiB to 16GiB"),
            ("[client]\nout = \"h:1\"\nrequire-key = \"yes\"", 3, "require-key is true or false", "require-key = true"),
            ("[client]\nout = \"h:1\"\nmax-sessions = 3", 3, "max-sessions is a flag of the server", ""),
            ("[client]\nout = \"h:1\"\nio = \"kqueue\"", 3, "io cannot be \"kqueue\"", "io is auto, uring or epoll"),
            ("[client]\nout = \"h:1\"\n[client.listen]\nssh = 22", 4, "a mapping is a name and an address", "[client.listen]"),
            ("[client]\nout = \"h:1\"\n[client.listen]\nssh = \"localhost\"", 4, "\"localhost\" has no port", ""),
            ("[client]\nout = \"h:1\"\n[client.listen]\n\"a b\" = \":1\"", 4, "a mapping cannot be called \"a b\"", "letters"),
            ("[client]\nout = \"h:1\"\n[client.listen]\na = \":1\"\nb = \":1\"", 5, "b and a listen on the same address", ""),
            ("[client]\nout = \"h:1\"\n[client.listen]\na = { adress = \":1\" }", 4, "a mapping has no key adress", "did you mean address?"),
            ("[client]\nout = \"h:1\"\n[client.listen]\na = {}", 4, "a has no port", ""),
            ("[client]\nout = \"h:1\"\n[client.origin]\na = \":1\"", 3, "there is no key origin in [client]", "did you mean origins?"),
            ("[server]\n[server.origins]\na = { address = \":1\", proxy-protocol = true }", 3, "where users connect", ""),
            ("[server]\n[server.origins]\na = \":0\"", 3, "has port 0", ""),
            ("[server]\n[server.origins]\na = \"unix:run/x\"", 3, "needs an absolute path", ""),
            ("[client]\nout = \"h:1\"\nkey = \"k\"\nallow = [\"a\"]", 3, "key and certificates are both given", "take one of them"),
        ] as [(String, Int, String, String)])
    func aMistakeIsASentenceWithItsLine(_ text: String, _ line: Int, _ sentence: String, _ hint: String) throws {
        do {
            _ = try settings(text)
            Issue.record("\(text) was taken")
        } catch let fault as CommandError {
            #expect(fault.sentence.contains(sentence) && fault.hint.contains(hint), "\(fault)")
            if line > 0 { #expect(fault.sentence.contains(".toml:\(line): "), "\(fault)") }
            #expect(!fault.sentence.hasSuffix("."))
        }
    }

    @Test func aFileThatIsNotThereIsAFault() {
        #expect(throws: CommandError.self) { try Settings.read(["--config=/nowhere/x.toml"]) }
    }
}
