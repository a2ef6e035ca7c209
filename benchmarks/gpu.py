"""All that is to be known of a run on a GPU: beside the peers, how busy it is kept, what crosses its bus.

    python benchmarks/gpu.py WORK [--device cuda] [--shape 1072 470 470] [--rounds 3]

First ``inference.py`` on that volume, 288^3 and 480^3, all engines in float16 and channels last; its
tables and runs are kept in WORK. Then the package's plain 3D U-Net (2.5 million weights, 3 classes)
segments the first volume by the public call: with what is free, and with at most 4 and 2 GiB. Each is run
once to measure its tiles, --rounds times for the time, and once more under torch's profiler, which tells
the ten kernels that took longest, and the share of the time in which any kernel ran.

Needs ``benchmarks/requirements.txt`` and a CUDA GPU; with ``--device cpu`` it does the same, without figures
of a GPU. About half an hour on a large GPU.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peers import volume
from peers.networks import checkpoint
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import napari_memseg
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.heap import keep_heap

HERE = Path(__file__).parent
FLY = (1072, 470, 470)
"""About as many voxels as the fly of the cascade paper has: 2.4e8."""
BESIDE_PEERS = (
    ["--edge", "288", "--net", "unet3d", "--tile", "96"],
    ["--edge", "480", "--net", "unet3d", "--tile", "128"],
    ["--edge", "480", "--net", "null", "--tile", "64"],
)
TOP = 10


def main() -> None:
    """Run all parts, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="folder for volumes, networks and scratch")
    parser.add_argument("--shape", type=int, nargs=3, default=FLY, metavar=("Z", "Y", "X"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-peers", action="store_true")
    asked = parser.parse_args()
    if not asked.without_peers:
        _beside_peers(asked)
    image, _ = volume.make(asked.work, tuple(asked.shape), 64)
    network = checkpoint(asked.work, "plain", 60)
    keep_heap()
    for most_gib in (None, 4.0, 2.0):
        config = SegmentConfig(device=asked.device, max_memory_gib=most_gib)
        print(f"\n## At most {most_gib or 'what is free of'} GiB\n")
        _segment(asked.work, image, network, config)
        for _ in range(asked.rounds):
            _tell(_segment(asked.work, image, network, config))
        _profiled(asked.work, image, network, config)


def _beside_peers(asked: argparse.Namespace) -> None:
    size = ["--shape", *map(str, asked.shape), "--net", "plain", "--tile", "256"]
    how = ["--device", asked.device, "--rounds", str(asked.rounds), "--peer-arithmetic", "fast"]
    for number, what in enumerate([size, *BESIDE_PEERS]):
        call = [sys.executable, HERE / "inference.py", asked.work, *what, *how]
        subprocess.run([*call, "--out", asked.work / f"peers-{number}"], check=True)


def _segment(work: Path, image: Path, network: Path, config: SegmentConfig) -> dict[str, Any]:
    """Segment once, into a folder that is gone afterwards; return the run's result."""
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=work) as folder:
        for step in napari_memseg.segment(str(image), Path(folder) / "labels.ome.zarr", network, config):
            result = dict(step.result or result)
    return result


def _tell(result: dict[str, Any]) -> None:
    told = ("seconds", "forecast_seconds", "peak_memory_gib", "forecast_memory_gib", "peak_rss_gib")
    figures = ", ".join(f"{name} {result[name]:.3g}" for name in told if result[name] is not None)
    how = ", ".join(f"{name} {result[name]}" for name in ("tile", "halo", "batch", "precision", "layout"))
    print(f"{figures}, R {result['redundancy']:.2f}, {result['voxels_per_second']:.3g} voxels/s; {how}")


def _profiled(work: Path, image: Path, network: Path, config: SegmentConfig) -> None:
    """Segment under the profiler, and print what it saw."""
    on_gpu = config.device.startswith("cuda")
    seen = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=seen) as profiler:
        result = _segment(work, image, network, config)
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=TOP, max_name_column_width=70))
    device = [e for e in profiler.events() or () if e.device_type == DeviceType.CUDA]
    kernels = [(e.time_range.start, e.time_range.end) for e in device if not e.name.startswith("Mem")]
    copies = [e.name for e in device if e.name.startswith("Memcpy")]
    if kernels:
        first, last = min(a for a, _ in kernels), max(b for _, b in kernels)
        print(f"busy {_covered(kernels) / (last - first):.1%} of the time from the first kernel to the last")
    print(f"{len(copies)} copies, {result['voxels']:,} voxels, {result['seconds']:.1f} s profiled")


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of a union of spans."""
    length, end = 0.0, float("-inf")
    for a, b in sorted(spans):
        length += max(b - max(a, end), 0)
        end = max(end, b)
    return length


if __name__ == "__main__":
    main()
