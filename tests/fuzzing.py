"""Damage files in many ways and see what a reader makes of each: ``fuzzing.py FIRST COUNT FILE ...``.

A FILE is one of the kinds that tests/volumes.py writes, or a path; of ``folder::file`` all of the folder is
damaged and the file opened. Each of the COUNT mutations takes the next FILE, and is made of its own seed,
from FIRST on, so that one can be tried again alone. All is done in one process with a bound on its memory.
What is printed are the seeds at which anything but a volume or one of our errors came, with the traceback.
"""

from __future__ import annotations

import logging
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np

from napari_memseg.errors import MemsegError
from napari_memseg.geometry import Box, zyx
from napari_memseg.io.formats import open_volume
from volumes import FORMATS, SPECIAL, noise

MEMORY = 4 * 2**30
"""Bytes of address space: what is allocated because a file says so would not fit."""
SECONDS = 10
"""For one mutation."""
NUMBERS = (b"0", b"-1", b"99999999999", b"4294967295", b"nan", b"1e308", b"\0\0\0\0", b"\xff\xff\xff\xff")
"""That are put where others were."""


def main(first: int, count: int, *files: str) -> int:
    """Try so many mutations; return how many went wrong."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _too_long)
    logging.disable()
    folder, wrong = Path(tempfile.mkdtemp(prefix="fuzzing-")), 0
    whole = [_whole(file, folder / str(number)) for number, file in enumerate(files)]
    for seed in range(first, first + count):
        number = seed % len(files)
        shutil.rmtree(folder / "broken", ignore_errors=True)
        shutil.copytree(folder / str(number), folder / "broken")
        mutate(folder / "broken", np.random.default_rng(seed))
        opened = folder / "broken" / whole[number].relative_to(folder / str(number))
        wrong += not is_answered(opened, f"{files[number]}, seed {seed}")
    shutil.rmtree(folder)
    return wrong


def _whole(file: str, folder: Path) -> Path:
    """Write or copy what is to be damaged into a new folder, and return what is opened of it."""
    folder.mkdir()
    if file in FORMATS | SPECIAL:
        return Path((FORMATS | SPECIAL)[file](folder, noise()))
    path, _, opened = file.partition("::")
    place = folder / Path(path).name
    (shutil.copytree if Path(path).is_dir() else shutil.copy2)(path, place)
    return place / opened


def mutate(folder: Path, chance: np.random.Generator) -> None:
    """Damage one file of a folder, in one to three places."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    path = files[chance.integers(len(files))]
    content = bytearray(path.read_bytes())
    for _ in range(chance.integers(1, 4)):
        content = _HOW[chance.integers(len(_HOW))](content, chance)
    path.write_bytes(content)


class _TooLong(BaseException):
    """Which no reader takes for a damaged file."""


def is_answered(source: Path, which: str) -> bool:
    """Whether a file opens and reads, or is refused by an error of ours."""
    signal.alarm(SECONDS)
    try:
        volume = open_volume(source)
        shape = zyx(min(n, 64) for n in volume.shape)
        volume.read(Box.at((0, 0, 0), shape))
    except MemsegError:
        return True
    except BaseException:  # noqa: BLE001 # whatever it is, it is told
        sys.stdout.write(f"{which}\n{traceback.format_exc()}\n")
        return False
    finally:
        signal.alarm(0)
    return True


def _too_long(*_: object) -> None:
    raise _TooLong(f"longer than {SECONDS} s")


def _place(content: bytearray, chance: np.random.Generator) -> int:
    """Return a place in a file, every second time near its beginning, where headers are."""
    end = len(content) if chance.integers(2) else min(len(content), 512)
    return int(chance.integers(end)) if end else 0


def _flip(content: bytearray, chance: np.random.Generator) -> bytearray:
    if content:
        content[_place(content, chance)] ^= 1 << int(chance.integers(8))
    return content


def _cut(content: bytearray, chance: np.random.Generator) -> bytearray:
    return content[: _place(content, chance)]


def _insert(content: bytearray, chance: np.random.Generator) -> bytearray:
    place = _place(content, chance)
    return content[:place] + bytearray(chance.bytes(int(chance.integers(1, 16)))) + content[place:]


def _remove(content: bytearray, chance: np.random.Generator) -> bytearray:
    place = _place(content, chance)
    return content[:place] + content[place + int(chance.integers(1, 64)) :]


def _number(content: bytearray, chance: np.random.Generator) -> bytearray:
    """Put an odd number over what is there; over digits, if some are near."""
    place = _place(content, chance)
    digits = next(
        (n for n in range(place, min(place + 64, len(content))) if content[n : n + 1].isdigit()), place
    )
    number = NUMBERS[chance.integers(len(NUMBERS))]
    return content[:digits] + bytearray(number) + content[digits + int(chance.integers(0, 4)) :]


_HOW = (_flip, _flip, _cut, _insert, _remove, _number, _number)


if __name__ == "__main__":
    sys.exit(bool(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])))
