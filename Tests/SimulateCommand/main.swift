import Glibc
import Simulation
#if CANARIES
import Tunnel
#endif

// Runs many seeds and prints those that fail; a seed replays bit for bit.

let usage = """
    usage: tele-simulate [--first SEED] [--seeds COUNT] [--story NUMBER] [--liars | --states | --sweep] [--trace]
        --first   the first seed, 1 unless told
        --seeds   how many seeds to run, 1000 unless told
        --story   the number of a story, 1 to \(Plan.Story.allCases.count - 1); each seed chooses, unless told
        --liars   one side of each run lies about its bytes
        --states  programs are taken over again and again, with states that were changed: refused, or anything but a trap
        --sweep   instead of seeds: a small conversation, whose carriers die at every byte; --seeds 1 does so in one way at each byte, 5 in
                  all of them
        --trace   print every step
        --canary  with a build of -DCANARIES: the number of the defect

    """

func fail() -> Never {
    _ = usage.withCString { write(2, $0, strlen($0)) }
    exit(64)
}

// A seed replays only where sets and dictionaries have the same order in each run.
let hashing = "SWIFT_DETERMINISTIC_HASHING"
if getenv(hashing) == nil {
    setenv(hashing, "1", 1)
    var words: [UnsafeMutablePointer<CChar>?] = CommandLine.arguments.map { strdup($0) }
    words.append(nil)
    execv("/proc/self/exe", words)
}

var first: UInt64 = 1, count: UInt64 = 1000
var withLiars = false, sweeps = false, spoilsStates = false
var story: Plan.Story?
var arguments = CommandLine.arguments.dropFirst()
while let name = arguments.popFirst() {
    switch name {
    case "--trace":
        Trace.isOn = true
        continue
    case "--liars":
        withLiars = true
        continue
    case "--sweep":
        sweeps = true
        continue
    case "--states":
        spoilsStates = true
        continue
    default:
        break
    }
    guard let text = arguments.popFirst(), let value = UInt64(text) else {
        fail()
    }
    switch name {
    case "--first": first = value
    case "--seeds": count = value
    case "--story":
        guard let known = Plan.Story(rawValue: Int(clamping: value)), known != .mixed else { fail() }
        story = known
    #if CANARIES
    case "--canary": Canary.selected = Canary(rawValue: Int(value))
    #endif
    default: fail()
    }
}

guard let simulation = Simulation() else {
    print("tele-simulate: this build has no virtual kernel; build it with -Xcc -DSIMULATION")
    exit(78)
}
if sweeps { exit(Sweep(waysPerByte: Int(clamping: count)).run(simulation) ? 0 : 1) }
var campaign = Campaign(first: first, count: count)
campaign.story = story
campaign.withLiars = withLiars
campaign.spoilsStates = spoilsStates
if spoilsStates { campaign.story = story ?? .takeovers }
#if CANARIES
// One failure shows that it is seen.
if Canary.selected != nil { campaign.failuresMaximum = 1 }
#endif
exit(campaign.run(simulation) ? 0 : 1)
