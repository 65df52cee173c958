import CSystem
import Glibc
import Synchronization

/// Names to addresses, off the loop: getaddrinfo blocks, for many seconds when the network is away. Each look-up runs on
/// a thread of its own; the answer waits in a mailbox and wakes the loop.
public final class Resolver: Sendable {
    public struct Answer: Sendable {
        public let token: UInt64
        public let name: HostPort
        public let result: Result<[Address], LookupFailure>
    }

    public struct LookupFailure: Error, Sendable, CustomStringConvertible {
        public let description: String
    }

    private let mailbox = Mutex<[Answer]>([])
    private let wake: @Sendable () -> Void

    /// `wake` is called on another thread when an answer has arrived.
    public init(wake: @escaping @Sendable () -> Void) { self.wake = wake }

    /// Looks `address` up for dialling; the answer carries `token`. False when no thread could be started.
    public func look(up address: HostPort, token: UInt64) -> Bool {
        let job = Job(resolver: self, address: address, token: token)
        var thread = pthread_t()
        let failed = pthread_create(&thread, nil, { argument in
            let job = Unmanaged<Job>.fromOpaque(argument!).takeRetainedValue()
            job.resolver.deliver(Answer(token: job.token, name: job.address, result: Resolver.lookUp(job.address, passive: false)))
            return nil
        }, Unmanaged.passRetained(job).toOpaque())
        guard failed == 0 else {
            Unmanaged.passUnretained(job).release()
            return false
        }
        pthread_detach(thread)
        return true
    }

    public func takeAnswers() -> [Answer] {
        mailbox.withLock { answers in
            defer { answers = [] }
            return answers
        }
    }

    private func deliver(_ answer: Answer) {
        mailbox.withLock { $0.append(answer) }
        wake()
    }

    private final class Job {
        let resolver: Resolver
        let address: HostPort
        let token: UInt64
        init(resolver: Resolver, address: HostPort, token: UInt64) {
            self.resolver = resolver
            self.address = address
            self.token = token
        }
    }

    /// Blocks. `passive`: for listening, where an empty host means every interface; else it means localhost.
    /// Addresses of both families alternate, the system's preference first (RFC 8305 §4).
    public static func lookUp(_ address: HostPort, passive: Bool) -> Result<[Address], LookupFailure> {
        if let path = address.path { return .success([Address(path: path)]) }
        var hints = addrinfo()
        hints.ai_socktype = Int32(SYSTEM_STREAM)
        hints.ai_flags = passive ? AI_PASSIVE : 0
        var list: UnsafeMutablePointer<addrinfo>?
        let host = address.host.isEmpty ? (passive ? nil : "localhost") : address.host
        let failed = getaddrinfo(host, String(address.port), &hints, &list)
        defer { if let list { freeaddrinfo(list) } }
        guard failed == 0 else {
            let words = failed == EAI_SYSTEM ? SystemError.last.description : String(cString: gai_strerror(failed))
            return .failure(LookupFailure(description: words.lowercased()))
        }
        var byFamily: [[Address]] = []
        var next = list
        while let entry = next {
            if let name = entry.pointee.ai_addr, let found = Address(name, entry.pointee.ai_addrlen) {
                if let index = byFamily.firstIndex(where: { $0[0].family == found.family }) {
                    if !byFamily[index].contains(found) { byFamily[index].append(found) }
                } else {
                    byFamily.append([found])
                }
            }
            next = entry.pointee.ai_next
        }
        var result: [Address] = []
        for index in 0..<(byFamily.map(\.count).max() ?? 0) {
            for family in byFamily where index < family.count { result.append(family[index]) }
        }
        return result.isEmpty
            ? .failure(LookupFailure(description: "no address")) : .success(result)
    }
}
