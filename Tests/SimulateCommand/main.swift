import Glibc
import Simulation

// tele-simulate [--first n] [--seeds n]
var first: UInt64 = 1, count: UInt64 = 1000
var arguments = CommandLine.arguments.dropFirst()
while let name = arguments.popFirst() {
    if name == "--trace" {
        Trace.isOn = true
        continue
    }
    guard let text = arguments.popFirst(), let value = UInt64(text) else { fatalError("usage") }
    if name == "--first" { first = value } else { count = value }
}
let simulation = Simulation()
var failures = 0
var steps = 0, resumes = 0, delivered = 0, worst = 0
for seed in first..<first + count {
    nowRunning = seed
    let report = simulation.run(Plan(seed: seed))
    steps += report.steps
    resumes += report.resumes
    delivered += report.delivered
    worst = max(worst, report.steps)
    if let failure = report.failure {
        print("seed \(seed): \(failure) (step \(report.steps))")
        failures += 1
        if failures > 20 { break }
    }
}
print("\(count) seeds, \(failures) failures, \(steps) steps, \(resumes) resumes, \(delivered) bytes, worst \(worst) steps")
exit(failures == 0 ? 0 : 1)
