import Loop

/// Where a connect goes, and through which interface.
struct Way: Hashable, Sendable {
    let address: Address
    /// Its index; 0: as the routes say.
    var interface: UInt32 = 0
}
