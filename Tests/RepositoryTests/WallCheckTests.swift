import Testing

/// The check can fail: each way around a wall, built here, is found.
struct WallCheckTests {
    static let manifest = """
        let package = Package(
            name: "x",
            targets: [
                cLayer("CLow", at: "Sources/C/Low", links: ":a.a"),  // A word, "and" a bracket ]
                cLayer("CHigh", at: "Sources/C/High"),
                layer("Low", at: "Sources/Low"),
                layer("Wire", at: "Sources/Wire"),
                layer("High", at: "Sources/High", knows: ["Low", "CLow"],
                      uses: [.product(name: "Logging", package: "swift-log")]),
                .executableTarget(
                    name: "tool", dependencies: ["High", .product(name: "Parser", package: "p")],
                    path: "Sources/tool", swiftSettings: swift),
                tests("LowTests", of: ["Low"]),
            ],
            cLanguageStandard: .gnu17
        )
        """

    private func violations(_ path: String, _ text: String) throws -> [String] {
        let files = [
            Repository.File(path: path, text: text),
            Repository.File(path: "Sources/C/Low/include/CLow.h", text: ""),
            Repository.File(path: "Sources/C/Low/inner.h", text: ""),
            Repository.File(path: "Sources/C/High/include/CHigh.h", text: ""),
        ]
        return Walls(manifest: try Manifest(WallCheckTests.manifest), files: files).violations()
    }

    @Test func theManifestIsReadWhole() throws {
        #expect(
            try Manifest(WallCheckTests.manifest).targets == [
                .init(name: "CLow", path: "Sources/C/Low", knows: [], isTest: false),
                .init(name: "CHigh", path: "Sources/C/High", knows: [], isTest: false),
                .init(name: "Low", path: "Sources/Low", knows: [], isTest: false),
                .init(name: "Wire", path: "Sources/Wire", knows: [], isTest: false),
                .init(name: "High", path: "Sources/High", knows: ["Low", "CLow", "Logging"], isTest: false),
                .init(name: "tool", path: "Sources/tool", knows: ["High", "Parser"], isTest: false),
                .init(name: "LowTests", path: "Tests/LowTests", knows: ["Low"], isTest: true),
            ])
    }

    @Test(arguments: [
        "targets: []", "    targets: [ other(\"A\") ]", "    targets: [ layer(name) ]",
        "    targets: [ layer(\"A\", at: \"B\", knows: those) ]",
    ])
    func aManifestOfAnotherFormIsNotGuessedAt(_ text: String) {
        #expect(throws: Manifest.Unreadable.self) { try Manifest(text) }
    }

    @Test(arguments: [
        "import High", "  import High", "@testable import High", "@_exported public import High",
        "internal import struct High.Thing", "import Low; import High", "import High.Sub",
        "import Foundation", "import Logging", "import CLow", "import Testing",
    ])
    func anUndeclaredImportIsFound(_ line: String) throws {
        #expect(try violations("Sources/Low/A.swift", "import Glibc\n\(line)\n").count == 1)
    }

    @Test(arguments: [
        "import Low", "import Glibc", "import Synchronization", "// import High", "/* a\nimport High\n*/",
        "let important = 1", "let words = \"a; import High\"",
    ])
    func whatIsAllowedIsNot(_ line: String) throws {
        #expect(try violations("Sources/Low/A.swift", line) == [])
    }

    @Test func whatIsDeclaredMayBeImported() throws {
        #expect(try violations("Sources/High/In/A.swift", "import Low\nimport CLow\nimport Logging\n") == [])
        #expect(try violations("Tests/LowTests/A.swift", "import Testing\nimport Foundation\n@testable import Low") == [])
        #expect(try violations("Tests/LowTests/A.swift", "import High").count == 1)
    }

    @Test func thePureLayersGetNoSystem() throws {
        #expect(
            try violations("Sources/Wire/A.swift", "import Glibc")
                == ["Sources/Wire/A.swift imports Glibc, which Wire does not declare"])
    }

    @Test(arguments: [
        "#include \"CLow.h\"", "#include <CLow.h>", "#include \"../Low/inner.h\"", "# include \"inner.h\"",
        "#include \"missing.h\"",
    ])
    func aForeignHeaderIsFound(_ line: String) throws {
        #expect(try violations("Sources/C/High/a.c", "#include <stdint.h>\n\(line)\n").count == 1)
    }

    @Test(arguments: ["#include \"CLow.h\"", "#include \"inner.h\"", "#include <CLow.h>", "#include <sys/mman.h>"])
    func anOwnHeaderIsNot(_ line: String) throws {
        #expect(try violations("Sources/C/Low/a.c", line) == [])
    }

    @Test func aFileOutsideEveryTargetIsFound() throws {
        #expect(try violations("Sources/Stray/A.swift", "") == ["Sources/Stray/A.swift belongs to no target"])
    }
}
