"""Damage files of every reader in many ways, for a night: ``python tests/fuzz_all.py [--count 10000]``.

Each reader gets so many mutations, shared out among what the tests write for it and the small files of
tests/data/awkward. Whatever comes but a volume or one of our errors is printed with the seed that makes it
again, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain
from pathlib import Path

from napari_memseg.io.formats import FORMATS as READERS
from volumes import FORMATS, SPECIAL, noise

AWKWARD = Path(__file__).parent / "data" / "awkward"
SMALL = 2**18
"""Bytes: a larger file takes long to copy ten thousand times."""


def main() -> int:
    """Try each reader; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="mutations of each reader")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    wrong = 0
    with ThreadPoolExecutor(asked.jobs) as pool:
        for reader, said in zip(
            files(), pool.map(lambda one: fuzz(one, asked.first, asked.count), files()), strict=True
        ):
            wrong += bool(said)
            tried = f"{asked.count:,} mutations of {len(files()[reader])} files"
            sys.stdout.write(f"{reader}: {tried}: {said or 'nothing wrong'}\n")
            sys.stdout.flush()
    return int(bool(wrong))


def fuzz(reader: str, first: int, count: int) -> str:
    """Damage the files of one reader in a process of its own; return what went wrong, or nothing."""
    script = str(Path(__file__).with_name("fuzzing.py"))
    command = [sys.executable, script, str(first), str(count), *files()[reader]]
    timeout = 60 + count  # of a loop that no signal ends
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)
    return f"\n{done.stdout}{done.stderr}" if done.returncode else ""


@cache
def files() -> dict[str, list[str]]:
    """Return what is damaged, as fuzzing.py names it, by the reader that opens it."""
    found: dict[str, list[str]] = defaultdict(list)
    for path, file in chain(_written(), _awkward()):  # a file is there only while it is looked at
        if reader := next((one.name for one in READERS if one.fits(path)), None):
            found[reader].append(file)
    return dict(found)


def _written() -> Iterator[tuple[Path, str]]:
    for kind, write in (FORMATS | SPECIAL).items():
        with tempfile.TemporaryDirectory() as folder:
            yield Path(write(Path(folder), noise())), kind


def _awkward() -> Iterator[tuple[Path, str]]:
    for item in json.loads((AWKWARD / "expected.json").read_text()):
        whole = AWKWARD / item["path"]
        if not 0 < sum(file.stat().st_size for file in (whole, *whole.rglob("*"))) <= SMALL:
            continue
        for target in item["targets"]:
            path = AWKWARD / target["path"]
            yield path, str(whole) if path == whole else f"{whole}::{path.relative_to(whole)}"


if __name__ == "__main__":
    sys.exit(main())
