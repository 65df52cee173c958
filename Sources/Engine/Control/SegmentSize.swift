/// Whether connections shall use small segments. Some paths drop packets of full size without a word to the sender (RFC 2923 §2.1):
/// connects and everything short get through, bulk never does, and TCP needs many seconds to find out, if it is told to look at all
/// (tcp(7), tcp_mtu_probing). A client sees carriers that are welcomed and then carry nothing, or handshakes without an answer.
struct SegmentSize {
    /// In a row: carriers that answered nothing, and attempts that were connected and not welcomed.
    private var fruitless = 0
    private var unanswered = 0
    private(set) var isSmall = false

    var limit: Int32? { isSmall ? DialPolicy.smallSegmentByteCount : nil }

    /// A carrier was suspected that had answered nothing.
    mutating func handleFruitless() {
        fruitless += 1
        if fruitless >= DialPolicy.fruitlessMaximum { isSmall = true }
    }

    /// An attempt was given up whose connect was answered, and no more.
    mutating func handleUnanswered() {
        unanswered += 1
        if unanswered >= DialPolicy.unansweredInRowMaximum { isSmall = true }
    }

    /// The size that is in use works. It stays until the way to the server is another one: to try a larger one would cost an outage.
    mutating func handleAnswered() { fruitless = 0 }
    mutating func handleWon() { unanswered = 0 }
}
