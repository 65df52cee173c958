/// The reader's position inside a frame of the byte sequence: at its start, or in the payload of a DATA frame.
struct Reading: Equatable {
    var stream: UInt64 = 0
    var payloadRemaining = 0

    static let betweenFrames = Reading()
}

/// Reading one carrier: the session offset of its next sequenced byte, and the place inside the frame there.
///
/// After a resume the peer replays from an offset that may lie behind what has been received meanwhile; bytes below
/// the session's `received` are read and dropped. A copy of this struct, taken when HELLO is sent, is all that a new
/// carrier needs to take over.
public struct Reception: Equatable {
    var position: UInt64
    var reading: Reading
    /// Sequenced bytes of an early replay that come first, are known already and are dropped unread.
    var skip: UInt64 = 0
}
