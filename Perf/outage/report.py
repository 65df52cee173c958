"""Tables for a person, plots for a report."""
import html
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / ".build/outage-venv"
REQUIREMENTS = Path(__file__).resolve().parent / "requirements.txt"


def table(head: list[str], rows: list[list[str]]):
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for number, row in enumerate([head, *rows]):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))
    print(flush=True)


def seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def names(rows: list[dict], key: str) -> list:
    return list(dict.fromkeys(row[key] for row in rows))


def cell(rows: list[dict]) -> str:
    """Median and worst of a cell's rounds; or why there is none."""
    if not rows:
        return "–"
    values = [row["worst"] for row in rows if "worst" in row]
    if not values:
        first = rows[0]
        return "–" if "skipped" in first else "broken" if "broken" in first else f"> {seconds(first['late'])}"
    text = seconds(statistics.median(values))
    if len(rows) > 1:
        text += f" ({seconds(max(values))})"
    if len(values) < len(rows):
        text += f", {len(rows) - len(values)} of {len(rows)} never"
    return text


def recoveries(rows: list[dict]):
    print("Recovery: seconds from the moment the path is whole to the first new byte, the slower direction"
          + ("; median (worst)" if len(names(rows, "round")) > 1 else ""))
    across = names(rows, "transport")
    table(["fault", "outage", *across],
          [[fault, f"{outage:g} s", *(cell([row for row in rows if (row["fault"], row["outage"], row["transport"])
                                           == (fault, outage, name)]) for name in across)]
           for fault in names(rows, "fault") for outage in names(rows, "outage")])


def backlogs(rows: list[dict]):
    if not rows:
        return
    print(f"Backlog: a stream of {rows[0]['of']}; seconds until all that was produced is there"
          + ("; median (worst)" if len(names(rows, "round")) > 1 else ""))
    table(["transport", "caught up", "at best"],
          [[name, caught_up([row for row in rows if row["transport"] == name]), seconds(rows[0]["best"])] for name in names(rows, "transport")])


def caught_up(rows: list[dict]) -> str:
    """Median and worst of the rounds."""
    values = [row["caught"] for row in rows if row["caught"]]
    if not values:
        return rows[0].get("broken", "never")
    text = seconds(statistics.median(values)) + (f" ({seconds(max(values))})" if len(rows) > 1 else "")
    return text + (f", {len(rows) - len(values)} of {len(rows)} never" if len(values) < len(rows) else "")


def keystrokes(rows: list[dict]):
    if not rows:
        return
    print(f"Keystrokes beside bulk on {rows[0]['path']}: echo in ms, p50 / p99 (the worst round's p99), and the bulk in Mbit/s")
    across = names(rows, "transport")

    def text(found):
        if not found:
            return "failed"
        middle = [statistics.median(row[key] for row in found) for key in ("p50", "p99", "rate")]
        worst = f" ({max(row['p99'] for row in found) * 1e3:.0f})" if len(found) > 1 else ""
        return f"{middle[0] * 1e3:.0f} / {middle[1] * 1e3:.0f}{worst}, {middle[2] / 1e6:.3g}"
    table(["congestion", "bulk", *across],
          [[congestion, f"{streams} {way}", *(text([row for row in rows if (row["congestion"], row["direction"], row["streams"],
                                                                           row["transport"]) == (congestion, way, streams, name)])
                                              for name in across)]
           for congestion in names(rows, "congestion") for way in names(rows, "direction") for streams in names(rows, "streams")])


def many(rows: list[dict]):
    print(f"{rows[0]['count']} connections with a byte waiting each, {rows[0]['outage']:g} s without a path: seconds from the heal to the "
          "first byte, and until all are there")
    table(["transport", "first", "all"],
          [[row["transport"], seconds(row["first"]) if row["first"] is not None else "none",
            seconds(row["last"]) if row["arrived"] == row["count"] else f"{row['arrived']} of {row['count']} came"] for row in rows])


def paths(rows: list[dict]):
    print("Difficult paths: Mbit/s of bulk beside keystrokes; in brackets how often tele changed its carrier")
    across = names(rows, "transport")

    def text(found):
        if not found:
            return "failed"
        changes = "" if found[0]["changes"] is None else f" ({max(row['changes'] for row in found)})"
        return f"{statistics.median(row['rate'] for row in found) / 1e6:.3g}{changes}"
    table(["path", "congestion", "streams", *across],
          [[name, congestion, str(streams), *(text([row for row in rows if (row["path"], row["congestion"], row["streams"], row["transport"])
                                               == (name, congestion, streams, transport)]) for transport in across)]
           for name in names(rows, "path") for congestion in names(rows, "congestion") for streams in names(rows, "streams")])


def two_paths(switches: list[dict], sums: list[dict]):
    print("Two paths of 50 Mbit/s and 20 ms round trip, one of which goes silent and comes back: the longest gap in ms, median (worst)")

    def gap(found, what):
        seconds = [row[what] * 1e3 for row in found]
        return f"{statistics.median(seconds):.0f} ({max(seconds):.0f})" if seconds else "failed"
    rows = [(name, bulk, [row for row in switches if (row["transport"], row["bulk"]) == (name, bulk)])
            for name in names(switches, "transport") for bulk in names(switches, "bulk")]
    table(["transport", "beside", "silence", "back"],
          [[name, "bulk" if bulk else "nothing", gap(found, "silence"), gap(found, "back")] for name, bulk, found in rows])
    print("Eight streams, four carriers: Mbit/s")
    rates: dict[tuple[str, int], list[float]] = {}
    for row in sums:
        rates.setdefault((row["transport"], row["paths"]), []).append(row["rate"])
    table(["transport", "paths", "rate"], [[name, str(count), f"{statistics.median(found) / 1e6:.1f}"] for (name, count), found in rates.items()])


# Plots

def prepare_plots():
    """Goes on with a Python that has matplotlib, in an environment of its own, made once."""
    python = VENV / "bin/python3"
    if Path(sys.prefix).resolve() == VENV.resolve():
        return
    if not python.exists() or subprocess.run([python, "-c", "import matplotlib"], capture_output=True).returncode:
        print("making an environment with matplotlib, once", file=sys.stderr)
        made = subprocess.run(f"{sys.executable} -m venv {VENV} && {python} -m pip install -q -r {REQUIREMENTS}", shell=True,
                              capture_output=True, text=True)
        if made.returncode:
            last = (made.stderr or made.stdout).strip().splitlines()[-1:]
            raise SystemExit(f"outage: error: no matplotlib: {last[0] if last else 'pip failed'}\n"
                             "outage: hint: without --html it is not needed; apt-get install python3-venv")
    os.execv(python, [str(python), *sys.argv])


def write_html(results: dict, path: Path):
    figures = [plot for key, draw in (("records", plot_recoveries), ("backlog", plot_backlog), ("keystrokes", plot_keystrokes))
               if results.get(key) and (plot := draw(results[key]))]
    path.write_text(f"""<!doctype html>
<meta charset="utf-8"><title>Outage laboratory</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
svg {{ width: 100%; height: auto }} code {{ background: #8882; padding: .1em .3em }}</style>
<h1>Outage laboratory</h1>
<p><code>{html.escape(results["command"])}</code>, Linux {html.escape(results["kernel"])}</p>
{"".join(f"<h2>{html.escape(title)}</h2>{svg}" for title, svg in figures)}
""", encoding="utf-8")


def drawn(title: str, draw) -> tuple[str, str]:
    import io

    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "outage"
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(8, 4))
    draw(axes)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    return title, out.getvalue()[out.getvalue().index("<svg"):]


def plot_recoveries(rows: list[dict]):
    rows = [row for row in rows if row["fault"] == "blackhole" and "worst" in row]
    if not rows:
        return None

    def draw(axes):
        for name in names(rows, "transport"):
            mine = [row for row in rows if row["transport"] == name]
            outages = sorted(set(names(mine, "outage")))
            axes.plot(outages, [statistics.median(row["worst"] for row in mine if row["outage"] == outage) for outage in outages],
                      "o-", label=name)
        axes.set(xlabel="length of the blackhole, s", ylabel="first new byte, s", yscale="log")
    return drawn("Recovery against the length of the outage", draw)


def plot_backlog(rows: list[dict]):
    def draw(axes):
        for row in rows:
            if row["round"] == 0:
                axes.plot([at for at, _ in row["progress"]], [count / 1e6 for _, count in row["progress"]], label=row["transport"])
        axes.axvspan(rows[0]["began"], rows[0]["healed"], alpha=0.15, color="gray", label="no path")
        axes.set(xlabel="s", ylabel="delivered, MB")
    return drawn("Bytes delivered through one outage", draw)


def plot_keystrokes(rows: list[dict]):
    def draw(axes):
        for name in names(rows, "transport"):
            for style, congestion in zip(("-", "--", ":"), names(rows, "congestion")):
                echoes = sorted(echo * 1e3 for row in rows if (row["transport"], row["congestion"]) == (name, congestion)
                                for echo in row["echoes"])
                if echoes:
                    axes.plot(echoes, [(i + 1) / len(echoes) for i in range(len(echoes))], style, label=f"{name}, {congestion}")
        axes.set(xlabel="echo of a keystroke beside bulk, ms", ylabel="share", xscale="log")
    return drawn("Keystrokes beside bulk", draw)
