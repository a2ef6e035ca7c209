"""Do a run from beginning to end, in this process; a cluster's executor will stand beside it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from napari_memseg.inference.folder import alone
from napari_memseg.inference.run import run_blocks
from napari_memseg.inference.run_card import finish_run_card, read_run_card
from napari_memseg.inference.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_memseg.geometry import Box
    from napari_memseg.inference.control import Control
    from napari_memseg.inference.plan import Block, Plan
    from napari_memseg.io.volume import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """How far a run is."""

    done: int
    """Blocks on the disk, those of earlier attempts included."""
    total: int
    resumed: int
    """Blocks that were on the disk when this attempt began."""
    block: Block | None = None
    """The one just finished; None on the first step of an attempt."""
    box: Box | None = None
    """Its voxels, at the working level."""


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
        First where the run stands, then each block as it reaches the disk.

    Raises
    ------
    RunMismatchError
        If the destination holds a run of another plan; nothing is changed.
    InputError
        If another process is writing this run.
    Cancelled
        If somebody asked for it.
    """
    with alone(plan, restart=restart):
        began = monotonic()
        with closing(Store(plan)) as store:
            blocks = list(plan.blocks())
            left = [block for block in blocks if not store.is_done(block)]
            done = resumed = len(blocks) - len(left)
            yield RunStep(done=done, total=len(blocks), resumed=resumed)
            if left:
                for told in run_blocks(plan, left, control, image=image, store=store):
                    done += 1
                    yield RunStep(
                        done=done, total=len(blocks), resumed=resumed, block=told.block, box=told.box
                    )
            store.build_coarse(plan.region)
        destination = Path(plan.destination)
        if left or not read_run_card(destination)["finished"]:
            finish_run_card(destination, blocks=len(blocks), seconds=monotonic() - began)
