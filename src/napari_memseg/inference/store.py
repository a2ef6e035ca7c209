"""Where a run's blocks go: labels, confidence, what stages keep, and the ledger of it all.

A block is done when its chunks are on the disk and its row is in the ledger, in this
order. Then the coarse chunks that it completes are built::

    chunks ── fsync ──> row ──> coarse chunk, if this was its last child ── fsync ──> row
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from napari_memseg.geometry import Box, Zyx, cell_box, cells, zyx
from napari_memseg.inference.ledger import DONE, FAILED, SKIPPED, Ledger, LedgerReader, Row
from napari_memseg.inference.plan import Block, Plan
from napari_memseg.inference.run_card import CONFIDENCE
from napari_memseg.io.arrays import chunk_files_exist, open_array
from napari_memseg.io.pyramid import open_pyramid, write_durable
from napari_memseg.models.base import SCORES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import zarr
    from numpy.typing import NDArray

    from napari_memseg.io.pyramid import Pyramid


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """A block that was computed, or skipped, and is to be stored."""

    block: Block
    made: Mapping[str, NDArray[Any]]
    """What its stage writes, by name."""
    seconds: float
    status: str = DONE


@dataclass(eq=False)
class Store:
    """The disk's end of a run, for one process; one thread at a time."""

    plan: Plan
    done: dict[str, set[Zyx]] = field(init=False)
    """Finished blocks and coarse chunks, by stage: what is known of all processes, and what this one adds."""
    skipped: set[Block] = field(init=False)
    """Those of them that were empty."""

    def __post_init__(self) -> None:
        self.done, self.skipped = {}, set()
        self._ledgers = LedgerReader(self.plan.folder)
        self.refresh()
        self._ledger = Ledger(self.plan.folder)

    def refresh(self, blocks: Sequence[Block] | None = None) -> None:
        """Learn what all processes have finished since, and what somebody has deleted.

        Parameters
        ----------
        blocks : sequence of Block, optional
            Whether these, and the coarse chunks over them, are still on the disk is looked at; by
            default all that is known, which takes long where the run is large.
        """
        for row in self._ledgers.new_rows():
            self._know(row)
        for block in self.plan.blocks() if blocks is None else blocks:
            if self.is_done(block) and not self._is_there(block):
                self.done[block.stage].discard(block.index)
        for name, pyramid in self._pyramids.items():
            for level, array in list(enumerate(pyramid.levels))[1:]:
                known = self.done.get(_coarse(name, level), set())
                over = known if blocks is None else known & self._over(blocks, level)
                known -= {index for index in over if not _chunk_exists(array, index)}

    def is_done(self, block: Block) -> bool:
        """Whether a block was finished, by anybody, and still is."""
        return block.index in self.done.get(block.stage, ())

    def write(self, finished: Sequence[Finished]) -> None:
        """Put blocks on the disk, then into the ledger at once, then build the coarse chunks over them."""
        written: list[Finished] = []
        try:
            for block in finished:
                self._write(block)
                written.append(block)
        finally:
            self._add(Row(f.block.stage, f.block.index, f.status, _hash(f.made), f.seconds) for f in written)
        for block in written:
            if SCORES in block.made:
                self.build_coarse(self.plan.box_of(block.block))

    def skip(self, blocks: Sequence[Block]) -> None:
        """Let empty blocks be background, and note that nobody looked; their confidence stays unknown."""
        self.write([Finished(block, self._background(block), 0.0, SKIPPED) for block in blocks])

    def fail(self, block: Block) -> None:
        """Note that a block cannot be computed; the next attempt tries it again."""
        self._ledger.add([Row(block.stage, block.index, FAILED)])

    def build_coarse(self, box: Box) -> None:
        """Build the coarse chunks over ``box`` whose children are all there, and take note of them."""
        for name, pyramid in self._pyramids.items():
            built = list(pyramid.propagate(box, partial(self._is_final, name)))
            self._add(Row(_coarse(name, level), index) for level, index in built)

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def _write(self, finished: Finished) -> None:
        box = self.plan.box_of(finished.block)
        for name, data in finished.made.items():
            if name in self._pyramids:
                self._pyramids[name].write(box, data)
            else:
                write_durable(self._arrays[name], self._slices(name, box), data)

    def _background(self, block: Block) -> dict[str, NDArray[Any]]:
        if block.stage != self.plan.stages[-1].name or not self.plan.segments:
            return {}
        shape, classes = self.plan.box_of(block).shape, self.plan.classes
        return {SCORES: np.full(shape, classes.ids[0], classes.dtype)}

    def _add(self, rows: Iterable[Row]) -> None:
        rows = list(rows)
        if rows:
            self._ledger.add(rows)
        for row in rows:
            self._know(row)

    def _know(self, row: Row) -> None:
        """Take note of a row; a block that failed in one process and was finished by another is done."""
        if row.status in (DONE, SKIPPED):
            self.done.setdefault(row.stage, set()).add(row.block)
        if row.status == SKIPPED:
            self.skipped.add(Block(row.stage, row.block))

    def _is_final(self, name: str, level: int, chunk: Zyx) -> bool:
        """Whether a chunk of a pyramid is done, or will never be written."""
        voxels = cell_box(chunk, self._voxels_of_chunk(level), self.plan.shape)
        if (voxels & self.plan.region).is_empty:
            return True
        if level > 0:
            return chunk in self.done.get(_coarse(name, level), ())
        core = zyx(a // n for a, n in zip(voxels.start, self.plan.core, strict=True))
        return self.is_done(Block(self.plan.stages[-1].name, core))

    def _voxels_of_chunk(self, level: int) -> Zyx:
        """Return how many voxels of the working level a chunk of a pyramid's level stands for."""
        return zyx(c * 2**level for c in self.plan.chunk)

    def _over(self, blocks: Sequence[Block], level: int) -> set[Zyx]:
        """Return the indices of a level's chunks that are made of these blocks, among others."""
        voxels = self._voxels_of_chunk(level)
        return {index for block in blocks for index in cells(self.plan.box_of(block), voxels)}

    @cached_property
    def _pyramids(self) -> dict[str, Pyramid]:
        """Return the outputs with levels; scores become labels on the device, and are kept as these."""
        if not self.plan.segments:
            return {}
        labels = {SCORES: open_pyramid(self.plan.destination)}
        if not self.plan.confidence:
            return labels
        return {**labels, CONFIDENCE: open_pyramid(Path(self.plan.destination) / CONFIDENCE)}

    @cached_property
    def _arrays(self) -> dict[str, zarr.Array[Any]]:
        names = [array.name for stage in self.plan.stages for array in stage.writes]
        return {name: open_array(self.plan.array_path(name)) for name in names}

    def _slices(self, name: str, box: Box) -> tuple[slice, ...]:
        array = next(a for stage in self.plan.stages for a in stage.writes if a.name == name)
        whole = slice(0, array.channels)
        return (whole,) if array.vector else (whole, *box.coarsen(array.factor).slices)

    def _is_there(self, block: Block) -> bool:
        """Whether the files of a block still exist: somebody may have deleted one."""
        box, stage, skipped = self.plan.box_of(block), self.plan.stage(block.stage), block in self.skipped
        kept = [] if skipped else stage.writes
        parts = [(self._arrays[a.name], self._slices(a.name, box)) for a in kept]
        if block.stage == self.plan.stages[-1].name:
            seen = [p for name, p in self._pyramids.items() if name == SCORES or not skipped]
            parts += [(pyramid.levels[0], box.slices) for pyramid in seen]
        return all(chunk_files_exist(array, slices) for array, slices in parts)


def _coarse(name: str, level: int) -> str:
    """Return the name under which the ledgers know a level of an output."""
    return f"{'pyramid' if name == SCORES else name}/{level}"


def _chunk_exists(array: zarr.Array[Any], index: Zyx) -> bool:
    return chunk_files_exist(array, cell_box(index, zyx(array.chunks), zyx(array.shape)).slices)


def _hash(made: Mapping[str, NDArray[Any]]) -> str:
    digest = xxhash.xxh3_64()
    for name in sorted(made):
        digest.update(np.ascontiguousarray(made[name]).data)
    return digest.hexdigest()
