import Control
import CSlab
import Glibc
import Loop
import State
import Time
import Tunnel
import Wire

/// The state that the program before left. Listeners are claimed while this process is made, sessions are restored before its first
/// iteration.
package final class Inheritance {
    struct Listener {
        enum Kind: UInt8 { case users, carriers, metrics, control }
        var fd: Int32 = -1
        var kind = Kind.users
        /// Of its mapping.
        var name = ""
        /// As it was configured.
        var address = ""
        var isShared = false
        var link = ""
    }

    /// Of the process.
    struct Facts {
        var version = ""
        var isClient = false
        var startedAt: UInt64 = 0
        var settledSince: UInt64 = 0
        var takeovers: UInt64 = 0
        var askers: [Int32] = []
    }

    /// Every descriptor that was left open.
    private(set) var descriptors: [Int32] = []
    private(set) var facts = Facts()
    private var listeners: [Listener] = []
    /// Where the server accepted carriers, as it was configured.
    private(set) var formerCarrierAddress: HostPort?
    /// Descriptors of connections that no local socket has claimed yet.
    private var unclaimed: Set<Int32> = []
    /// Places of mappings in this program, by those in the program before.
    var places: [UInt16: MappingPlace] = [:]
    var archive: StateArchive
    /// Local sockets in the order in which they are restored: here, and in the process that died.
    var restored: [UInt32] = []
    let order: [Token]
    /// Operations that had ended when it died. Empty after an upgrade.
    let lost: [Remains.Lost]
    /// Connections that it had accepted, and nobody has yet.
    var adopted: [Int32] { lost.filter { $0.kind == .accepted }.map(\.result) }
    /// The process before has died.
    let isCrash: Bool
    /// What it was about to do.
    let stopping: Stopping.Phase
    /// The session with which it crashed twice, and which is not restored.
    let givenUp: String?

    /// `bytes` stay valid as long as the archive. Sets close-on-exec again on all descriptors.
    package convenience init(_ bytes: UnsafeRawBufferPointer) throws(StateFault) {
        try self.init(bytes, order: [], lost: [], isCrash: false, stopping: .running, givenUp: nil)
    }

    /// `remains` stays as long as the archive.
    package convenience init(_ remains: Remains) throws(StateFault) {
        try self.init(remains.archive.bytes, order: remains.order, lost: remains.lost, isCrash: true, stopping: remains.stopping, givenUp: remains.givenUp)
    }

    private init(
        _ bytes: UnsafeRawBufferPointer, order: [Token], lost: [Remains.Lost], isCrash: Bool, stopping: Stopping.Phase, givenUp: String?
    ) throws(StateFault) {
        (self.order, self.lost, self.isCrash, self.stopping, self.givenUp) = (order, lost, isCrash, stopping, givenUp)
        archive = StateArchive(restoring: bytes)
        try archive.checkSeal()
        try Inheritance.head(&archive, &descriptors, &facts, &listeners)
        let named = listeners.map(\.fd) + facts.askers
        guard Set(descriptors).count == descriptors.count, Set(named).count == named.count, Set(named).isSubset(of: descriptors) else {
            throw StateFault("descriptors are named twice, or were not left open")
        }
        unclaimed = Set(descriptors).subtracting(listeners.map(\.fd)).subtracting(facts.askers)
        formerCarrierAddress = listeners.first { $0.kind == .carriers }.flatMap { try? HostPort(parsing: $0.address) }
        for descriptor in descriptors { Socket.keep(descriptor, beyondProgram: false) }
    }

    static func head(
        _ archive: inout StateArchive, _ descriptors: inout [Int32], _ facts: inout Facts, _ listeners: inout [Listener]
    ) throws(StateFault) {
        try archive.mark(0x7465_6c65_2d73_7461)
        var version = Successor.stateVersion
        try archive.number(&version, in: Successor.readableVersions)
        archive.version = version
        try archive.list(&descriptors, most: 1 << 22, blank: -1) { (fd, archive) throws(StateFault) in try archive.number(&fd, in: 3...Int32.max) }
        try archive.text(&facts.version, most: 256)
        try archive.flag(&facts.isClient)
        try archive.number(&facts.startedAt)
        try archive.number(&facts.settledSince)
        try archive.counter(&facts.takeovers)
        try archive.list(&facts.askers, most: 256, blank: -1) { (fd, archive) throws(StateFault) in try archive.number(&fd, in: 3...Int32.max) }
        try archive.list(&listeners, most: 4 * Mapping.countMaximum + 16, blank: Listener()) { (listener, archive) throws(StateFault) in
            try archive.number(&listener.fd, in: 3...Int32.max)
            try archive.choice(&listener.kind)
            try archive.text(&listener.name, most: 256)
            try archive.text(&listener.address, most: 1024)
            try archive.flag(&listener.isShared)
            try archive.text(&listener.link, most: 1024)
        }
    }

    /// Inherited listeners at this configured address. A renamed mapping keeps its listener.
    func claim(_ kind: Listener.Kind, _ name: String, _ address: HostPort) -> [ListeningSocket] {
        let isOnlyOne = address.port != 0 || address.path != nil
        let isMeant = { (listener: Listener) in
            listener.kind == kind && listener.address == "\(address)" && (listener.name == name || isOnlyOne)
        }
        let claimed = listeners.filter(isMeant)
        listeners.removeAll(where: isMeant)
        return claimed.compactMap { ListeningSocket(inherited: $0.fd, isAdopted: $0.isShared, link: $0.link) }
    }

    /// Claims a connection. False: it was not left open, or is claimed already.
    func take(_ descriptor: Int32) -> Bool { unclaimed.remove(descriptor) != nil }

    /// Closes connections that were not claimed.
    func closeRest() {
        for descriptor in unclaimed { Socket.close(descriptor) }
        unclaimed = []
    }

    /// Closes listeners that no record names: a process died that had just opened them, and their addresses would be in use.
    func closeStrays() {
        guard isCrash else { return }
        let strays = Keeper.inherited.subtracting(descriptors).subtracting(adopted).filter { Socket.isListening($0) }
        for descriptor in strays { Socket.close(descriptor) }
        Keeper.inherited.subtract(strays)
    }

    /// Closes listeners at addresses that the configuration no longer names, before new ones are bound that may overlap them.
    func closeOthers(_ wanted: Set<String>) {
        for listener in listeners where !wanted.contains(listener.address) {
            if !listener.isShared, let path = Socket.localAddress(listener.fd)?.path, !path.isEmpty { Socket.removeFile(path) }
            Socket.close(listener.fd)
        }
        listeners.removeAll { !wanted.contains($0.address) }
    }
}
