import Foundation
import Testing

@testable import Loop

/// An image from scratch has no /etc/hosts (RFC 6761 §6.3).
struct LocalhostTests {
    private let folder = FileManager.default.temporaryDirectory.appendingPathComponent("localhost-\(UUID())")

    private func addresses(_ host: String, hosts: String?, interfaces: String = "00000000000000000000000000000001 01 80 10 80       lo\n") throws -> [String]? {
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let (hostsFile, interfacesFile) = (folder.appendingPathComponent("hosts"), folder.appendingPathComponent("interfaces"))
        try hosts?.write(to: hostsFile, atomically: true, encoding: .utf8)
        try interfaces.write(to: interfacesFile, atomically: true, encoding: .utf8)
        return Localhost.addresses(of: host, port: 22, hosts: hostsFile.path, interfaces: interfacesFile.path)?.map(\.description)
    }

    @Test(arguments: [nil, "", "# 127.0.0.1 localhost\n10.0.0.1 host8\n"])
    func isLoopbackWhereNoFileKnowsIt(hosts: String?) throws {
        #expect(try addresses("localhost", hosts: hosts) == ["127.0.0.1:22", "[::1]:22"])
        #expect(try addresses("LocalHost.", hosts: hosts) == ["127.0.0.1:22", "[::1]:22"])
        #expect(try addresses("localhost", hosts: hosts, interfaces: "") == ["127.0.0.1:22"])
    }

    @Test func isTheSystemsWhereAFileNamesIt() throws {
        #expect(try addresses("localhost", hosts: "10.0.0.1\thost8 localhost # here\n") == nil)
        #expect(try addresses("localhost", hosts: "127.0.0.1 LOCALHOST\n") == nil)
    }

    @Test func noOtherNameIsMeant() throws {
        #expect(try addresses("host8", hosts: nil) == nil)
        #expect(try addresses("127.0.0.1", hosts: nil) == nil)
        #expect(try addresses("localhost.example.com", hosts: nil) == nil)
    }
}
