import Control
import Loop
import Wire

/// One way through the tunnel: where users connect on one side, where the origin is on the other. The two sides find each other by the
/// name. Users of most mappings connect to the client, users of a reverse mapping to the server.
public struct Mapping: Equatable, Sendable {
    /// Empty: the one of the command line, `-in`.
    public var name: String
    /// Where users connect (port 0: a free one), or the origin's address.
    public var address: HostPort
    /// Listener: each connection begins with a PROXY protocol header, version 2, that tells the origin the user's address.
    public var tellsAddress = false
    /// Listener: without a carrier, or with a suspected one, for this many seconds new connections are refused. Nil: they wait.
    public var refuseAfterSeconds: Int?
    /// Client: how its users say where they want to go.
    public var kind = Kind.fixed
    /// Client: a file with lines `USER:PASSWORD`, one of which its users' programs must give when they ask for a destination.
    public var passwordFile: String?
    /// Client: where its users go, on the server's side, instead of to the origin of the same name.
    var destination: Destination?
    /// Listener: of the socket's file, where the address is a path.
    public var access = SocketAccess()

    /// Who chooses the destination.
    public enum Kind: String, Sendable, CaseIterable {
        /// The mapping: the origin of the same name.
        case fixed
        /// The user's program, by a request: a proxy's.
        case socks5
        case httpConnect = "http-connect"
        /// The address that the user's program dialled, before a rule of the packet filter led it here (SO_ORIGINAL_DST).
        case transparent

        var request: DestinationRequest.Kind? {
            switch self {
            case .socks5: .socks5
            case .httpConnect: .httpConnect
            case .fixed, .transparent: nil
            }
        }
    }

    public init(name: String = "", address: HostPort, tellsAddress: Bool = false) {
        self.name = name
        self.address = address
        self.tellsAddress = tellsAddress
    }

    /// Client: its users go to this host and port, a name or an address, if the server allows it. False: it is neither.
    public mutating func lead(to text: String) -> Bool {
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else { return false }
        destination = Destination(host: text[..<colon], port: port)
        return destination != nil
    }

    /// What its origin hears before the bytes of a user, who has been accepted as `fd`.
    func header(_ fd: Int32) -> [UInt8] { tellsAddress ? ProxyHeader(from: Socket.peerAddress(fd), to: Socket.localAddress(fd)).bytes : [] }

    /// Its users' programs make a request, which can have a password.
    public var takesPasswords: Bool { kind.request != nil }

    /// The name that its users dial, which this host must resolve to `address`. Nil: they dial `address`.
    public var dialledName: String? {
        if case .name(let name) = destination?.host { name } else { nil }
    }

    /// The port of `lead(to:)`.
    public var destinationPort: UInt16? { destination?.port }

    public static let nameMaximum = 64
    /// Mappings of one process. Their places are numbers of 16 bits, of which those that were removed keep theirs for a while.
    public static let countMaximum = 10_000

    /// Letters, digits, dots, dashes and underlines.
    public static func isName(_ name: String) -> Bool { name.utf8.count <= nameMaximum && KeyFile.isName(name) }

    /// What OPEN calls it.
    public var target: UInt64 { Specification.target(of: name) }
}
