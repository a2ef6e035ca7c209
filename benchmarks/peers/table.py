"""Tables and a plot of what ``inference.py`` measured.

    python benchmarks/peers/table.py RUNS.jsonl [--plot FILE.png]

Every ratio is to the floor of the same round; every cell is the median [lowest, highest].
Engine overhead is CPU seconds over (bare tiles that it ran + read + write of the floor): what
the engine itself adds, the redundancy of overlap aside. On a GPU it is wall seconds over
the bare tiles alone. R is voxels that the network ran over per voxel of the volume.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
MIB, GIB = 2**20, 2**30
SAME = ("shape", "net", "steps", "tile", "overlap", "chunk", "device", "threads_asked", "arithmetic", "heap")
"""Runs that agree in these stand in one table."""


def tables(rows: Iterable[Row]) -> str:
    """Return a table in markdown per kind of job."""
    return "\n\n".join(_table(dict(zip(SAME, key, strict=True)), found) for key, found in _groups(rows))


def _groups(rows: Iterable[Row]) -> list[tuple[tuple[Any, ...], list[Row]]]:
    groups: dict[str, tuple[tuple[Any, ...], list[Row]]] = {}
    for row in rows:
        key = tuple(row[name] for name in SAME)
        groups.setdefault(json.dumps(key), (key, []))[1].append(row)
    return list(groups.values())


def _table(job: Row, rows: list[Row]) -> str:
    floors = {row["round"]: row for row in rows if row["engine"] == "floor"}
    columns = [column for column in _columns(floors, job) if any(column[1](row) is not None for row in rows)]
    lines = [
        f"### {' x '.join(map(str, job['shape']))} voxels, {job['net']}, tile {job['tile']}, "
        f"overlap {job['overlap']:g}, chunk {job['chunk']}",
        "",
        f"Peers and floor in {job['arithmetic']}, heap {'kept' if job['heap'] else 'as usual'}; "
        f"{job['device']}, threads {job['threads_asked'] or 'as usual'}; {_machine(rows)}.",
        *_parts(list(floors.values())),
        "",
        "| engine | arithmetic | n |" + "".join(f" {name} |" for name, *_ in columns),
        "|---|---|---|" + "---|" * len(columns),
    ]
    for name, found in _engines(rows).items():
        cells = (_cell(filter(_known, map(value, found)), form) for _, value, form in columns)
        lines.append(
            f"| {name} | {_computed(found)} | {len(found)} |" + "".join(f" {cell} |" for cell in cells)
        )
    return "\n".join(lines)


def _engines(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the runs of each engine: the floor, then the fastest first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["engine"], []).append(row)
    seconds = {name: statistics.median(map(wall, runs)) for name, runs in found.items()}
    return {name: found[name] for name in sorted(found, key=lambda name: (name != "floor", seconds[name]))}


def _computed(rows: list[Row]) -> str:
    """Say in which arithmetic an engine ran, and in which others."""
    said = []
    for row in rows:
        how = row.get("computed", {})
        layout = how.get("layout", "contiguous").replace("_", " ")
        said.append(f"{how.get('precision', 'float32')}, {layout}{', folded' if how.get('folded') else ''}")
    return "; ".join(dict.fromkeys(said))


def _machine(rows: list[Row]) -> str:
    about = rows[0].get("machine", {})
    what = about.get("gpu") or about.get("cpu", "unknown")
    loads = [row["load"] for row in rows if "load" in row]
    return (
        f"{what}, {about.get('cores')} cores, torch {about.get('torch')}, load {min(loads)} to {max(loads)}"
    )


def _parts(floors: list[Row]) -> list[str]:
    """Say what the floor consists of."""
    parts = []
    for part in ("read", "forward", "write"):
        wall, cpu = (_cell((row[f"{part}_{kind}"] for row in floors), "{:.2f}") for kind in ("wall", "cpu"))
        parts.append(f"{part} {wall} s, CPU {cpu} s")
    return ["", f"Floor: {'; '.join(parts)}."] if floors else []


def _columns(floors: dict[int, Row], job: Row) -> list[tuple[str, Callable[[Row], float | None], str]]:
    """Return name, value of a run, and format of each column."""
    cuda = job["device"].startswith("cuda")
    return [
        ("wall s", wall, "{:.2f}"),
        ("wall / floor", lambda row: _ratio(row, floors, "wall"), "{:.2f}"),
        ("CPU / floor CPU", lambda row: _ratio(row, floors, "cpu"), "{:.2f}"),
        ("engine overhead", lambda row: _overhead(row, floors, cuda), "{:.2f}"),
        ("R", lambda row: row["voxels_run"] / row["voxels"] if "voxels_run" in row else None, "{:.2f}"),
        ("Mvoxel / s", lambda row: row["voxels"] / wall(row) / 1e6, "{:.2f}"),
        ("peak RSS MiB", lambda row: row["peak_rss"] / MIB, "{:.0f}"),
        ("above base MiB", lambda row: (row["peak_rss"] - row["base_rss"]) / MIB, "{:.0f}"),
        ("GPU GiB", lambda row: row["device_bytes"] / GIB if "device_bytes" in row else None, "{:.2f}"),
        ("labels as reference", lambda row: row.get("equal"), "{:.6f}"),
        ("mean Dice", lambda row: statistics.mean(row["dice"]) if "dice" in row else None, "{:.4f}"),
    ]


def wall(row: Row) -> float:
    """Return the seconds of a run; of a floor those of its parts."""
    return float(row.get("floor_wall", row["wall"]))


def _ratio(row: Row, floors: dict[int, Row], kind: str) -> float | None:
    floor = floors.get(row["round"])
    if floor is None:
        return None
    return float(row.get(f"floor_{kind}", row[kind]) / floor[f"floor_{kind}"])


def _overhead(row: Row, floors: dict[int, Row], cuda: bool) -> float | None:
    floor = floors.get(row["round"])
    if floor is None or "bare" not in row:
        return None
    if cuda:
        return float(row["wall"] / (row["bare"]["wall"] * row["voxels_run"]))
    return float(
        row["cpu"] / (row["bare"]["cpu"] * row["voxels_run"] + floor["read_cpu"] + floor["write_cpu"])
    )


def _known(value: float | None) -> bool:
    return value is not None


def _cell(values: Iterable[Any], form: str) -> str:
    found = sorted(values)
    if not found:
        return ""
    texts = [form.format(value) for value in (statistics.median(found), found[0], found[-1])]
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]} [{texts[1]}, {texts[2]}]"


def plot(rows: list[Row], path: Path) -> None:
    """Draw seconds against memory, one panel per kind of job: left and low is good."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = _groups(rows)
    figure, panels = pyplot.subplots(
        len(groups), 1, figsize=(8, 5 * len(groups)), squeeze=False, layout="constrained"
    )
    for axes, (key, found) in zip(panels[:, 0], groups, strict=True):
        _panel(axes, dict(zip(SAME, key, strict=True)), found)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _panel(axes: Any, job: Row, rows: list[Row]) -> None:
    memory = "device_bytes" if any("device_bytes" in row for row in rows) else "peak_rss"
    for name, found in _engines(rows).items():
        seconds = statistics.median(map(wall, found))
        if name == "floor":
            axes.axvline(seconds, color="grey", linestyle="--", label="floor")
            continue
        size = statistics.median(row[memory] / GIB for row in found)
        axes.scatter(seconds, size, marker="*" if name.startswith("ours") else "o", s=60)
        axes.annotate(name, (seconds, size), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="seconds")
    axes.set_ylabel("GPU memory, GiB" if memory == "device_bytes" else "peak resident memory, GiB")
    axes.set_title(
        f"{'x'.join(map(str, job['shape']))}, {job['net']}, tile {job['tile']}, {job['arithmetic']}"
    )
    axes.grid(which="both", alpha=0.3)
    axes.legend()


def read(paths: Iterable[Path]) -> list[Row]:
    """Read the lines of such files."""
    return [json.loads(line) for path in paths for line in path.read_text().splitlines() if line]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    print(tables(read(arguments.runs)))
    if arguments.plot:
        plot(read(arguments.runs), arguments.plot)
