/// What a session knows of its carrier. Times are nanoseconds on `Clock`.
///
///     detached ──a carrier is accepted──▶ attached ──no answer in time──▶ in doubt ──the path works, or for too long──▶ suspected
///        ▲                                   ▲                              └─────────────any answer────────────┐           │
///        │                                   └──────────────────────────────────────────────────────────────────┴───────────┘
///        └──────────────────────────the carrier is lost, from any of them
enum Link: Equatable {
    case detached(since: UInt64)
    case attached
    /// Silent where it should answer: a connect beside it will tell.
    case inDoubt
    case suspected(since: UInt64)

    /// Since when the session's users may see slowness. Nil: they do not.
    var downSince: UInt64? {
        switch self {
        case .detached(let since), .suspected(let since): since
        case .attached, .inDoubt: nil
        }
    }

    var hasCarrier: Bool { if case .detached = self { false } else { true } }
    var isDown: Bool { downSince != nil }
}
