import CSystem
import Glibc
import Synchronization

/// Names to addresses, off the loop: getaddrinfo blocks, for many seconds when the network is away. Each look-up runs on
/// a thread of its own, up to `threadsMaximum` at a time; the answer waits in a mailbox and wakes the loop.
public final class Resolver: Sendable {
    public struct Answer: Sendable {
        public let token: UInt64
        public let name: HostPort
        public let result: Result<[Address], LookupFailure>
    }

    public struct LookupFailure: Error, Sendable, CustomStringConvertible {
        public let description: String
    }

    /// Look-ups under way; more wait for one of them to end. Of these, such as whose names a peer has chosen: however many of them are dead,
    /// others are looked up.
    static let threadsMaximum = 256
    static let chosenMaximum = 128

    private struct Question: Sendable {
        let address: HostPort
        let token: UInt64
        let isPassive: Bool
        let isChosen: Bool
    }

    private struct State {
        var answers: [Answer] = []
        var waiting: [Question] = []
        var waitingChosen: [Question] = []
        var threads = 0
        /// Of these, with a name that a peer has chosen.
        var chosen = 0

        var hasRoomForChosen: Bool { chosen < Resolver.chosenMaximum }

        /// A thread is for this question from now on.
        mutating func began(_ question: Question) { chosen += question.isChosen ? 1 : 0 }
        mutating func ended(_ question: Question) { chosen -= question.isChosen ? 1 : 0 }

        mutating func takeNext() -> Question? {
            if !waiting.isEmpty { return waiting.removeFirst() }
            return !waitingChosen.isEmpty && hasRoomForChosen ? waitingChosen.removeFirst() : nil
        }
        /// Nil: nobody listens any more. A thread may be in getaddrinfo for longer than the loop lives.
        var wake: (@Sendable () -> Void)?
    }

    private let state: Mutex<State>

    /// `wake` is called on another thread when an answer has arrived, until `close`.
    public init(wake: @escaping @Sendable () -> Void) { state = Mutex(State(wake: wake)) }

    /// The loop is about to go: nothing wakes it any more.
    public func close() { state.withLock { $0.wake = nil } }

    /// Looks `address` up, for dialling or (`isPassive`) for listening; the answer carries `token`. `isChosen`: by a peer. False when no thread
    /// could be started.
    public func look(up address: HostPort, token: UInt64, isPassive: Bool = false, isChosen: Bool = false) -> Bool {
        let question = Question(address: address, token: token, isPassive: isPassive, isChosen: isChosen)
        let mustStart = state.withLock { state in
            guard state.threads < Resolver.threadsMaximum, !isChosen || state.hasRoomForChosen else {
                if isChosen { state.waitingChosen.append(question) } else { state.waiting.append(question) }
                return false
            }
            state.threads += 1
            state.began(question)
            return true
        }
        guard mustStart else { return true }
        if system_is_simulated() {
            _ = answer(question)
            return true
        }
        let job = Job(self, question)
        var thread = pthread_t()
        let failed = pthread_create(
            &thread, nil,
            { argument in
                let job = Unmanaged<Job>.fromOpaque(argument!).takeRetainedValue()
                var next: Question? = job.question
                while let question = next { next = job.resolver.answer(question) }
                return nil
            }, Unmanaged.passRetained(job).toOpaque())
        guard failed == 0 else {
            Unmanaged.passUnretained(job).release()
            state.withLock {
                $0.threads -= 1
                $0.ended(question)
            }
            return false
        }
        pthread_detach(thread)
        return true
    }

    public func takeAnswers() -> [Answer] {
        state.withLock { state in
            guard !state.answers.isEmpty else { return [] }
            defer { state.answers = [] }
            return state.answers
        }
    }

    /// Blocks. Returns what waits to be asked next; nil: this thread is not needed any more.
    private func answer(_ question: Question) -> Question? {
        let result = Resolver.lookUp(question.address, passive: question.isPassive)
        return state.withLock { state in
            if let wake = state.wake {
                state.answers.append(Answer(token: question.token, name: question.address, result: result))
                wake()
            } else {
                (state.waiting, state.waitingChosen) = ([], [])
            }
            state.ended(question)
            guard let next = state.takeNext() else {
                state.threads -= 1
                return nil
            }
            state.began(next)
            return next
        }
    }

    private final class Job {
        let resolver: Resolver
        let question: Question
        init(_ resolver: Resolver, _ question: Question) {
            self.resolver = resolver
            self.question = question
        }
    }

    /// The address that is written in numbers, without asking anybody. Nil: it is a name, or names a link.
    public static func number(_ address: HostPort) -> Address? {
        if let path = address.path { return Address(path: path) }
        var hints = addrinfo()
        hints.ai_socktype = Int32(SYSTEM_STREAM)
        hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV
        var list: UnsafeMutablePointer<addrinfo>?
        guard !address.host.isEmpty, !address.host.contains("%"), system_look_up(address.host, String(address.port), &hints, &list) == 0 else { return nil }
        defer { system_free_addresses(list) }
        return list.flatMap { entry in entry.pointee.ai_addr.flatMap { Address($0, entry.pointee.ai_addrlen) } }
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
        if let host, !system_is_simulated(), let known = Localhost.addresses(of: host, port: address.port) { return .success(known) }
        let failed = system_look_up(host, String(address.port), &hints, &list)
        defer { system_free_addresses(list) }
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
