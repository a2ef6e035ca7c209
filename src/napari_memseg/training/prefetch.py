"""Make things ahead in threads, and hand them out in order.

Reading and decoding let go of Python's lock, so a thread is enough to keep the
network from waiting, and brings no second process that would import everything.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

T = TypeVar("T")


@contextmanager
def made_ahead(make: Callable[[int], T], numbers: Iterator[int], threads: int) -> Iterator[Iterator[T]]:
    """Give ``make(n)`` for each number, in order, with two a thread under way.

    At the end of the block what is under way is waited for, and the rest forgotten.
    What ``make`` raises is raised where its result would have come.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="patches")
    try:
        yield _in_order(pool, make, numbers, 2 * threads)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor, make: Callable[[int], T], numbers: Iterator[int], ahead: int
) -> Iterator[T]:
    waiting: list[Future[T]] = []
    while True:
        room = range(ahead - len(waiting))
        waiting += [pool.submit(make, number) for _, number in zip(room, numbers, strict=False)]
        if not waiting:
            return
        yield waiting.pop(0).result()
