"""The same samples twice: Markdown for people, JSON for programs."""
from statistics import median

from candidates import Candidate
from measures import Measure
from targets import Samples, Target, Verdict

# (value, heading, divisor, decimals, with spread)
COLUMNS = {
    "stream": [("gbit_per_second", "Gbit/s", 1, 1, True), ("cpu_seconds_per_gib", "CPU s/GiB", 1, 2, True)],
    "ping": [("p50_us", "p50 µs", 1, 0, True), ("p99_us", "p99 µs", 1, 0, True),
             ("cpu_us_per_round_trip", "CPU µs per round trip", 1, 1, True)],
    "beside": [("p50_us", "p50 µs", 1, 0, True), ("p99_us", "p99 µs", 1, 0, True),
               ("gbit_per_second", "beside, Gbit/s", 1, 1, True)],
    "short": [("connections_per_second", "per second", 1, 0, True),
              ("cpu_us_per_connection", "CPU µs each", 1, 0, True)],
    "redis": [("set_per_second", "SET per second", 1, 0, True), ("get_per_second", "GET per second", 1, 0, True),
              ("cpu_us_per_request", "CPU µs each", 1, 2, True)],
    "idle": [("connections", "connections", 1, 0, False),
             ("client_base_bytes", "client base MiB", 1 << 20, 1, False),
             ("client_bytes_per_connection", "client KiB each", 1024, 2, False),
             ("server_base_bytes", "server base MiB", 1 << 20, 1, False),
             ("server_bytes_per_connection", "server KiB each", 1024, 2, False)],
}

# In sentences about targets: (words, divisor).
UNITS = {"gbit_per_second": ("Gbit/s", 1), "cpu_seconds_per_gib": ("CPU s/GiB", 1),
         "p50_us": ("p50 µs", 1), "p99_us": ("p99 µs", 1),
         "cpu_us_per_round_trip": ("CPU µs per round trip", 1),
         "connections_per_second": ("connections per second", 1),
         "set_per_second": ("SET per second", 1), "get_per_second": ("GET per second", 1),
         "client_base_bytes": ("client base MiB", 1 << 20), "server_base_bytes": ("server base MiB", 1 << 20),
         "client_bytes_per_connection": ("client KiB each", 1024),
         "server_bytes_per_connection": ("server KiB each", 1024)}

COLUMNS["apart"] = COLUMNS["stream"]


def _columns(measure: Measure):
    return COLUMNS[measure.name.split("-")[0]]


def _cell(found: list[float] | None, divisor: float, decimals: int, spread: bool) -> str:
    if not found:
        return "–"
    def show(number: float) -> str:
        return f"{number / divisor:.{decimals}f}"
    text = show(median(found))
    return f"{text} ({show(min(found))}–{show(max(found))})" if spread and len(found) > 1 else text


def _table(headings: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"
    return [line(headings), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)]


def measure_tables(measures: list[Measure], candidates: list[Candidate], samples: Samples,
                   failures: dict[tuple[str, str], str]) -> list[str]:
    lines = []
    for measure in measures:
        columns = _columns(measure)
        rows = []
        for candidate in candidates:
            if measure.needs_relay and candidate.program is None:
                continue
            values = samples.get(candidate.name, {}).get(measure.name, {})
            cells = [_cell(values.get(key), divisor, decimals, spread)
                     for key, _, divisor, decimals, spread in columns]
            if (candidate.name, measure.name) in failures:
                cells[0] = "failed" if not values else cells[0] + ", failed once or more"
            rows.append([candidate.title, *cells])
        lines += ["", f"**{measure.title}**", "", *_table([measure.name, *(c[1] for c in columns)], rows)]
    return lines


def _sentence(target: Target) -> str:
    words, divisor = UNITS[target.value]
    bound = f"{target.factor / divisor:g}"
    if target.peers:
        of = target.peers[0] if len(target.peers) == 1 else f"the {target.pick} of {', '.join(target.peers)}"
        bound = of if target.factor == 1 else f"{target.factor:g} × {of}"
    return f"{target.subject}: {words} {'≥' if target.relation == '>=' else '≤'} {bound}"


def _number(value: float | None, target: Target) -> str:
    if value is None:
        return "–"
    value /= UNITS[target.value][1]
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def target_table(verdicts: list[Verdict], measured: set[str]) -> list[str]:
    rows = []
    for verdict in verdicts:
        target = verdict.target
        if target.measure not in measured:
            continue
        outcome = {True: "met", False: "missed", None: f"not judged without {', '.join(verdict.missing)}"}
        rows.append(["floor" if target.floor else "aim", target.measure, _sentence(target),
                     _number(verdict.got, target), _number(verdict.needed, target), outcome[verdict.met]])
    return ["", "**Targets** (a floor decides the exit status, an aim is information)", "",
            *_table(["", "measure", "target", "got", "needed", ""], rows)] if rows else []


def disturbance(samples: Samples) -> str:
    """How much other work the machine had meanwhile: what a wide spread may come from."""
    found = [used for measures in samples.values() for values in measures.values()
             for used in values.get("cores_used_by_others", [])]
    if not found:
        return "other programs on the machine were not observed"
    text = f"other programs used {median(found):.2f} cores meanwhile (median; at most {max(found):.2f})"
    return text + ": disturbed, trust CPU before wall time, or repeat" if max(found) > 0.2 else text


def _summary(found: list[float]) -> dict:
    return {"median": median(found), "least": min(found), "most": max(found), "samples": found}


def as_json(machine: dict, settings: dict, remarks: list[str], samples: Samples,
            failures: dict[tuple[str, str], str], verdicts: list[Verdict]) -> dict:
    return {
        "machine": machine, "settings": settings, "remarks": remarks,
        "results": {candidate: {measure: {value: _summary(found) for value, found in values.items()}
                                for measure, values in measures.items()}
                    for candidate, measures in samples.items()},
        "failures": [{"candidate": candidate, "measure": measure, "reason": reason}
                     for (candidate, measure), reason in failures.items()],
        "targets": [{"floor": v.target.floor, "measure": v.target.measure, "target": _sentence(v.target),
                     "got": v.got, "needed": v.needed, "met": v.met} for v in verdicts],
    }
