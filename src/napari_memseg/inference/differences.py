"""Say where two runs differ, value by value, in words that a person can act on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WORDS = {
    "fingerprint": "the image (its fingerprint)",
    "sha256": "the model (sha256 of its weights)",
    "network": "the network (architecture and arguments)",
    "core": "the tile's core",
}
"""Names of values that do not speak for themselves."""


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each value in which two trees of JSON values differ."""
    return [f"{WORDS.get(n, n)} is {a} here and {b} there" for n, a, b in _leaves(mine, theirs, "")]


def _leaves(mine: Any, theirs: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield dotted name and both values of every leaf that differs; rows of a table go by their names."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in dict.fromkeys([*mine, *theirs]):
            yield from _leaves(mine.get(key), theirs.get(key), f"{name}.{key}".lstrip("."))
    elif _is_table(mine) and _is_table(theirs):
        yield from _leaves(_by_name(mine), _by_name(theirs), name)
    elif mine != theirs:
        yield name, mine, theirs


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _by_name(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {str(row.get("name", n)): row for n, row in enumerate(rows)}
