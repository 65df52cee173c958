import Glibc
import Wire

/// Memory that ends where the address space ends: behind the last byte lies a page that nobody may touch, so a decoder
/// that reads one byte too far kills the test instead of passing it.
final class Brink {
    static let capacity = 16 << 10
    private let mapping: UnsafeMutableRawPointer
    private let byteCount: Int

    init() {
        let page = Int(sysconf(Int32(_SC_PAGESIZE)))
        byteCount = Brink.capacity + page
        guard let memory = mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            memory != MAP_FAILED, mprotect(memory + Brink.capacity, page, PROT_NONE) == 0
        else {
            fatalError("no memory with a guard page")
        }
        mapping = memory
    }

    deinit { munmap(mapping, byteCount) }

    func frame(_ bytes: some Collection<UInt8>) -> Outcome<Frame> {
        do throws(ProtocolFault) {
            guard let (frame, count) = try decodeFrame(place(bytes).bytes) else { return .incomplete }
            return .value(frame, byteCount: count)
        } catch { return .fault(error.sentence) }
    }

    func hello(_ bytes: some Collection<UInt8>) -> Outcome<Hello> {
        do throws(ProtocolFault) {
            guard let (hello, count) = try Hello.decode(place(bytes).bytes) else { return .incomplete }
            return .value(hello, byteCount: count)
        } catch { return .fault(error.sentence) }
    }

    /// The bytes, ending at the guard page. Valid until the next call.
    private func place(_ bytes: some Collection<UInt8>) -> UnsafeRawBufferPointer {
        let count = bytes.count
        precondition(count <= Brink.capacity, "too much for the brink")
        let start = UnsafeMutableRawBufferPointer(start: mapping + (Brink.capacity - count), count: count)
        start.copyBytes(from: bytes)
        return UnsafeRawBufferPointer(start)
    }
}
