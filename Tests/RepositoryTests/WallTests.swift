import Testing

/// The walls between the rooms hold. `swift build` alone does not see an undeclared import of a sibling module.
struct WallTests {
    let repository: Repository
    let manifest: Manifest

    init() throws {
        repository = try Repository()
        manifest = try Manifest(try #require(repository.file("Package.swift")).text)
    }

    @Test func nobodyImportsWhatItsTargetDoesNotDeclare() {
        let violations = Walls(manifest: manifest, files: repository.files).violations()
        #expect(violations.isEmpty, "\(violations.joined(separator: "\n"))")
    }

    // MARK: The layers themselves

    private func knows(_ name: String) throws -> Set<String> {
        try #require(manifest.targets.first { $0.name == name }, "no target \(name)").knows
    }

    @Test func wireAndTunnelKnowNothingOfSockets() throws {
        #expect(try knows("Wire") == [])
        #expect(try knows("State") == [])
        #expect(try knows("Tunnel") == ["Time", "Wire", "State"])
    }

    @Test func theLoopHasNeverHeardOfATunnel() throws {
        let loop = try knows("Loop")
        #expect(loop.contains("CRing"))
        #expect(loop.isDisjoint(with: ["Time", "Wire", "Tunnel", "Relay", "Logging"]))
    }

    @Test func onlyTheRelayJoinsTheRooms() throws {
        let relay = try knows("Relay")
        #expect(relay.isSuperset(of: ["Wire", "Tunnel", "Loop", "CSlab"]))
        #expect(try knows("tele").isDisjoint(with: ["Wire", "Tunnel", "CRing", "CSlab"]))
        for target in manifest.targets where target.path.hasPrefix("Sources/") && target.name != "Relay" {
            #expect(!target.knows.isSuperset(of: ["Tunnel", "Loop"]), "\(target.name) joins rooms too")
        }
    }

    /// A target knows only targets that stand above it in the list: the file reads from the ground up.
    @Test func layersLieOnEachOther() {
        let names = manifest.targets.map(\.name)
        for (place, target) in manifest.targets.enumerated() where target.path.hasPrefix("Sources/") {
            for known in target.knows {
                guard let other = names.firstIndex(of: known) else { continue }  // A product of another package.
                #expect(other < place, "\(target.name) knows \(known), which stands below it")
                #expect(manifest.targets[other].path.hasPrefix("Sources/"), "\(target.name) knows a part of the tests")
            }
        }
    }

    @Test func theCLayersKnowNothing() {
        let layers = manifest.targets.filter { $0.path.hasPrefix("Sources/CRing/") }
        #expect(Set(layers.map(\.name)).isSuperset(of: ["CRing", "CSlab"]))
        for layer in layers { #expect(layer.knows.isEmpty, "\(layer.name) knows \(layer.knows)") }
    }

    @Test func everyTargetHasAFolderOfItsOwn() {
        #expect(Set(manifest.targets.map(\.path)).count == manifest.targets.count)
        for target in manifest.targets {
            let holdsCode = repository.files.contains {
                $0.path.hasPrefix(target.path + "/") && ($0.path.hasSuffix(".swift") || $0.path.hasSuffix(".c") || $0.path.hasSuffix(".cpp"))
            }
            #expect(holdsCode, "\(target.name) has no sources at \(target.path)")
        }
    }
}
