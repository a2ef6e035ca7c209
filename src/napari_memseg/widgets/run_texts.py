"""What the dock says of a run, in a sentence each: what it would take, how it goes, what it came to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from napari_memseg.widgets.relay import Outcome
from napari_memseg.workflows.progress import Progress
from napari_memseg.workflows.run_report import ending
from napari_memseg.workflows.words import duration, gib_text


def forecast_text(expected: Mapping[str, Any]) -> str:
    """Say what a run would take."""
    tiles, memory = expected["tiles"], expected["memory_gib"]
    parts = (
        f"{tiles:,} tile{'s' * (tiles != 1)}",
        "memory unknown here" if memory is None else f"about {gib_text(max(memory, 0.1))} of memory",
        f"{gib_text(expected['disk_gib'])} of disk",
        f"about {duration(expected['seconds'])}",
    )
    return f"{', '.join(parts)}; overlap {expected['redundancy']:.2f}"


def skipped_text(values: Mapping[str, float], total: int) -> str:
    """Say how many tiles were empty; nothing if none was."""
    skipped = values.get("skipped", 0)
    return f"{skipped:,} of {total:,} tiles empty, skipped" if skipped else ""


def failed_text(step: Progress) -> str:
    """Say that a tile has failed, or how many have."""
    failed = step.values["failed"]
    return f"A tile {step.message}" if failed == 1 else f"{failed:,} tiles failed. The last {step.message}"


def ending_text(outcome: Outcome) -> str:
    """Say how a run ended, and what it took beside what was forecast."""
    if outcome.error is not None:
        return str(outcome.error)
    if outcome.cancelled or outcome.result is None:
        return "Cancelled. What is finished is kept and shown; Resume goes on from there."
    result = outcome.result
    how = (ending(result) or "done").capitalize()
    skipped = skipped_text({"skipped": result["tiles_skipped"]}, result["tiles"])
    said = f"{how}: {result['voxels']:,} voxels{_taken(result)}."
    return f"{said}\n{skipped}." if skipped else said


def _taken(result: Mapping[str, Any]) -> str:
    """Say what a run took; of one that was resumed only the last part was timed."""
    seconds, forecast = duration(result["seconds"]), duration(result["forecast_seconds"])
    time = f", the rest in {seconds}" if result["resumed"] else f" in {seconds} (forecast {forecast})"
    return f"{time} on {result['device']}{_memory_taken(result)}"


def _memory_taken(result: Mapping[str, Any]) -> str:
    peak, forecast = result["peak_memory_gib"], result["forecast_memory_gib"]
    if peak is None:
        return ""
    return f", {gib_text(peak)} of memory" + ("" if forecast is None else f" (forecast {gib_text(forecast)})")
