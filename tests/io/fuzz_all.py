"""Damage files of every reader in many ways, for a night: ``python tests/io/fuzz_all.py [--count 10000]``.

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
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # volumes

from napari_memseg.io.formats import FORMATS as READERS
from volumes import FORMATS, SPECIAL, noise

AWKWARD = Path(__file__).parents[1] / "data" / "awkward"
SMALL = 2**18
"""Bytes: a larger file takes long to copy ten thousand times."""
Call = tuple[str, ...]
"""What is damaged, and which part of it is opened."""


def main() -> int:
    """Try each reader; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="mutations of each reader")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    wrong = 0
    with ThreadPoolExecutor(asked.jobs) as pool:
        for reader, calls in _calls().items():
            each = -(-asked.count // len(calls))
            said = "".join(pool.map(lambda call, n=each: _fuzz(call, asked.first, n), calls))
            wrong += bool(said)
            tried = f"{each * len(calls):,} mutations of {len(calls)} files"
            sys.stdout.write(f"{reader}: {tried}: {said or 'nothing wrong'}\n")
            sys.stdout.flush()
    return int(bool(wrong))


def _calls() -> dict[str, list[Call]]:
    """Return what is damaged, by the reader that opens it."""
    found: dict[str, list[Call]] = defaultdict(list)
    for path, call in chain(_written(), _awkward()):  # a file is there only while it is looked at
        if reader := next((one.name for one in READERS if one.fits(path)), None):
            found[reader].append(call)
    return dict(found)


def _written() -> Iterator[tuple[Path, Call]]:
    for kind, write in (FORMATS | SPECIAL).items():
        with tempfile.TemporaryDirectory() as folder:
            yield Path(write(Path(folder), noise())), (kind,)


def _awkward() -> Iterator[tuple[Path, Call]]:
    for item in json.loads((AWKWARD / "expected.json").read_text()):
        whole = AWKWARD / item["path"]
        if not 0 < sum(file.stat().st_size for file in (whole, *whole.rglob("*"))) <= SMALL:
            continue
        for target in item["targets"]:
            path = AWKWARD / target["path"]
            inside = "" if path == whole else str(path.relative_to(whole))
            yield path, (str(whole), inside)


def _fuzz(call: Call, first: int, count: int) -> str:
    """Return what went wrong with one file, or nothing."""
    kind, *inside = call
    script = str(Path(__file__).with_name("fuzzing.py"))
    command = [sys.executable, script, kind, str(first), str(count), *inside]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"\n{kind} {' '.join(inside)}\n{done.stdout}{done.stderr}" if done.returncode else ""


if __name__ == "__main__":
    sys.exit(main())
