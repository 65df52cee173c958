/// The state of a process, as it saves it and its successor restores it (docs/internals/outliving.md): numbers of eight bytes in
/// little-endian order, and bytes behind their count. One function lists the fields of a type for both directions, so what is saved
/// and what is restored cannot differ.
///
/// A restored field is judged when it is read: whoever wrote it may have been broken. After a `StateFault` nothing that was restored is used.
public struct StateArchive: ~Copyable {
    public let isSaving: Bool
    /// Restoring: of the program that saved it, once that is read. What a version has that the one before had not is read only from there on.
    public var version = Int.max
    /// Saving: what was written so far. Restoring: all that there is; the caller owns it.
    @usableFromInline var memory: UnsafeMutableRawPointer
    @usableFromInline var capacity: Int
    /// Bytes written, or bytes to read.
    @usableFromInline var filled: Int
    public var byteCount: Int { filled }
    @usableFromInline var offset = 0

    /// Saves.
    public init() {
        isSaving = true
        capacity = 4096
        memory = .allocate(byteCount: capacity, alignment: 16)
        filled = 0
    }

    /// Restores from `bytes`, which stay valid as long as the archive.
    public init(restoring bytes: UnsafeRawBufferPointer) {
        isSaving = false
        capacity = 0
        memory = UnsafeMutableRawPointer(mutating: bytes.baseAddress ?? UnsafeRawPointer(bitPattern: 16)!)
        filled = bytes.count
    }

    deinit { if isSaving { memory.deallocate() } }

    /// Saving: begins anew, with the memory that it has.
    public mutating func restart() {
        precondition(isSaving, "an archive that is read begins once")
        filled = 0
    }

    /// What was saved, until the archive changes.
    public var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: memory, count: filled) }

    // MARK: Fields

    /// `range`: what may be restored.
    @inlinable @inline(__always)
    public mutating func number<Number: FixedWidthInteger>(_ value: inout Number, in range: ClosedRange<Number>) throws(StateFault) {
        if isSaving { append(UInt64(truncatingIfNeeded: value)) } else { try restore(&value, in: range) }
    }

    @inlinable
    mutating func restore<Number: FixedWidthInteger>(_ value: inout Number, in range: ClosedRange<Number>) throws(StateFault) {
        let word = try take()
        guard let restored = Number.isSigned ? Number(exactly: Int64(bitPattern: word)) : Number(exactly: word), range.contains(restored) else {
            throw StateFault("a number is out of its range")
        }
        value = restored
    }

    @inlinable @inline(__always)
    public mutating func number<Number: FixedWidthInteger>(_ value: inout Number) throws(StateFault) { try number(&value, in: .min ... .max) }

    /// A number that is only ever counted up: so far from its end that it never comes there.
    @inlinable @inline(__always)
    public mutating func counter(_ value: inout UInt64) throws(StateFault) { try number(&value, in: 0...1 << 60) }

    @inlinable @inline(__always)
    public mutating func flag(_ value: inout Bool) throws(StateFault) {
        var number: UInt8 = value ? 1 : 0
        try self.number(&number, in: 0...1)
        value = number == 1
    }

    @inlinable
    public mutating func choice<Choice: RawRepresentable>(_ value: inout Choice) throws(StateFault) where Choice.RawValue: FixedWidthInteger {
        var raw = value.rawValue
        try number(&raw)
        guard let known = Choice(rawValue: raw) else { throw StateFault("a choice that there is not") }
        value = known
    }

    /// How many of something follow: `count` when saving. At most `most` are restored, and no more than bytes are left.
    @inlinable
    public mutating func count(_ count: Int, most: Int) throws(StateFault) -> Int {
        var count = count
        try number(&count, in: 0...max(0, most))
        guard isSaving || count <= filled - offset else { throw StateFault("more is counted than is there") }
        return count
    }

    /// Elements one after the other. `blank`: what a restored one is before its fields are read.
    @inlinable
    public mutating func list<Element>(
        _ elements: inout [Element], most: Int, blank: Element, _ field: (inout Element, inout StateArchive) throws(StateFault) -> Void
    ) throws(StateFault) {
        let count = try self.count(elements.count, most: most)
        if !isSaving { elements = Array(repeating: blank, count: count) }
        for index in 0..<count { try field(&elements[index], &self) }
    }

    @inlinable
    public mutating func optional<Value>(
        _ value: inout Value?, blank: Value, _ field: (inout Value, inout StateArchive) throws(StateFault) -> Void
    ) throws(StateFault) {
        var isThere = value != nil
        try flag(&isThere)
        guard isThere else { return value = nil }
        var inner = value ?? blank
        try field(&inner, &self)
        value = inner
    }

    /// `most`: in UTF-8.
    public mutating func text(_ value: inout String, most: Int) throws(StateFault) {
        if isSaving {
            // Nothing is allocated: a session is saved with each commit (`Ledger`).
            return value.withUTF8 { appendBytes(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer($0).prefix(most))) }
        }
        let bytes = try takeBytes(most: most)
        guard let text = String(validating: bytes, as: UTF8.self) else { throw StateFault("a text that is none") }
        value = text
    }

    /// A word that is always the same: what is read out of step is noticed here.
    @inlinable @inline(__always)
    public mutating func mark(_ word: UInt64) throws(StateFault) {
        if isSaving { return append(word) }
        guard try take() == word else { throw StateFault("it is out of step") }
    }

    // MARK: Bytes

    /// Saves a count, and that many bytes.
    public mutating func appendBytes(_ bytes: UnsafeRawBufferPointer) {
        append(UInt64(bytes.count))
        appendRest(bytes)
    }

    /// Bytes whose count was saved before.
    public mutating func appendRest(_ bytes: UnsafeRawBufferPointer) {
        guard let source = bytes.baseAddress, bytes.count > 0 else { return }
        makeRoom(bytes.count)
        (memory + filled).copyMemory(from: source, byteCount: bytes.count)
        filled += bytes.count
    }

    /// Saving: room for `count` bytes behind their count, for the caller to fill before the archive changes.
    public mutating func appendRoom(_ count: Int) -> UnsafeMutableRawBufferPointer {
        append(UInt64(count))
        makeRoom(count)
        filled += count
        return UnsafeMutableRawBufferPointer(start: memory + filled - count, count: count)
    }

    /// Saves what `body` saves behind the count of its bytes.
    @inlinable @inline(__always)
    public mutating func section(_ body: (inout StateArchive) throws(StateFault) -> Void) throws(StateFault) {
        let place = filled
        append(0)
        try body(&self)
        (memory + place).storeBytes(of: UInt64(filled - place - 8).littleEndian, as: UInt64.self)
    }

    /// Restores bytes behind their count. Valid as long as what is restored from.
    public mutating func takeBytes(most: Int) throws(StateFault) -> UnsafeRawBufferPointer {
        let count = try self.count(0, most: most)
        defer { offset += count }
        return UnsafeRawBufferPointer(start: memory + offset, count: count)
    }

    /// Restoring: all has been read.
    public var isAtEnd: Bool { offset == filled }

    // MARK: The seal

    /// Saving: the last thing, after which nothing may be changed.
    public mutating func seal() { append(sum(of: filled)) }

    /// Restoring: nothing was changed since it was sealed. Before the first field.
    public mutating func checkSeal() throws(StateFault) {
        guard filled >= 8, sum(of: filled - 8) == UInt64(littleEndian: (memory + filled - 8).loadUnaligned(as: UInt64.self)) else {
            throw StateFault("its sum is not that of its bytes")
        }
        filled -= 8
    }

    /// Multiplications by an odd number, whose high bits come down (the finish of MurmurHash3): each word changes all that follows.
    private func sum(of count: Int) -> UInt64 {
        var sum = UInt64(truncatingIfNeeded: count)
        var place = 0
        while place + 8 <= count {
            sum = (sum ^ UInt64(littleEndian: (memory + place).loadUnaligned(as: UInt64.self))) &* 0xff51_afd7_ed55_8ccd
            sum ^= sum >> 33
            place += 8
        }
        while place < count {
            sum = (sum ^ UInt64((memory + place).load(as: UInt8.self))) &* 0xff51_afd7_ed55_8ccd
            sum ^= sum >> 33
            place += 1
        }
        return sum
    }

    @inlinable @inline(__always)
    mutating func append(_ word: UInt64) {
        if capacity - filled < 8 { makeRoom(8) }
        (memory + filled).storeBytes(of: word.littleEndian, as: UInt64.self)
        filled += 8
    }

    @usableFromInline
    mutating func take() throws(StateFault) -> UInt64 {
        guard filled - offset >= 8 else { throw StateFault("it ends too early") }
        defer { offset += 8 }
        return UInt64(littleEndian: (memory + offset).loadUnaligned(as: UInt64.self))
    }

    @usableFromInline @inline(never)
    mutating func makeRoom(_ count: Int) {
        guard filled + count > capacity else { return }
        let larger = max(capacity * 2, filled + count)
        let fresh = UnsafeMutableRawPointer.allocate(byteCount: larger, alignment: 16)
        fresh.copyMemory(from: memory, byteCount: filled)
        memory.deallocate()
        (memory, capacity) = (fresh, larger)
    }
}

/// What is wrong with a state that was to be restored, as the rest of a sentence.
public struct StateFault: Error, Equatable, Sendable {
    public let reason: String

    public init(_ reason: String) { self.reason = reason }
}
