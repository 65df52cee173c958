import Glibc

// A tele without the engine, for tests of the demo: it understands tele's addresses and passes each connection through
// on one of its own, so that without faults all is well, and with faults nothing is repaired. STAND_IN makes it lie:
// `flip=N` changes byte N of each connection towards the origin, `cut=N` ends it cleanly after N bytes, `mute` never
// says where it listens, `quit=N` ends the process after N milliseconds.

signal(SIGPIPE, SIG_IGN)
signal(SIGTERM) { _ in _exit(0) }

func value(_ name: String) -> String? {
    CommandLine.arguments.first { $0.hasPrefix("-\(name)=") }.map { String($0.dropFirst(name.count + 2)) }
}

func port(_ name: String) -> UInt16 { value(name)?.split(separator: ":").last.flatMap { UInt16($0) } ?? 0 }

func loopback(_ port: UInt16) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    return address
}

func with(_ address: sockaddr_in, _ body: (UnsafePointer<sockaddr>) -> Int32) -> Int32 {
    withUnsafePointer(to: address) { $0.withMemoryRebound(to: sockaddr.self, capacity: 1, body) }
}

final class Passage: @unchecked Sendable {
    let source, sink: Int32
    let flip, cut: Int
    init(_ source: Int32, _ sink: Int32, flip: Int, cut: Int) {
        (self.source, self.sink, self.flip, self.cut) = (source, sink, flip, cut)
    }

    func start() {
        var thread = pthread_t()
        let passage = Unmanaged.passRetained(self).toOpaque()
        pthread_create(
            &thread, nil,
            { argument in
                if let argument { Unmanaged<Passage>.fromOpaque(argument).takeRetainedValue().pass() }
                return nil
            }, passage)
    }

    private func pass() {
        var bytes = [UInt8](repeating: 0, count: 64 << 10)
        var offset = 0
        while true {
            let received = recv(source, &bytes, bytes.count, 0)
            if received < 0 { return reset() }
            if (offset..<offset + received).contains(flip) { bytes[flip - offset] ^= 0x40 }
            let kept = cut < 0 ? received : min(received, max(0, cut - offset))
            var position = 0
            while position < kept {
                let sent = bytes.withUnsafeBytes { send(sink, $0.baseAddress! + position, kept - position, 0) }
                if sent < 0 { return reset() }
                position += sent
            }
            offset += received
            if received == 0 || kept < received {
                shutdown(sink, Int32(SHUT_WR))
                return
            }
        }
    }

    private func reset() {
        var now = linger(l_onoff: 1, l_linger: 0)
        for descriptor in [source, sink] {
            setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &now, socklen_t(MemoryLayout<linger>.size))
            close(descriptor)
        }
    }
}

let isClient = CommandLine.arguments.contains("-client")
let order = getenv("STAND_IN").map { String(cString: $0) }?.split(separator: "=") ?? []
func number(_ name: String) -> Int? { order.first.map(String.init) == name ? order.last.flatMap { Int($0) } : nil }

let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
guard with(loopback(port(isClient ? "in" : "out")), { bind(listener, $0, 16) }) == 0, listen(listener, 64) == 0 else {
    exit(69)
}
var own = loopback(0)
var length = socklen_t(16)
_ = withUnsafeMutablePointer(to: &own) {
    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(listener, $0, &length) }
}
if order.first != "mute" {
    let line = Array("127.0.0.1:\(UInt16(bigEndian: own.sin_port))\n".utf8)
    _ = write(STDOUT_FILENO, line, line.count)
}
if isClient, let milliseconds = number("quit") {
    usleep(UInt32(milliseconds) * 1000)
    exit(3)
}
while true {
    let user = accept(listener, nil, nil)
    let next = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    guard user >= 0, with(loopback(port(isClient ? "out" : "in")), { connect(next, $0, 16) }) == 0 else {
        close(user)
        close(next)
        continue
    }
    Passage(user, next, flip: isClient ? number("flip") ?? -1 : -1, cut: isClient ? number("cut") ?? -1 : -1).start()
    Passage(next, user, flip: -1, cut: -1).start()
}
