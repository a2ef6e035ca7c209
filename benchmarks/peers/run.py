"""One engine, one job, one process: what it cost, and how good its labels are.

    python -m peers.run JOB.json ROW.json

The engine is imported and its network loaded, then memory and time begin to count. What a
bare tile costs is measured afterwards in the same process, whose heap the run has left
as a tile finds it; then labels are compared. Neither counts.
"""

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from napari_memseg.inference.heap import keep_heap
from napari_memseg.inference.resources import peak_rss_gib
from napari_memseg.models.checkpoint import load_checkpoint, read_card
from peers import engines, networks
from peers.agreement import compare
from peers.floor import bare, bare_of_ours, floor
from peers.job import Job
from peers.measure import Stopwatch, forget_peak, peak_resident, resident

Work = Callable[[], dict[str, Any]]


def main(job: Job) -> dict[str, Any]:
    """Run a job; return what there is to say."""
    is_ours = job.engine.startswith("ours")
    if is_ours or job.heap:
        keep_heap()
    if job.threads:
        torch.set_num_threads(job.threads)
    net = None if is_ours else _network(job)
    row = _measured(job, _work(job, net))
    row |= {"engine": job.engine, "voxels": math.prod(job.shape), "threads": torch.get_num_threads()}
    if net is not None:
        row = {
            "calls": net.calls,
            "voxels_run": net.voxels,
            "computed": networks.KINDS[job.arithmetic],
            **row,
        }
    if job.engine != "floor":
        row["bare"] = _bare(job, net, row)
        labels = job.out / "0" if is_ours else job.out
        row |= compare(labels, len(read_card(job.checkpoint).classes), job.truth, job.reference)
    return row


def _network(job: Job) -> networks.Arithmetic:
    model, _ = load_checkpoint(job.checkpoint)
    return networks.Arithmetic(model.to(job.device), **networks.KINDS[job.arithmetic]).eval()


def _work(job: Job, net: networks.Arithmetic | None) -> Work:
    """Return the engine as a call, all imported that it needs."""
    if net is None:
        from peers import ours  # which loads all of the package

        return lambda: ours.segment(job)
    if job.engine == "floor":
        return lambda: floor(job, net)
    engines.load(job.engine)
    return torch.inference_mode()(lambda: engines.ENGINES[job.engine](job, net))


def _measured(job: Job, work: Work) -> dict[str, Any]:
    cuda = job.device.startswith("cuda")
    if cuda:
        torch.zeros(1, device=job.device)  # the context, which every program pays
        torch.cuda.reset_peak_memory_stats(job.device)
    base = resident()
    forget_peak()
    with Stopwatch() as watch:
        told = work()
        if cuda:
            torch.cuda.synchronize(job.device)
    row = {"wall": watch.wall, "cpu": watch.cpu, "base_rss": base, "peak_rss": _peak(), **told}
    if cuda:
        row["device_bytes"] = torch.cuda.max_memory_allocated(job.device)
        row["device_reserved"] = torch.cuda.max_memory_reserved(job.device)
        torch.cuda.empty_cache()
    return row


def _peak() -> int:
    """Return the most bytes that the whole call had, what our engine measures before it begins included."""
    return max(peak_resident(), int((peak_rss_gib() or 0) * 2**30))


def _bare(job: Job, net: networks.Arithmetic | None, row: dict[str, Any]) -> dict[str, float]:
    if net is not None:
        return bare(job, net, (job.tile,) * 3)
    model, _ = load_checkpoint(job.checkpoint)
    return bare_of_ours(job, model.to(job.device), row["computed"], row["box"])


if __name__ == "__main__":
    job_path, row_path = map(Path, sys.argv[1:])
    told = main(Job(**json.loads(job_path.read_text())))
    row_path.write_text(json.dumps({**told, "load": round(os.getloadavg()[0], 2)}))
