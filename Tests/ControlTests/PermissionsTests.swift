import Testing
@testable import Control

@Suite struct PermissionsTests {
    /// What is left out of a table is as without one; `*` is for clients that have none.
    @Test func aTableLimitsWhatItLists() {
        var permissions = Permissions()
        #expect(permissions.allow("pi", mapping: "ssh") && permissions.allow("pi", listener: "web"))
        permissions.change("pi") { $0.listeners = ["web"] }
        permissions.change("*") { $0.mappings = ["ssh"] }
        #expect(permissions.allow("pi", listener: "web") && !permissions.allow("pi", listener: "db"))
        #expect(permissions.allow("pi", mapping: "db"), "its own table says nothing of mappings")
        #expect(permissions.allow("bob", mapping: "ssh") && !permissions.allow("bob", mapping: "db"))
        #expect(permissions.allow("bob", listener: "db"))
    }
}
