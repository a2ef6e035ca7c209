"""Memory that does not grow with the volume: each run in a process of its own, over an empty store."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import zarr

import toys
from napari_memseg.io.pyramid import create_image
from napari_memseg.models.intensity import Window
from running import checkpoint_of

MIB = 2**20


def peak_bytes(folder: Path, side: int) -> int:
    """Segment a cube in a process of its own, and return the most memory that it held."""
    create_image(folder / f"{side}.ome.zarr", shape=(side,) * 3, dtype="uint8")
    here = Path(__file__).parent
    told = subprocess.run(
        [sys.executable, here / "large_run.py", folder, str(side)],
        env={
            "PYTHONPATH": str(here.parent),
            "OMP_NUM_THREADS": "1",
            "PATH": "",
            "XDG_CACHE_HOME": str(folder),
        },
        capture_output=True,
        check=True,
        text=True,
    )
    return json.loads(told.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_hundred_times_the_voxels_take_no_more_memory(tmp_path):
    checkpoint_of(toys.null(), tmp_path, Window(0.0, 255.0, "uint8"))
    small, large = (peak_bytes(tmp_path, side) for side in (216, 1000))
    assert large - small <= max(0.1 * small, 64 * MIB)
    labels = zarr.open_array(tmp_path / "1000-labels.ome.zarr" / "0", mode="r")
    assert (labels[500, 500] == 0).all()
