import Loop
import Relay

/// What `tele demo` was asked for, read and checked.
struct DemoSettings {
    /// About how long everything takes.
    var seconds = 20
    var io = Loop.Driver.auto.rawValue
    /// The kinds of fault, in turn. Empty: none.
    var faults = Fault.Kind.allCases
    /// The tele that is shown.
    var binary = Child.ownBinary

    init(_ arguments: DemoArguments) throws(CommandError) {
        if let count = try Settings.count(arguments.seconds, "seconds", 5, 3600, "5 to 3600") {
            seconds = count
        }
        if let driver = try Settings.choice(arguments.io, "io", among: Loop.Driver.self) {
            io = driver.rawValue
        }
        if let faults = arguments.faults { self.faults = try DemoSettings.kinds(faults) }
        if let binary = arguments.binary { self.binary = binary }
    }

    /// How long bytes are sent; the rest is for starting and for what is still on the way.
    var sendingSeconds: Double { Double(seconds) - 2 }

    private static func kinds(_ text: String) throws(CommandError) -> [Fault.Kind] {
        if text == "none" { return [] }
        var kinds: [Fault.Kind] = []
        for word in text.split(separator: ",", omittingEmptySubsequences: false) {
            guard let kind = Fault.Kind(rawValue: String(word)) else {
                throw CommandError(
                    "-faults cannot contain \(quoted(String(word)))",
                    hint: "-faults is none, or some of blackhole,reset,stall")
            }
            kinds.append(kind)
        }
        return kinds
    }
}
