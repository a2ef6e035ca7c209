"""Tables in Markdown, and the spread of what was repeated."""

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class Table(NamedTuple):
    """Rows with the same columns, by name."""

    title: str
    rows: Mapping[str, Row]


def print_table(table: Table) -> None:
    """Print it as Markdown."""
    columns = list(next(iter(table.rows.values()), {}))
    print(f"\n| {table.title} | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for name, row in table.rows.items():
        print(f"| {name} | {' | '.join(_text(row[column]) for column in columns)} |", flush=True)


def spread(values: Iterable[float], unit: str = "") -> dict[str, Any]:
    """Return n, median, lowest and highest; ``unit`` is put behind the names of the last three."""
    found = sorted(values)
    names = (f"{name}{unit and ', '}{unit}" for name in ("median", "lowest", "highest"))
    return {"n": len(found), **dict(zip(names, (median(found), found[0], found[-1]), strict=True))}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
