import Time
import Tunnel

/// How long the oldest of the bytes that wait has waited. Bytes leave in the order in which they came, as far as it matters
/// to a person; remembered is when they came, in at most `countMaximum` steps, so an answer is right to a step's length:
/// 0.1 s at first, more when a backlog lasts.
public struct BacklogAge: Sendable {
    public static let countMaximum = 64
    public static let stepMinimum = Interval.milliseconds(100)

    /// Bytes up to `end` came at `since` or later, behind those of the step before.
    private struct Step {
        var end: UInt64
        let since: Instant
    }

    private var steps: [Step] = []
    private var step = BacklogAge.stepMinimum

    public init() {}

    /// Bytes that have come in all, and bytes that have left. Neither falls.
    public mutating func note(entered: UInt64, left: UInt64, now: Instant) {
        let gone = steps.prefix { $0.end <= left }.count
        if gone > 0 { steps.removeFirst(gone) }
        guard entered > left else {
            step = BacklogAge.stepMinimum
            return
        }
        guard let last = steps.last else { return steps.append(Step(end: entered, since: now)) }
        guard entered > last.end else { return }
        if now < last.since + step {
            steps[steps.count - 1].end = entered
        } else {
            if steps.count == BacklogAge.countMaximum { merge() }
            steps.append(Step(end: entered, since: now))
        }
    }

    /// Two steps become one that began with the first.
    private mutating func merge() {
        steps = stride(from: 0, to: steps.count, by: 2).map { index in
            Step(end: steps[min(index + 1, steps.count - 1)].end, since: steps[index].since)
        }
        step = step * 2
    }

    /// Since when the oldest byte waits; nil: none does.
    public var since: Instant? { steps.first?.since }
}
