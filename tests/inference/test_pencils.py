"""The order of visits: every block once, and hardly a chunk twice."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import toys
from napari_memseg.geometry import Box, cells
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.draft import make_plan
from napari_memseg.inference.pencils import pencil_width, pencils, visiting_key
from napari_memseg.inference.plan import Block, Plan
from napari_memseg.io.volume import CACHE_BYTES, ChunkCache
from napari_memseg.models.intensity import Window
from running import InMemory, checkpoint_of, in_memory

CHUNK = (64, 64, 64)
widths = st.tuples(st.integers(1, 5), st.integers(1, 5))
grids = st.tuples(*[st.integers(1, 6)] * 3)
lengths = st.none() | st.integers(1, 99)


def blocks_of(grid: tuple[int, int, int]) -> list[Block]:
    return [Block("only", index) for index in product(*map(range, grid))]


@given(grids, widths, lengths, st.randoms())
def test_every_block_is_visited_once_in_the_order_of_the_sweep(grid, width, longest, chance):
    blocks = blocks_of(grid)
    chance.shuffle(blocks)
    visited = [block for piece in pencils(blocks, width, longest) for block in piece]
    assert sorted(visited) == sorted(blocks)
    assert visited == sorted(visited, key=lambda block: visiting_key(block, width))


@given(grids, widths, lengths)
def test_a_piece_lies_in_one_column_and_is_no_longer_than_asked_for(grid, width, longest):
    for piece in pencils(blocks_of(grid), width, longest):
        assert len({(y // width[0], x // width[1]) for _, y, x in (block.index for block in piece)}) == 1
        assert 1 <= len(piece) <= (longest or grid[0] * width[0] * width[1])


@given(grids, widths, st.integers(1, 99))
def test_long_pencils_are_cut_between_layers_wherever_a_layer_fits(grid, width, longest):
    for piece in pencils(blocks_of(grid), width, longest):
        layers = [block.index[0] for block in piece]
        _, y, x = piece[0].index
        own = [b for b in blocks_of(grid) if visiting_key(b, width)[:2] == (y // width[0], x // width[1])]
        of_a_layer = len(own) // grid[0]
        assert longest < of_a_layer or all(layers.count(z) == of_a_layer for z in layers)


def plan_for(folder, shape, *, chunk=CHUNK, tile: int = 128, box: str | None = None) -> tuple[Plan, list]:
    """Return a plan for a volume without voxels, and its chunks."""
    data = np.broadcast_to(np.uint16(0), shape)
    image = in_memory(data)
    image.arrays[0] = InMemory(data, chunk)
    model = checkpoint_of(toys.null(), folder, Window(0, 1, "uint16"))
    config = SegmentConfig(chunk=64, tile=(tile,) * 3, halo=(16, 16, 16), box=box, device="cpu")
    return make_plan(model, image, folder / "labels.ome.zarr", config), [chunk]


def decodes(plan: Plan, chunk: tuple[int, int, int], limit: int = CACHE_BYTES) -> float:
    """Count how often a stored chunk is decoded on average, in a real cache of chunks without memory."""
    cache, stage = ChunkCache(limit), plan.stages[0]
    (read,) = stage.reads
    decoded = np.broadcast_to(np.zeros((), plan.window.dtype), chunk)
    for piece in pencils(plan.blocks(), pencil_width(plan, [chunk], limit)):
        for block in piece:
            box = stage.box(read, plan.box_of(block).start, plan.core, plan.shape)
            for index in cells(box, chunk):
                cache.get(index, decoded.view)
    return cache.misses / len(list(cells(Box.whole(plan.shape), chunk)))


@pytest.mark.parametrize("side", [1024, 1500, 2048])
def test_a_chunk_is_decoded_at_most_one_and_a_half_times(tmp_path, side):
    plan, _ = plan_for(tmp_path, (side,) * 3)
    assert decodes(plan, CHUNK) <= 1.5


def test_nor_more_often_in_the_widest_volumes(tmp_path):
    plan, _ = plan_for(tmp_path, (400, 6000, 6000))
    assert decodes(plan, CHUNK) <= 1.5


def test_pages_are_decoded_once_if_a_layer_of_them_can_be_kept(tmp_path):
    plan, chunks = plan_for(tmp_path, (500, 800, 700), chunk=(1, 800, 700))
    assert pencil_width(plan, chunks) == (7, 6)
    assert decodes(plan, (1, 800, 700)) == 1


def test_a_region_amid_the_volume_is_one_pencil_if_a_layer_of_it_can_be_kept(tmp_path):
    plan, chunks = plan_for(tmp_path, (1000, 4000, 4000), box="500:900,2048:2500,2048:2500")
    assert len(pencils(plan.blocks(), pencil_width(plan, chunks))) == 1


def test_where_not_even_the_chunks_of_one_block_can_be_kept_a_pencil_is_one_block_wide(tmp_path):
    plan, chunks = plan_for(tmp_path, (500, 1300, 1300))
    assert pencil_width(plan, chunks, limit=2**20) == (1, 1)


def test_a_pencil_holds_all_children_of_a_coarse_chunk(tmp_path):
    plan, chunks = plan_for(tmp_path, (400, 1300, 1300), tile=64)
    for width, across in zip(pencil_width(plan, chunks), (21, 21), strict=True):
        assert width % 2 == 0 or width == across


def test_a_model_of_many_stages_has_one_width_for_all(tmp_path):
    data = np.broadcast_to(np.float32(0), (64, 640, 640))
    image = in_memory(data)
    config = SegmentConfig(chunk=16, tile=(32, 32, 32), device="cpu")
    plan = make_plan(checkpoint_of(toys.toy(), tmp_path), image, tmp_path / "labels.ome.zarr", config)
    width = pencil_width(plan, [array.chunks for array in image.arrays])
    assert width == (20, 20), "all of it fits"
    assert pencil_width(plan, [(16, 16, 16)], limit=10 * 2**20) < width
