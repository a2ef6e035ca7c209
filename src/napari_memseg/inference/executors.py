"""Do a run from beginning to end, in this process; ``cluster.py`` does it in many."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from napari_memseg.inference.folder import alone, watched
from napari_memseg.inference.ledger import FAILED, SKIPPED
from napari_memseg.inference.resources import begin_peaks
from napari_memseg.inference.run import open_image, run_blocks
from napari_memseg.inference.run_card import finish_run_card, read_run_card
from napari_memseg.inference.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from napari_memseg.geometry import Box
    from napari_memseg.inference.control import Control
    from napari_memseg.inference.plan import Block, Plan
    from napari_memseg.inference.resources import Peaks
    from napari_memseg.inference.writer import BlockDone
    from napari_memseg.io.volume import Volume

HOPELESS = 3
"""Failed blocks after which a run ends, if none was finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """How far a run is."""

    done: int
    """Blocks on the disk, those of earlier attempts and those that were skipped included."""
    total: int
    resumed: int
    """Blocks that were on the disk when this attempt began."""
    skipped: int = 0
    """Blocks that were empty."""
    failed: int = 0
    """Blocks that could not be computed in this attempt."""
    block: Block | None = None
    """The one just finished; None on the first step of an attempt."""
    box: Box | None = None
    """Its voxels, at the working level."""
    seconds: float = 0.0
    """That computing it took."""
    reason: str = ""
    """Why it failed; empty if it did not."""
    memory: Mapping[str, Any] = field(default_factory=dict)
    """How often memory did not suffice so far, and what became of it; see ``merged_notes``."""
    peaks: Peaks | None = None
    """Of the memory of a cluster's workers, each the largest worker's; None if this process computes."""


class Tally:
    """Count what becomes of the blocks of an attempt, for whichever executor."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        blocks = list(plan.blocks())
        self.left = [block for block in blocks if not store.is_done(block)]
        self.total = len(blocks)
        self.done = self.resumed = self.total - len(self.left)
        self.skipped = len(store.skipped)
        self.failures: list[dict[str, Any]] = []
        self._notes: dict[str, Mapping[str, Any]] = {}
        self._peaks: Peaks | None = None
        self._first_error: Exception | None = None
        self._began = monotonic()

    @property
    def memory(self) -> dict[str, Any]:
        """What is known of the memory of all workers."""
        return merged_notes(self._notes.values())

    def step(self, told: BlockDone | None = None) -> RunStep:
        """Count one block, and say how far the run is.

        Raises
        ------
        Exception
            That of the first block that failed, the likely cause, if too many have and none was finished.
        """
        facts: dict[str, Any] = {}
        if told is not None:
            self._count(told)
            facts = {"block": told.block, "box": told.box, "seconds": told.seconds}
            facts |= {"reason": str(told.error or ""), "memory": self.memory}
        facts |= {"done": self.done, "total": self.total, "resumed": self.resumed}
        facts |= {"skipped": self.skipped, "failed": len(self.failures)}
        return RunStep(**facts, peaks=self._peaks)

    def finish(self) -> None:
        """Write down what the attempt came to, unless there was nothing to do, and none failed before."""
        destination = Path(self.plan.destination)
        card = read_run_card(destination)
        if self.left or not card["finished"] or card["result"].get("failures"):
            counts = {"blocks": self.total, "done": self.done, "skipped": self.skipped}
            result = {**counts, "failures": self.failures, "out_of_memory": self.memory}
            finish_run_card(destination, result=result, seconds=monotonic() - self._began)

    def _count(self, told: BlockDone) -> None:
        self._note(told)
        if told.status != FAILED:
            self.done += 1
            self.skipped += told.status == SKIPPED
            return
        place = {"stage": told.block.stage, "block": list(told.block.index), "box": str(told.box)}
        self.failures.append({**place, "reason": str(told.error)})
        self._first_error = self._first_error or told.error
        hopeless = len(self.failures) >= min(HOPELESS, len(self.left))
        if hopeless and not self.done and self._first_error is not None:
            raise self._first_error

    def _note(self, told: BlockDone) -> None:
        """Keep the largest peaks, and of each worker the latest notes: those with the most retries."""
        if told.peaks is not None:
            self._peaks = told.peaks | (self._peaks or told.peaks)
        known = self._notes.get(told.worker, {})
        if told.memory.get("retries", 0) >= known.get("retries", 0):
            self._notes[told.worker] = told.memory


def merged_notes(notes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what several processes say of their memory as if one had: all retries, the least of the rest.

    Parameters
    ----------
    notes : iterable of mapping
        As ``Footing.notes`` gives them.

    Returns
    -------
    dict
        Of the same keys: retries, and where there were any batch, tile, and whether a CPU helped out.
    """
    short = [note for note in notes if note.get("retries")]
    if not short:
        return {"retries": 0}
    return {
        "retries": sum(note["retries"] for note in short),
        "batch": min(note["batch"] for note in short),
        "tile": list(min((note["tile"] for note in short), key=prod)),
        "cpu": any(note["cpu"] for note in short),
    }


def in_process(
    plan: Plan, control: Control | None = None, *, restart: bool = False, image: Volume | None = None
) -> Iterator[RunStep]:
    """Do what a plan asks for, or what is left of it.

    Parameters
    ----------
    plan : Plan
        What to do. Its destination is made, or checked to hold an unfinished run of the same plan.
    control : Control, optional
        Pause, cancel, look here first.
    restart : bool
        Discard a run of ours that is there.
    image : Volume, optional
        If it is open already.

    Yields
    ------
    RunStep
        First where the run stands, then each block as it reaches the disk, or fails.

    Raises
    ------
    RunMismatchError
        If the destination holds a run of another plan: nothing is changed. Or if the image is gone or
        another one: what was read of it is not stored.
    InputError
        If another process is writing this run, or no block can be computed.
    DeviceLostError
        If the device is gone; start again to go on.
    Cancelled
        If somebody asked for it.
    """
    with alone(plan, restart=restart), closing(Store(plan)) as store:
        tally = Tally(plan, store)
        begin_peaks(plan.device)
        yield tally.step()
        if tally.left or not read_run_card(Path(plan.destination))["finished"]:
            image = image or open_image(plan)
            with watched(plan, image):
                left = tally.left
                for told in run_blocks(plan, left, control, image=image, store=store) if left else ():
                    yield tally.step(told)
        store.build_coarse(plan.region)
        tally.finish()
