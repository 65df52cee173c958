import Chance
import CRing
import CSystem
import Glibc

/// The tables by which the processes of a simulation reach the virtual kernel. They live as long as it does.
final class Calls {
    private let system = UnsafeMutablePointer<system_world>.allocate(capacity: 1)
    private let ring = UnsafeMutablePointer<ring_world>.allocate(capacity: 1)

    /// Answers the calling thread's system calls until `end`. False: this build asks the kernel only (CSystemWorld.h).
    init?(_ kernel: VirtualKernel) {
        let context = Unmanaged.passUnretained(kernel).toOpaque()
        system.initialize(to: Calls.system(context))
        ring.initialize(to: Calls.ring(context))
        guard system_simulate(system), ring_simulate(ring) else { return nil }
    }

    deinit {
        _ = system_simulate(nil)
        _ = ring_simulate(nil)
        system.deallocate()
        ring.deallocate()
    }

    private static func system(_ context: UnsafeMutableRawPointer) -> system_world {
        system_world(
            context: context,
            now: { kernel($0).time },
            slept: { kernel($0).current.slept },
            sleep: { _, _ in },
            random: { kernel($0).fill($1!, $2) },
            descriptor_limit: { kernel($0).limits.descriptors },
            descriptor_count: { kernel($0).current.descriptorCount },
            socket: { context, family, kind, _ in kernel(context).act(-EMFILE) { $0.socket(family, kind) } },
            bind: { context, descriptor, name, length in kernel(context).act(-EADDRINUSE) { $0.bind(descriptor, name!, length) } },
            listen: { context, descriptor, backlog in kernel(context).act(-EADDRINUSE) { $0.listen(descriptor, backlog) } },
            connect: { context, descriptor, name, length in kernel(context).act(-EINPROGRESS) { $0.connect(descriptor, name!, length) } },
            accept: { context, descriptor in kernel(context).act(-EAGAIN) { $0.accept(descriptor) } },
            shutdown: { context, descriptor, how in kernel(context).act(0) { $0.shutdown(descriptor, how) } },
            set_option: { context, descriptor, level, option, value, length in
                kernel(context).act(0) { $0.setOption(descriptor, level, option, UnsafeRawBufferPointer(start: value, count: Int(length))) }
            },
            get_option: { kernel($0).getOption($1, $2, $3, $4!, $5!) },
            local_name: { kernel($0).name($1, $2!, $3!) { $0.local } },
            peer_name: { kernel($0).name($1, $2!, $3!) { $0.remote } },
            interfaces: { kernel($0).interfaces($2!, $3) },
            close: { context, descriptor in kernel(context).act(()) { $0.current.close(descriptor) } },
            look_up: { kernel($0).lookUp($1!, $2!, $3) },
            queued: { kernel($0).queued($1, $2) },
            has_failed: { kernel($0).hasFailed($1) },
            watch: { context, kind in kernel(context).act(-EMFILE) { $0.watch(kind) } },
            take_signal: { kernel($0).takeSignal($1) },
            quiet: { kernel($0).quiet($1) },
            pipe: { context, ends, count in kernel(context).act(-EMFILE) { $0.pipe(ends!, count) } },
            sink: { kernel($0).current.open(VirtualSink(kernel($0))) },
            splice: { context, from, to, count, _ in
                let kernel = kernel(context)
                return kernel.act(kernel.isSink(to) ? count : -Int(EAGAIN), isOfRing: true) { $0.splice(from, to, count) }
            },
            // Who reads what it has itself put into a pipe relies on that, also when it is dead.
            tee: { context, from, to, count in kernel(context).act(count) { $0.tee(from, to, count) } },
            read: { context, descriptor, memory, count in
                let kernel = kernel(context)
                return kernel.act(kernel.isPipe(descriptor) ? count : -Int(EAGAIN)) { $0.read(descriptor, memory!, count) }
            },
            write: { context, descriptor, bytes, count in kernel(context).act(-Int(EAGAIN)) { $0.write(descriptor, bytes!, count) } },
            send: { context, descriptor, iovecs, count in kernel(context).act(-Int(EAGAIN)) { $0.send(descriptor, iovecs!, count) } })
    }

    private static func ring(_ context: UnsafeMutableRawPointer) -> ring_world {
        ring_world(
            context: context,
            queued: { kernel($0).current.queued() },
            accept: { context, descriptor in kernel(context).act(-EAGAIN, isOfRing: true) { $0.accept(descriptor) } },
            connect: { context, descriptor, name, length in kernel(context).act(-EINPROGRESS, isOfRing: true) { $0.connect(descriptor, name!, length) } },
            connected: { context, descriptor in kernel(context).act(-EINPROGRESS, isOfRing: true) { $0.connected(descriptor) } },
            receive: { context, descriptor, memory, count in kernel(context).act(-Int(EAGAIN), isOfRing: true) { $0.receive(descriptor, memory, count) } },
            send: { context, descriptor, iovecs, count in kernel(context).act(-Int(EAGAIN), isOfRing: true) { $0.send(descriptor, iovecs!, count) } },
            poll: { context, descriptor, _ in kernel(context).poll(descriptor) },
            holds_back: { kernel($0).current.holdsBack() },
            take_ready: { kernel($0).takeReady($1!, $2) },
            cancel_comes_late: { context in
                let kernel = kernel(context)
                return kernel.limits.cancelsLate && kernel.chance.oneIn(2)
            },
            died_in_call: { kernel($0).current.takeDiedInCall() })
    }
}

private func kernel(_ context: UnsafeMutableRawPointer?) -> VirtualKernel {
    Unmanaged<VirtualKernel>.fromOpaque(context!).takeUnretainedValue()
}

/// What each system call does, for the process that runs.
extension VirtualKernel {
    /// A call of a process that is dead does nothing, and answers `dead`.
    func act<Result>(_ dead: Result, isOfRing: Bool = false, _ call: (VirtualKernel) -> Result) -> Result {
        let process = current!
        guard !process.isDead, !(isOfRing && process.diesBeforeCall()) else { return dead }
        defer { process.countCall(isOfRing: isOfRing) }
        return call(self)
    }

    /// Prints the call for the reader of a seed that failed.
    private func traced(_ call: String, _ descriptor: Int32, _ other: Int32? = nil, result: Int) -> Int {
        if Trace.isOn { print("\(time / 1000) µs: host \(current.host) \(call)(\(descriptor)\(other.map { ", \($0)" } ?? "")) = \(result)") }
        return result
    }

    private func find<File: VirtualFile>(_ descriptor: Int32, _ kind: File.Type) -> File? { current.file(descriptor) as? File }

    func fill(_ memory: UnsafeMutableRawPointer, _ count: Int) {
        for index in 0..<count { memory.storeBytes(of: UInt8(truncatingIfNeeded: chance.next()), toByteOffset: index, as: UInt8.self) }
    }

    // MARK: Names

    /// A name server gives the addresses of a name in any order.
    func lookUp(_ host: UnsafePointer<CChar>, _ addresses: UnsafeMutablePointer<UInt32>, _ capacity: Int) -> Int32 {
        current.runSoon()
        guard time >= namesFailUntil else { return EAI_AGAIN }
        guard let hosts = names[String(cString: host)] else { return EAI_NONAME }
        let first = chance.below(hosts.count)
        for index in 0..<min(hosts.count, capacity) {
            addresses[index] = (10 << 24 | UInt32(hosts[(first + index) % hosts.count])).bigEndian
        }
        return Int32(min(hosts.count, capacity))
    }

    // MARK: Sockets

    func socket(_ family: Int32, _ kind: Int32) -> Int32 {
        switch family {
        case AF_NETLINK: current.open(EventSource(self, .network))
        case AF_INET where kind == Int32(SYSTEM_DATAGRAM): current.open(DatagramSocket(self))
        case AF_INET: current.open(TCPSocket(self, host: current.host))
        default: -EAFNOSUPPORT
        }
    }

    /// 127.0.0.1 is the caller's machine; 10.0.0.`host`.
    private func name(_ address: UnsafePointer<sockaddr>, _ length: socklen_t) -> Name? {
        guard Int32(address.pointee.sa_family) == AF_INET, Int(length) >= MemoryLayout<sockaddr_in>.size else { return nil }
        return address.withMemoryRebound(to: sockaddr_in.self, capacity: 1) { address in
            let host = UInt32(bigEndian: address.pointee.sin_addr.s_addr)
            return Name(host: host >> 24 == 10 ? Int(host & 0xff) : current.host, port: UInt16(bigEndian: address.pointee.sin_port))
        }
    }

    func bind(_ descriptor: Int32, _ address: UnsafePointer<sockaddr>, _ length: socklen_t) -> Int32 {
        guard let socket = find(descriptor, TCPSocket.self) else { return find(descriptor, EventSource.self) == nil ? -EBADF : 0 }
        guard let name = name(address, length) else { return -EINVAL }
        guard name.host == socket.host else { return -EADDRNOTAVAIL }
        guard name.port == 0 || listeners[name] == nil else { return -EADDRINUSE }
        socket.local = name
        return 0
    }

    func listen(_ descriptor: Int32, _ backlog: Int32) -> Int32 {
        find(descriptor, TCPSocket.self)?.listen(backlog: Int(backlog)) ?? -EBADF
    }

    func connect(_ descriptor: Int32, _ address: UnsafePointer<sockaddr>, _ length: socklen_t) -> Int32 {
        guard let name = name(address, length) else { return -EINVAL }
        if let socket = find(descriptor, DatagramSocket.self) {
            socket.remote = name
            return 0
        }
        return find(descriptor, TCPSocket.self)?.connect(to: name) ?? -EBADF
    }

    func connected(_ descriptor: Int32) -> Int32 { find(descriptor, TCPSocket.self)?.connectResult ?? -EBADF }

    func accept(_ descriptor: Int32) -> Int32 {
        guard let listener = find(descriptor, TCPSocket.self) else { return -EBADF }
        guard listener.state == .listening else { return -EINVAL }
        guard current.descriptorCount + 3 < limits.descriptors else { return -EMFILE }
        guard let socket = listener.takeAccepted() else { return -EAGAIN }
        return current.open(socket)
    }

    func shutdown(_ descriptor: Int32, _ how: Int32) -> Int32 {
        guard let socket = find(descriptor, TCPSocket.self) else { return -EBADF }
        if socket.state == .listening { socket.stopListening() } else { socket.shutdownWriting() }
        return 0
    }

    func setOption(_ descriptor: Int32, _ level: Int32, _ option: Int32, _ value: UnsafeRawBufferPointer) -> Int32 {
        if let socket = find(descriptor, DatagramSocket.self) {
            // SO_BINDTOIFINDEX
            if level == SOL_SOCKET, option == 62, value.load(as: Int32.self) == 2 { socket.host = VirtualKernel.secondInterface(of: current.host) }
            return 0
        }
        guard let socket = find(descriptor, TCPSocket.self) else { return -EBADF }
        socket.set(level, option, value)
        return 0
    }

    func interfaces(_ found: UnsafeMutablePointer<system_interface>, _ capacity: Int) -> Int {
        let count = min(capacity, hostsWithTwo.contains(current.host) ? 2 : 1)
        for index in 0..<count { found[index] = system_interface(index: UInt32(index + 1), is_tunnel: 0) }
        return count
    }

    func getOption(
        _ descriptor: Int32, _ level: Int32, _ option: Int32, _ value: UnsafeMutableRawPointer,
        _ length: UnsafeMutablePointer<socklen_t>
    ) -> Int32 {
        guard let socket = find(descriptor, TCPSocket.self) else { return -EBADF }
        guard let bytes = socket.get(level, option) else { return -ENOPROTOOPT }
        let count = min(bytes.count, Int(length.pointee))
        bytes.withUnsafeBytes { value.copyMemory(from: $0.baseAddress!, byteCount: count) }
        length.pointee = socklen_t(count)
        return 0
    }

    func name(
        _ descriptor: Int32, _ address: UnsafeMutablePointer<sockaddr>, _ length: UnsafeMutablePointer<socklen_t>,
        _ which: (TCPSocket) -> Name?
    ) -> Int32 {
        let name: Name
        if let socket = find(descriptor, DatagramSocket.self) {
            name = Name(host: socket.host ?? current.host, port: 40000)
        } else {
            guard let socket = find(descriptor, TCPSocket.self) else { return -EBADF }
            guard let found = which(socket) else { return -ENOTCONN }
            name = found
        }
        var internet = sockaddr_in()
        internet.sin_family = sa_family_t(AF_INET)
        internet.sin_port = name.port.bigEndian
        internet.sin_addr.s_addr = (10 << 24 | UInt32(name.host)).bigEndian
        let count = min(Int(length.pointee), MemoryLayout<sockaddr_in>.size)
        withUnsafeBytes(of: internet) { UnsafeMutableRawPointer(address).copyMemory(from: $0.baseAddress!, byteCount: count) }
        length.pointee = socklen_t(count)
        return 0
    }

    func hasFailed(_ descriptor: Int32) -> Bool { current.file(descriptor).map { $0.readiness & POLLERR != 0 } ?? true }

    func queued(_ descriptor: Int32, _ kind: system_queued_kind) -> Int32 {
        if let end = find(descriptor, PipeEnd.self) { return Int32(clamping: end.pipe.bytes.count) }
        guard let socket = find(descriptor, TCPSocket.self) else { return -EBADF }
        let count =
            switch kind {
            case SYSTEM_QUEUED_UNACKNOWLEDGED: socket.held
            case SYSTEM_QUEUED_UNSENT: socket.unsent
            default: socket.unread
            }
        return Int32(clamping: count)
    }

    func receive(_ descriptor: Int32, _ memory: UnsafeMutableRawPointer?, _ count: Int) -> Int {
        traced("receive", descriptor, result: find(descriptor, TCPSocket.self)?.receive(memory, count) ?? -Int(EBADF))
    }

    func send(_ descriptor: Int32, _ iovecs: UnsafePointer<iovec>, _ count: Int) -> Int {
        guard let socket = find(descriptor, TCPSocket.self) else { return -Int(EBADF) }
        guard socket.room > 0 || socket.isOver else { return -Int(EAGAIN) }
        var pieces: [ArraySlice<UInt8>] = [], total = 0
        for index in 0..<count where total < socket.room {
            let bytes = UnsafeRawBufferPointer(start: iovecs[index].iov_base, count: min(iovecs[index].iov_len, socket.room - total))
            pieces.append(ArraySlice(bytes))
            total += bytes.count
        }
        return traced("send", descriptor, result: socket.send(pieces))
    }

    /// All bits: the ring looks at those that it asked for.
    func poll(_ descriptor: Int32) -> Int32 { Int32(traced("poll", descriptor, result: Int(current.file(descriptor)?.readiness ?? -EBADF))) }

    func takeReady(_ descriptors: UnsafeMutablePointer<Int32>, _ capacity: Int) -> Int {
        let ready = current.takeReady(capacity)
        for (index, descriptor) in ready.enumerated() { descriptors[index] = descriptor }
        return ready.count
    }

    // MARK: Watches

    func watch(_ kind: system_watch_kind) -> Int32 {
        let kinds: [UInt32: EventSource.Kind] = [SYSTEM_WATCH_SIGNALS.rawValue: .signals, SYSTEM_WATCH_WAKING.rawValue: .waking]
        return current.open(EventSource(self, kinds[kind.rawValue] ?? .files))
    }

    func takeSignal(_ descriptor: Int32) -> UInt32 {
        guard let source = find(descriptor, EventSource.self), !source.pending.isEmpty else { return 0 }
        return source.pending.removeFirst()
    }

    func quiet(_ descriptor: Int32) { find(descriptor, EventSource.self)?.pending = [] }

    // MARK: Pipes

    func pipe(_ ends: UnsafeMutablePointer<Int32>, _ byteCount: Int32) -> Int32 {
        guard current.descriptorCount + 4 < limits.descriptors else { return -EMFILE }
        guard Int(byteCount) <= limits.pipeBytes else { return -EPERM }
        let pipe = VirtualPipe(byteCount: Int(byteCount))
        ends[0] = current.open(PipeEnd(self, pipe, isOutput: true))
        ends[1] = current.open(PipeEnd(self, pipe, isOutput: false))
        return 0
    }

    func splice(_ from: Int32, _ to: Int32, _ count: Int) -> Int {
        traced("splice", from, to, result: moveBytes(from, to, count))
    }

    private func moveBytes(_ from: Int32, _ to: Int32, _ count: Int) -> Int {
        if let socket = find(from, TCPSocket.self), let end = find(to, PipeEnd.self) { return socket.splice(into: end.pipe, count) }
        guard let end = find(from, PipeEnd.self) else { return -Int(EBADF) }
        guard !end.pipe.bytes.isEmpty else { return -Int(EAGAIN) }
        if find(to, VirtualSink.self) != nil { return end.pipe.bytes.take(count).reduce(0) { $0 + $1.count } }
        guard let socket = find(to, TCPSocket.self) else { return -Int(EBADF) }
        let sent = socket.send(end.pipe.bytes.first(count))
        if sent > 0 { _ = end.pipe.bytes.take(sent) }
        return sent
    }

    func isPipe(_ descriptor: Int32) -> Bool { find(descriptor, PipeEnd.self) != nil }
    func isSink(_ descriptor: Int32) -> Bool { find(descriptor, VirtualSink.self) != nil }

    func tee(_ from: Int32, _ to: Int32, _ count: Int) -> Int {
        guard let source = find(from, PipeEnd.self)?.pipe, let target = find(to, PipeEnd.self)?.pipe else { return -Int(EBADF) }
        guard !source.bytes.isEmpty, target.room > 0 else { return -Int(EAGAIN) }
        return target.put(source.bytes.first(count))
    }

    func read(_ descriptor: Int32, _ memory: UnsafeMutableRawPointer, _ count: Int) -> Int {
        switch current.file(descriptor) {
        case let socket as TCPSocket: return socket.receive(memory, count)
        case let end as PipeEnd: return end.pipe.bytes.isEmpty ? -Int(EAGAIN) : end.pipe.bytes.read(into: memory, count)
        case let source as EventSource:
            guard !source.pending.isEmpty else { return -Int(EAGAIN) }
            source.pending = []
            return min(count, 8)
        default: return -Int(EBADF)
        }
    }

    func write(_ descriptor: Int32, _ bytes: UnsafeRawPointer, _ count: Int) -> Int {
        guard let end = find(descriptor, PipeEnd.self) else { return -Int(EBADF) }
        guard end.pipe.room > 0 else { return -Int(EAGAIN) }
        return end.pipe.put([ArraySlice(UnsafeRawBufferPointer(start: bytes, count: min(count, end.pipe.room)))])
    }
}
