import Tunnel
import Wire

/// A peer that lies: what it sends on an agreed link is changed on the way. The other must notice or go on; it must
/// never trap, and its bounds must hold.
extension World {
    func lie(_ end: End, from first: Int) {}
    func liarOpened(_ session: Session, _ slot: StreamSlot) {}
    func runWithLiar() {}
}
