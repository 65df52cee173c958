import Wire

/// What a decoder said about some bytes.
enum Outcome<Value: Equatable>: Equatable {
    case value(Value, byteCount: Int)
    /// More bytes are needed.
    case incomplete
    /// The rule that the bytes break.
    case fault(String)
}

extension ProtocolFault {
    var sentence: String { rule.description }
}
