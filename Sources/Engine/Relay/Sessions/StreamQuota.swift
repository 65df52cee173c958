/// How many streams a client may have, and has, in all of its sessions, which share it.
final class StreamQuota {
    let most: Int
    var open = 0

    init(most: Int) { self.most = most }

    var isFull: Bool { open >= most }
}
