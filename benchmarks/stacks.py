"""What a stack of 20 GB costs until it is listed, shown, checked and converted, and slices along z by then.

    xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/stacks.py WORK [--slices 5120] [--times 3]

Writes a folder of TIFF slices and a BigTIFF of as many pages, 2048 x 2048 uint8 each, into WORK: whole on the
disk as far as a reader can tell, but of each plane only 16 rows hold data, the rest are holes of the file
system. Listing, showing and checking are repeated, after the first time with what the system has cached;
each conversion runs once in a process of its own, whose peak of memory is told. Needs the extra for the
viewer and 5 GB of disk; takes half an hour on 2 cores.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import napari
import numpy as np
import tifffile
from figures.table import Table, print_table
from qtpy.QtWidgets import QApplication

from napari_memseg.io.formats import open_volume
from napari_memseg.io.volume import CACHE, Volume

EDGE, ROWS = 2048, 16
KINDS = {"folder of slices": "slices", "BigTIFF": "stack.btf"}
CONVERT = """
import json, sys
from napari_memseg.workflows.convert import convert
for step in convert(sys.argv[1], sys.argv[2]):
    pass
status = dict(line.split(":") for line in open("/proc/self/status"))
print(json.dumps({"seconds": step.result["seconds"], "peak": int(status["VmHWM"].split()[0]) / 2**20}))
"""


def main() -> None:
    """Write both stacks, measure each, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--slices", type=int, default=5120)
    parser.add_argument("--times", type=int, default=3)
    asked = parser.parse_args()
    asked.work.mkdir(exist_ok=True)
    _write_slices(asked.work / KINDS["folder of slices"], asked.slices)
    _write_bigtiff(asked.work / KINDS["BigTIFF"], asked.slices)
    rows = {kind: _measure(asked.work / name, asked.times) for kind, name in KINDS.items()}
    size = asked.slices * EDGE**2 / 2**30
    print_table(Table(f"{asked.slices} slices of {EDGE} x {EDGE}, {size:.3g} GiB; n = {asked.times}", rows))


def _planes(count: int) -> Iterator[tuple[int, bytes]]:
    """Yield a row number and the rows that begin there, for each plane."""
    chance = np.random.default_rng(0)
    for number in range(count):
        yield number % (EDGE - ROWS), chance.integers(1, 255, (ROWS, EDGE), np.uint8).tobytes()


def _write_slices(folder: Path, count: int) -> None:
    """Write files that differ in a few rows, and are holes elsewhere."""
    if folder.exists():
        return
    folder.mkdir()
    tifffile.imwrite(folder / "model.tif", np.zeros((EDGE, EDGE), np.uint8))
    with tifffile.TiffFile(folder / "model.tif") as tif:
        offset = tif.pages[0].dataoffsets[0]
    head = (folder / "model.tif").read_bytes()[:offset]
    (folder / "model.tif").unlink()
    for number, (row, data) in enumerate(_planes(count)):
        with (folder / f"slice_{number:05}.tif").open("wb") as file:
            file.write(head)
            file.seek(offset + row * EDGE)
            file.write(data)
            file.truncate(offset + EDGE**2)


def _write_bigtiff(path: Path, count: int) -> None:
    """Write pages whose data lie behind one another, and fill a few rows of each."""
    if path.exists():
        return
    part = path.with_suffix(".part.tif")
    with tifffile.TiffWriter(part, bigtiff=True) as tif:
        for _ in range(count):
            tif.write(shape=(EDGE, EDGE), dtype="uint8", metadata=None)
    with tifffile.TiffFile(part) as tif:
        offsets = [page.dataoffsets[0] for page in tif.pages]
    with part.open("r+b") as file:
        for offset, (row, data) in zip(offsets, _planes(count), strict=True):
            file.seek(offset + row * EDGE)
            file.write(data)
    part.rename(path)


def _measure(path: Path, times: int) -> dict[str, object]:
    """Return one row of the table."""
    listed = [_seconds(lambda: open_volume(path)) for _ in range(times)]
    shown = [_shown(path) for _ in range(times)]
    volume = open_volume(path)
    checked = [_seconds(open_volume(path).check) for _ in range(times)]
    before = [_xz(volume, n) for n in range(times)]
    final = path.with_name(f"{path.stem}.ome.zarr")
    shutil.rmtree(final, ignore_errors=True)
    command = [sys.executable, "-c", CONVERT, str(path), str(final)]
    done = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    after = [_xz(open_volume(final), n) for n in range(times)]
    shutil.rmtree(final)
    return {
        "listed, s": _spread(listed),
        "shown, s": _spread(shown),
        "headers checked, s": _spread(checked),
        "XZ slice, s": _spread(before),
        "converted, s": f"{done['seconds']:.0f}",
        "peak, GiB": f"{done['peak']:.2f}",
        "XZ slice then, s": _spread(after),
    }


def _shown(path: Path) -> float:
    """Return the seconds until napari has drawn a middle slice of what was dropped."""
    viewer = napari.Viewer()
    QApplication.processEvents()

    def show() -> None:
        (layer,) = viewer.open(path, plugin="napari-memseg")
        while not layer.loaded:
            QApplication.processEvents()
        viewer.window._qt_viewer.canvas._scene_canvas.render()

    took = _seconds(show)
    viewer.close()
    return took


def _xz(volume: Volume, number: int) -> float:
    """Return the seconds that one slice along z takes, with nothing in the cache."""
    CACHE.clear()
    y = volume.shape[1] // 2 + number
    return _seconds(lambda: np.asarray(volume.levels[0][:, y]))


def _spread(values: list[float]) -> str:
    return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
