/// What the shells' completion scripts lack as ArgumentParser makes them: values behind an equals sign, and the words of `tele help`.
enum Completions {
    static let topics = ["check", "connect", "demo", "drain", "hosts", "keygen", "reconnect", "restart", "ssh", "status", "top", "upgrade"]

    static func completed(_ script: String, for shell: String) -> String {
        switch shell {
        case "bash": bash(script)
        case "zsh": zsh(script)
        case "fish": script + "\ncomplete -c 'tele' -n '__fish_seen_subcommand_from help' -fka '\(topics.joined(separator: " "))'\n"
        default: script
        }
    }

    /// bash ends a word at an equals sign (COMP_WORDBREAKS): `-io=au` becomes three words, and is completed as `-io au` is.
    private static func bash(_ script: String) -> String {
        let last = "complete -o filenames -F _tele tele"
        guard let place = script.firstRange(of: last) else { return script }
        return script[..<place.lowerBound]
            + #"""
            _tele_behind_equals() {
                local -a words=()
                local -i current=0 index
                for index in "${!COMP_WORDS[@]}"; do
                    if [[ ${COMP_WORDS[index]} == "=" ]]; then
                        ((index == COMP_CWORD)) || continue
                        words+=("")
                    else
                        words+=("${COMP_WORDS[index]}")
                    fi
                    ((index == COMP_CWORD)) && current=$((${#words[@]} - 1))
                done
                if [[ ${words[1]-} == help ]]; then
                    COMPREPLY=()
                    ((current == 2)) && mapfile -t COMPREPLY < <(compgen -W "TOPICS" -- "${words[2]}")
                    return 0
                fi
                local -a COMP_WORDS=("${words[@]}")
                local -i COMP_CWORD=current
                local COMP_LINE=${COMP_LINE//=/ }
                _tele "$1" "${words[current]}" "${words[current - 1]}"
            }

            complete -o filenames -F _tele_behind_equals tele
            """#.replacing("TOPICS", with: topics.joined(separator: " ")) + script[place.upperBound...]
    }

    /// A name that ends in `=` takes its value behind that, or as the next word (zshcompsys(1), _arguments).
    private static func zsh(_ script: String) -> String {
        script.split(separator: "\n", omittingEmptySubsequences: false).map { line in
            // '(-io --io)'{-io,--io}'[…]:io:…': what has a value has a colon behind its bracket.
            guard let open = line.firstRange(of: "'{-"), let close = line.firstRange(of: "}'["), line.contains("]:"), open.upperBound < close.lowerBound else {
                return String(line)
            }
            let names = line[line.index(after: open.lowerBound)..<close.lowerBound].dropFirst().split(separator: ",").map { "\($0)=" }
            return line[...open.lowerBound] + "{" + names.joined(separator: ",") + line[close.lowerBound...]
        }.joined(separator: "\n").replacing("'*:subcommands:'", with: "'1:command:(\(topics.joined(separator: " ")))'")
    }
}
