"""How often a stored chunk is decoded when overlapping tiles are read: counted exactly, nothing is timed.

    python benchmarks/decodes.py [--side 2048] [--chunk 64]

Blocks of a plan for a uint16 cube are visited in three orders, through the engine's own cache of
decoded chunks: raster, as the labels are stored; Morton, a curve that fills space; and pencils, as wide
as the engine chooses them for that cache. Half a minute.
"""

import argparse
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from napari_memseg.geometry import Zyx, ceil_div, cells, zyx
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.draft import make_plan
from napari_memseg.inference.pencils import pencil_width, visiting_key
from napari_memseg.inference.plan import Block, Plan
from napari_memseg.io.volume import ChunkCache, Volume
from napari_memseg.models.checkpoint import Card, save_checkpoint
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.intensity import Window
from napari_memseg.models.registry import create_model

TILES, HALOS, CACHES_MIB = (128, 192, 256), (0, 16, 96), (64, 256, 1024)


class Nothing:
    """A cube of zeros that takes no memory."""

    def __init__(self, side: int, chunk: int) -> None:
        self.shape, self.chunks = zyx([side] * 3), zyx([chunk] * 3)
        self.dtype = np.dtype(np.uint16)

    def __getitem__(self, index: tuple[slice, slice, slice]) -> np.ndarray[Any, Any]:
        """Return zeros, of the shape asked for."""
        return np.broadcast_to(self.dtype.type(0), [s.stop - s.start for s in index])


def plan_for(array: Nothing, folder: Path, tile: int, halo: int) -> Plan:
    """Plan a run of a small network over a cube."""
    model = create_model("unet3d", ClassTable.from_ids([1]), widths=[4, 4])
    window = Window(0, 1, "uint16")
    card = Card(
        architecture=model.architecture, arguments=model.arguments, classes=model.classes, window=window
    )
    save_checkpoint(folder / "model.safetensors", model, card)
    image = Volume([array], None, None, name="cube", source="memory", format="memory")
    config = SegmentConfig(tile=zyx([tile] * 3), halo=zyx([halo] * 3), device="cpu")
    return make_plan(folder / "model.safetensors", image, folder / "labels.ome.zarr", config)


def morton(index: Zyx) -> int:
    """Interleave the bits of three indices."""
    return sum(((i >> bit) & 1) << (3 * bit + 2 - axis) for axis, i in enumerate(index) for bit in range(16))


def decodes(plan: Plan, blocks: list[Block], chunk: Zyx, limit: int) -> float:
    """Return the decodes per stored chunk when blocks are read in that order."""
    cache, (stage,) = ChunkCache(limit), plan.stages
    decoded = np.broadcast_to(np.uint16(0), chunk)
    for block in blocks:
        box = stage.box(stage.reads[0], plan.box_of(block).start, plan.core, plan.shape)
        for index in cells(box, chunk):
            cache.get(index, decoded.view)
    return cache.misses / float(np.prod(ceil_div(plan.shape, chunk)))


def row(array: Nothing, tile: int, halo: int) -> list[str]:
    """Count one tile and halo, in each cache and order."""
    with TemporaryDirectory() as folder:
        plan = plan_for(array, Path(folder), tile, halo)
    blocks = list(plan.blocks())
    counts = []
    for limit in (mib * 2**20 for mib in CACHES_MIB):
        width = pencil_width(plan, [array.chunks], limit)
        orders = [blocks, sorted(blocks, key=lambda block: morton(block.index))]
        orders.append(sorted(blocks, key=lambda block, width=width: visiting_key(block, width)))
        counts += [f"{decodes(plan, order, array.chunks, limit):.2f}" for order in orders]
        counts[-1] += f" ({width[0]} x {width[1]})"
    return counts


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--chunk", type=int, default=64)
    asked = parser.parse_args()
    orders = ("raster", "Morton", "pencils")
    print(f"Decodes per stored chunk of {asked.chunk}^3 uint16 voxels, volume {asked.side}^3\n")
    heads = [f"{order}, {mib} MiB" for mib, order in product(CACHES_MIB, orders)]
    print("| tile | halo | " + " | ".join(heads) + " |\n|" + "---|" * (2 + len(heads)))
    array = Nothing(asked.side, asked.chunk)
    for tile, halo in product(TILES, HALOS):
        print(f"| {tile} | {halo} | " + " | ".join(row(array, tile, halo)) + " |", flush=True)


if __name__ == "__main__":
    main()
