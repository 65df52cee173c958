import Glibc

/// What lies between a carrier's socket and its bytes. Plain: nothing; the kernel reads and writes the session's bytes
/// where they lie.
///
/// A carrier receives into `target`, says how much came, and reads plain bytes from its block; it hands plain bytes over
/// and is told how many of them the other side's kernel was given. TLS keeps its records here, and nowhere else.
enum Transport {
    case plain

    /// Where the kernel writes what arrives, of a block with `room` free.
    func target(_ room: UnsafeMutableRawBufferPointer) -> UnsafeMutableRawBufferPointer {
        switch self {
        case .plain: room
        }
    }

    /// `count` bytes arrived at the target: so many bytes can be read now.
    func opened(_ count: Int) -> Int {
        switch self {
        case .plain: count
        }
    }

    /// Of a send of `iovecs`, the kernel took `count` bytes: so many plain bytes have left.
    func sealed(_ count: Int) -> Int {
        switch self {
        case .plain: count
        }
    }
}
