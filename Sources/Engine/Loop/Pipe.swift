import CSystem
import Glibc

/// A pipe of the kernel. What is spliced into it from a socket lies there by reference: it is held without being copied.
/// Nothing here waits. A plain value: who owns it closes it, once.
public struct Pipe {
    /// The end that is read, and the one that is written.
    public let output, input: Int32

    /// What a call came to: bytes moved, 0 at the end of what there was, or an error.
    public typealias Moved = Result<Int, SystemError>

    /// One that holds `byteCount` bytes in pages of their own (more, where its pages are larger). Nil: the system gives none,
    /// or not so large a one (`pipe-user-pages-soft`, descriptors).
    public init?(byteCount: Int) {
        var ends: [Int32] = [-1, -1]
        guard system_pipe(&ends, Int32(byteCount)) == 0 else { return nil }
        (output, input) = (ends[0], ends[1])
    }

    /// One that is open already.
    public init(output: Int32, input: Int32) { (self.output, self.input) = (output, input) }

    /// How many bytes lie in the pipe that is read at this descriptor. Nil: there is none.
    public static func byteCount(at output: Int32) -> Int? {
        let count = system_unread(output)
        return count < 0 ? nil : Int(count)
    }

    public func fill(from socket: Int32, _ count: Int) -> Moved { Pipe.moved(system_splice(socket, input, count, 0)) }

    /// `more`: what leaves is not the last, and may wait for the rest.
    public func drain(to socket: Int32, _ count: Int, more: Bool = false) -> Moved {
        Pipe.moved(system_splice(output, socket, count, more ? 1 : 0))
    }

    /// The bytes at the head lie in `other`, too.
    public func copy(to other: Pipe, _ count: Int) -> Moved { other.copy(from: output, count) }

    /// The bytes at the head of the pipe that is read at this descriptor lie in this one, too.
    public func copy(from output: Int32, _ count: Int) -> Moved { Pipe.moved(system_tee(output, input, count)) }

    /// Copies bytes into it.
    public func write(_ bytes: UnsafeRawPointer, _ count: Int) -> Moved { Pipe.moved(system_write(input, bytes, count)) }

    /// Copies bytes out of it.
    public func read(_ memory: UnsafeMutableRawPointer, _ count: Int) -> Moved { Pipe.moved(system_read(output, memory, count)) }

    /// A descriptor that discards what is spliced into it, or -1. The caller closes it.
    public static func openSink() -> Int32 { max(-1, system_sink()) }

    public func close() {
        system_close(output)
        system_close(input)
    }

    static func moved(_ result: Int) -> Moved {
        result >= 0 ? .success(result) : .failure(SystemError(Int32(-result)))
    }
}
