"""Find the cluster that a run is to use: one that is there, or one of this machine's processes."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from napari_memseg.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

PATIENCE_SECONDS = 5
"""How long a scheduler may take to answer, and to have a worker."""


@contextmanager
def connected(scheduler: str | None, workers: int | None) -> Iterator[Client]:
    """Connect to a scheduler that runs, or start workers on this machine; both end with the ``with`` block.

    Raises
    ------
    InputError
        If neither or both are asked for, nothing answers, or ``distributed`` is not installed.
    """
    if (scheduler is None) == (workers is None) or (workers is not None and workers < 1):
        raise InputError(
            f"A run on a cluster needs the address of a scheduler or a number of workers, 1 or more, and not "
            f"both; got {scheduler=} and {workers=}."
        )
    try:
        import distributed
    except ImportError:
        raise InputError(
            'A run on a cluster needs dask.distributed: pip install "napari-memseg[cluster]".'
        ) from None
    if scheduler is not None:
        with closing(_client(scheduler)) as client:
            yield client
        return
    settings: dict[str, Any] = {"processes": True, "threads_per_worker": 1, "memory_limit": 0}
    quiet = {"dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}}
    with (
        distributed.LocalCluster(n_workers=workers, **settings, **quiet) as cluster,
        closing(_client(cluster.scheduler_address)) as client,
    ):
        yield client


def _client(address: str) -> Client:
    """Connect, without becoming what dask computes with everywhere in this process."""
    from distributed import Client

    try:
        client = Client(address, timeout=PATIENCE_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"No scheduler answers at {address!r} ({error}). Start one (dask scheduler) and give the address "
            "that it prints, such as tcp://node1:8786; or choose a number of workers on this machine."
        ) from error
    try:
        client.wait_for_workers(1, timeout=PATIENCE_SECONDS)
    except TimeoutError:
        client.close()
        raise InputError(
            f"The scheduler at {address} has no workers. Start some: dask worker {address} --nthreads 1."
        ) from None
    return client
