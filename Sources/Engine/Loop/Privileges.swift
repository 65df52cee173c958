import CSystem

/// What a process gives up once it runs. Where the system does not know it, nothing is lost.
public enum Privileges {
    /// `holdsSecrets`: no core file, and no other process of this user reads its memory.
    public static func drop(holdsSecrets: Bool) {
        _ = system_no_new_privileges()
        if holdsSecrets { _ = system_forbid_dumps() }
        system_forget_start()
    }
}
