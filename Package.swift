// swift-tools-version: 6.2
import PackageDescription

let swift: [SwiftSetting] = [.treatAllWarnings(as: .error), .swiftLanguageMode(.v6)]

// Access to stored properties of classes is checked for exclusiveness in debug builds, where the tests run; in a release the checks
// would be a third of the instructions of a round trip (Perf/instructions).
let unchecked: [SwiftSetting] = [.unsafeFlags(["-enforce-exclusivity=unchecked"], .when(configuration: .release))]

// AES on the processor's vectors, which only this architecture has.
#if arch(x86_64)
let vectors = [":libIPSec_MB.a"]
#else
let vectors: [String] = []
#endif

// The whole architecture, from the ground up. A layer may import what it `knows`, and nothing else;
// Tests/RepositoryTests checks that no import goes around this list.
let package = Package(
    name: "tele",
    products: [.executable(name: "tele", targets: ["tele"])],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
    ],
    targets: [
        cLayer("CRing", at: "Sources/CRing/Ring", links: [":liburing.a"]),
        cLayer("CSlab", at: "Sources/CRing/Slab"),
        cLayer("CSystem", at: "Sources/CRing/System"),
        cLayer("CKeeper", at: "Sources/CRing/Keeper"),
        cLayer("CProof", at: "Sources/CRing/Proof", links: [":libcrypto.a"]),
        cLayer("CTOML", at: "Sources/CRing/TOML"),
        cLayer("CTLS", at: "Sources/CRing/TLS", links: [":libssl.a", ":libcrypto.a"] + vectors),

        layer("Wire", at: "Sources/Engine/Wire"),
        layer("Time", at: "Sources/Engine/Time"),
        layer("State", at: "Sources/Engine/State"),
        layer("Tunnel", at: "Sources/Engine/Tunnel", knows: ["Time", "Wire", "State"]),
        layer("Control", at: "Sources/Engine/Control", knows: ["Time", "Wire", "State", "Tunnel"]),
        layer("Loop", at: "Sources/Engine/Loop", knows: ["CRing", "CSystem", "CKeeper"], settings: unchecked),
        layer(
            "Relay", at: "Sources/Engine/Relay", knows: ["Time", "Wire", "State", "Tunnel", "Control", "Loop", "CSlab", "CProof", "CTLS"],
            uses: [
                .product(name: "Logging", package: "swift-log"),
                .product(name: "Histogram", package: "hdrhistogram-swift"),
            ], settings: unchecked),

        .executableTarget(
            name: "tele",
            dependencies: [
                "Relay", "Loop", "CTOML",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ], path: "Sources/tele", swiftSettings: swift),

        .target(name: "Chance", path: "Tests/Support/Chance", swiftSettings: swift),
        tests("RingTests", of: ["CRing", "CSeccomp", "Chance"]),
        tests("SlabTests", of: ["CSlab", "Chance"]),
        tests("WireTests", of: ["Wire", "Chance"]),
        tests("StateTests", of: ["State", "Chance"]),
        tests("TunnelTests", of: ["Tunnel", "Wire", "Time"]),
        tests("LoopTests", of: ["Loop"]),
        tests("TOMLTests", of: ["CTOML"]),
        tests("TLSTests", of: ["CTLS"]),
        tests("RelayTests", of: ["Relay", "Tunnel", "Wire", "Time", "Loop", "CRing", "CSlab", .product(name: "Logging", package: "swift-log")]),
        tests("ControlTests", of: ["Control", "Tunnel", "Wire", "Time", "Chance"]),
        tests("RepositoryTests", of: []),
        .target(
            name: "CSeccomp", path: "Tests/Support/CSeccomp", publicHeadersPath: "include",
            cSettings: [.treatAllWarnings(as: .error), .define("_GNU_SOURCE")]),
        .executableTarget(name: "tele-stand-in", path: "Tests/StandIn", swiftSettings: swift),

        // Whole processes on a virtual kernel, and long campaigns of them from the command line.
        .target(
            name: "Simulation",
            dependencies: [
                "Chance", "State", "Tunnel", "Wire", "Loop", "Relay", "Control", "CRing", "CSlab", "CSystem",
                .product(name: "Logging", package: "swift-log"),
            ], path: "Tests/Simulation",
            exclude: ["build", "canaries"], swiftSettings: swift),
        tests("SimulationTests", of: ["Simulation", "Wire"]),
        .executableTarget(
            name: "tele-simulate", dependencies: ["Simulation", "Tunnel"], path: "Tests/SimulateCommand",
            swiftSettings: swift),
        tests(
            "CommandTests",
            of: [
                "tele", "tele-stand-in", "Relay", "Loop",
                .product(name: "Logging", package: "swift-log"),
            ]),
    ],
    cLanguageStandard: .gnu17,
    cxxLanguageStandard: .cxx17
)

func layer(
    _ name: String, at path: String, knows: [Target.Dependency] = [],
    uses: [Target.Dependency] = [], settings: [SwiftSetting] = []
) -> Target {
    .target(name: name, dependencies: knows + uses, path: path, swiftSettings: swift + settings)
}

func cLayer(_ name: String, at path: String, links libraries: [String] = []) -> Target {
    .target(
        name: name, path: path, publicHeadersPath: "include",
        cSettings: [
            .treatAllWarnings(as: .error), .define("_GNU_SOURCE"),
            .define("RING_FAULTS", .when(configuration: .debug)),
            .define("SIMULATION", .when(configuration: .debug)),
        ],
        cxxSettings: [.treatAllWarnings(as: .error)],
        linkerSettings: libraries.map { .linkedLibrary($0) })
}

func tests(_ name: String, of layers: [Target.Dependency]) -> Target {
    .testTarget(name: name, dependencies: layers, path: "Tests/\(name)", swiftSettings: swift)
}
