import Chance
import Testing
@testable import Control

@Suite struct DestinationTests {
    /// One destination, one spelling.
    @Test(arguments: [
        ("db.example.com", "db.example.com:5432"), ("DB.Example.COM.", "db.example.com:5432"), ("kafka-1", "kafka-1:5432"),
        ("_srv.corp", "_srv.corp:5432"), ("10.2.0.1", "10.2.0.1:5432"), ("::ffff:10.2.0.1", "10.2.0.1:5432"),
        ("[::FFFF:0A02:1]", "10.2.0.1:5432"), ("fd00::1", "[fd00:0:0:0:0:0:0:1]:5432"), ("[2001:db8::]", "[2001:db8:0:0:0:0:0:0]:5432"),
        ("1:2:3:4:5:6:7.8.9.10", "[1:2:3:4:5:6:708:90a]:5432"),
    ])
    func spellingsOfOneDestinationAreEqual(text: String, canonical: String) throws {
        let destination = try #require(Destination(host: text, port: 5432))
        #expect("\(destination)" == canonical)
        #expect(Destination(host: destination.hostText, port: 5432) == destination)
        #expect(Destination.head(of: destination.head) == .whole(destination, byteCount: destination.head.count))
        for count in 0..<destination.head.count { #expect(Destination.head(of: destination.head.prefix(count)) == .incomplete) }
    }

    /// What resolvers and programs read in different ways is no destination.
    @Test(arguments: [
        "", ".", "..", "a..b", "-a.b", "a-.b", "127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "127.0.0.01", "127.0.0.1.", "127.0.0.256",
        "127.0.0", "1.2.3.4.5", "[127.0.0.1]", "[::1", "::1]", "fe80::1%eth0", "[fe80::1%25eth0]", "1::2::3", ":::", "12345::", "1:2:3:4:5:6:7:8:9",
        "::1.2.3", "::ffff:127.0.0.01", "a b", "a\u{0}b", "a/b", "a@b", "a:b", "*", "a_b*", "exämple.de", "a.0x7f", String(repeating: "a", count: 64),
        String(repeating: "a.", count: 127) + "aa",
    ])
    func whatIsAmbiguousIsNone(text: String) { #expect(Destination(host: text, port: 80) == nil) }

    @Test func portZeroIsNone() {
        #expect(Destination(host: "a", port: 0) == nil)
        #expect(Destination(address: [1, 2, 3, 4], port: 0) == nil)
        #expect(Destination(address: [1, 2, 3], port: 1) == nil)
    }

    /// protocol 6.16: a peer writes what it likes.
    @Test func onlyTheOneSpellingIsTakenFromTheWire() {
        for text in ["A", "a.", "::ffff:1.2.3.4", "::1", "[0:0:0:0:0:0:0:1]", "127.1"] {
            let bytes = [UInt8(text.utf8.count)] + Array(text.utf8) + [0, 80]
            #expect(Destination.head(of: bytes) == .invalid, "\(text)")
        }
        #expect(Destination.head(of: [0, 1, 2]) == .invalid)
        #expect(Destination.head(of: [254]) == .invalid)
        #expect(Destination.head(of: [1, 0xff, 0, 80]) == .invalid)
    }

    @Test(arguments: ChanceSetting.seeds(2)) func anyBytesAreRead(seed: UInt64) {
        var chance = Chance(seed: seed)
        for _ in 0..<20_000 {
            let bytes = chance.bytes(chance.within(0...300))
            if case .whole(let destination, let count) = Destination.head(of: bytes) { #expect(Array(bytes.prefix(count)) == destination.head) }
        }
    }
}

@Suite struct DestinationRulesTests {
    private func rules(_ texts: String...) throws -> DestinationRules {
        DestinationRules(try texts.map { try #require(DestinationRules.Rule($0), "\($0)") })
    }

    private func permits(_ rules: DestinationRules, _ host: String, _ port: UInt16, at address: String? = nil) throws -> Bool {
        let destination = try #require(Destination(host: host, port: port))
        guard rules.mayPermit(destination) else { return false }
        guard let address = address ?? { if case .address = destination.host { host } else { nil } }() else { return true }
        return rules.permits(destination, try #require(Destination.address(address)))
    }

    @Test func nothingIsAllowedThatNoRuleNames() throws {
        #expect(!(try permits(rules(), "example.com", 443, at: "93.184.216.34")))
        let some = try rules("db.example.com:5432", "10.2.0.0/16:8000-8100")
        #expect(try permits(some, "db.example.com", 5432, at: "93.184.216.34"))
        #expect(!(try permits(some, "db.example.com", 5433)))
        #expect(!(try permits(some, "xdb.example.com", 5432, at: "93.184.216.34")))
        #expect(!(try permits(some, "db.example.com.evil.org", 5432, at: "93.184.216.34")))
        #expect(try permits(some, "10.2.255.1", 8000))
        #expect(try permits(some, "10.2.255.1", 8100))
        #expect(!(try permits(some, "10.2.255.1", 8101)))
        #expect(!(try permits(some, "10.3.0.1", 8000)))
        // A name may lead into an allowed network, whoever it belongs to.
        #expect(try permits(some, "anything.org", 8000, at: "10.2.0.1"))
        #expect(!(try permits(some, "anything.org", 8000, at: "10.3.0.1")))
    }

    @Test func aStarStandsForAnythingButADot() throws {
        let some = try rules("kafka-*.corp:9092", "*.example.com:443")
        for name in ["kafka-1.corp", "kafka-abc-def.corp"] { #expect(try permits(some, name, 9092, at: "10.0.0.1"), "\(name)") }
        for name in ["kafka.corp", "kafka-1.x.corp", "xkafka-1.corp", "kafka-1.corp.org", "kafka-1"] {
            #expect(!(try permits(some, name, 9092, at: "10.0.0.1")), "\(name)")
        }
        #expect(try permits(some, "www.example.com", 443, at: "1.1.1.1"))
        #expect(!(try permits(some, "example.com", 443, at: "1.1.1.1")))
        #expect(!(try permits(some, "a.b.example.com", 443, at: "1.1.1.1")))
    }

    /// Where a name must not lead, unless a rule names the network.
    @Test(arguments: [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.1.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
        "192.0.0.192", "100.100.100.200", "168.63.129.16", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "fe80::1", "fec0::1",
        "ff02::1", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "2002:7f00:1::", "2002:a00:1::", "2001::1", "fd00:ec2::254",
    ])
    func aNameThatLeadsToASpecialAddressIsRefused(address: String) throws {
        for some in [try rules("*:*"), try rules("www.example.com:80")] {
            #expect(!(try permits(some, "www.example.com", 80, at: address)))
            let bytes = try #require(Destination.address(address))
            #expect(!some.permits(try #require(Destination(address: bytes, port: 80)), bytes))
        }
        let bytes = Destination.unmapped(try #require(Destination.address(address)))
        let named = try #require(Destination(address: bytes, port: 80))
        #expect(try rules("\(named.description.dropLast(3)):80").permits(named, bytes))
    }

    @Test(arguments: ["10.0.0.1", "172.16.0.1", "172.31.255.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "fd12::1", "fc00::1"])
    func aNameLeadsToAPrivateAddressOnlyIfTheRuleNamesItsDomain(address: String) throws {
        #expect(try permits(rules("*.corp:80"), "www.corp", 80, at: address))
        #expect(!(try permits(rules("*:80"), "www.corp", 80, at: address)))
        #expect(!(try permits(rules("www.*:80"), "www.corp", 80, at: address)))
    }

    @Test(arguments: ["8.8.8.8", "172.32.0.1", "100.63.255.255", "2606:4700::1111", "64:ff9b::8.8.8.8", "2002:808:808::"])
    func aNameLeadsToPublicAddresses(address: String) throws { #expect(try permits(rules("*:80"), "www.example.com", 80, at: address)) }

    /// The name server's second answer is judged like its first.
    @Test func anotherAnswerChangesNothing() throws {
        let some = try rules("*:80")
        let destination = try #require(Destination(host: "rebinding.example.com", port: 80))
        #expect(some.permits(destination, [8, 8, 8, 8]))
        #expect(!some.permits(destination, [127, 0, 0, 1]))
        #expect(!some.permits(destination, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1]))
    }

    @Test(arguments: [
        "", ":", "a", "a:", ":80", "a:0", "a:65536", "a:80-", "a:-80", "a:90-80", "a:80-90-100", "a:x", "a:+80", "10.0.0.0/33:80", "10.0.0.0/:80",
        "10.0.0.0/x:80",
        "[fd00::]/129:80", "fd00::/8:80", "[10.0.0.0]/8:80", "a/8:80", "*/8:80", "a b:80", "a..b:80", "[a]:80", "127.1:80", "0x7f.1:80",
    ])
    func whatIsNoRuleIsRefused(text: String) { #expect(DestinationRules.Rule(text) == nil) }

    @Test func networksHaveAnyLength() throws {
        #expect(try permits(rules("0.0.0.0/0:80"), "127.0.0.1", 80))
        #expect(try permits(rules("[::]/0:80"), "::1", 80))
        #expect(!(try permits(rules("[::]/0:80"), "127.0.0.1", 80)))
        #expect(try permits(rules("10.2.3.4/31:80"), "10.2.3.5", 80))
        #expect(!(try permits(rules("10.2.3.4/31:80"), "10.2.3.6", 80)))
        #expect(try permits(rules("10.2.3.4:*"), "10.2.3.4", 65535))
    }
}
