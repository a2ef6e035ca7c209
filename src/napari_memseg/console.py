"""How a terminal reads what a person typed, and shows what a workflow says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from napari_memseg.errors import InputError
from napari_memseg.geometry import Zyx, zyx

if TYPE_CHECKING:
    from napari_memseg.workflows.progress import Progress

_LINES_PER_STAGE = 10


def join_halo(arguments: Sequence[str]) -> list[str]:
    """Let ``--halo Z Y X`` stand beside ``--halo exact``: join three numbers to one word."""
    words = [
        part for word in arguments for part in (word.split("=", 1) if word.startswith("--halo=") else [word])
    ]
    if "--halo" in words:
        at = words.index("--halo") + 1
        if all(word.isdigit() for word in words[at : at + 3]):
            words[at : at + 3] = [",".join(words[at : at + 3])]
    return words


def whole_numbers(text: str) -> list[int]:
    """Read whole numbers that are divided by commas."""
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise InputError(f"{text!r} is no list of whole numbers. Divide them by commas: 16,32,64.")
    return [int(part) for part in parts]


def settings_of(words: Sequence[str]) -> dict[str, Any]:
    """Read ``NAME=VALUE`` words; a value is JSON, or text where it is none.

    Raises
    ------
    InputError
        If a word has no name or no equals sign.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--set {word!r} is not possible. Write NAME=VALUE: expansions=[1.5], axes=zyx.")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def words_of_halo(text: str) -> str | Zyx:
    """Read ``exact``, ``recommended`` or three joined numbers."""
    if text in ("exact", "recommended"):
        return text
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise InputError(
            f"--halo {text!r} is not possible. Write exact, recommended, or three numbers: 16 16 16."
        )
    return zyx(map(int, parts))


def follow(steps: Iterable[Progress]) -> Mapping[str, Any]:
    """Show a workflow's steps on stderr and return what it came to."""
    console = Console(stderr=True)
    shown = _bars(steps, console) if console.is_terminal else _lines(steps)
    results = [step.result for step in shown if step.result is not None]
    return results[-1] if results else {}


def say(result: Any, as_json: bool) -> None:
    """Print a result on stdout: as one line of JSON, or for people."""
    if as_json:
        click.echo(json.dumps(result))
        return
    for row in result if isinstance(result, list) else [result]:
        click.echo("\n".join(_plain(row)))
        if isinstance(result, list):
            click.echo()


def _plain(row: Mapping[str, Any], indent: str = "") -> Iterable[str]:
    width = max((len(str(key)) for key in row), default=0)
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}"
            yield from _plain(value, indent + "  ")
        else:
            text = f"{value:.4g}" if isinstance(value, float) else value
            yield f"{indent}{key!s:<{width}}  {text}"


def _bars(steps: Iterable[Progress], console: Console) -> Iterable[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, TextColumn("{task.fields[note]}"), console=console) as bar:
        tasks: dict[str, Any] = {}
        for step in steps:
            if step.stage not in tasks:
                tasks[step.stage] = bar.add_task(step.stage, total=step.total, note="")
            bar.update(tasks[step.stage], completed=step.done, total=step.total, note=_note(step))
            yield step


def _lines(steps: Iterable[Progress]) -> Iterable[Progress]:
    shown: dict[str, int] = {}
    for step in steps:
        part = _LINES_PER_STAGE * step.done // max(step.total, 1)
        if shown.get(step.stage) != part or step.message:
            shown[step.stage] = part
            click.echo(f"{step.stage}: {step.done}/{step.total} {_note(step)}".rstrip(), err=True)
        yield step


def _note(step: Progress) -> str:
    numbers = " ".join(f"{name} {value:.4g}" for name, value in step.values.items())
    return f"{numbers} {step.message}".strip()
