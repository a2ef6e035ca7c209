"""Whatever is wrong with a file, a reader answers with a volume or with one of our errors."""

import pytest

from fuzz_all import files, fuzz
from napari_memseg.io.formats import FORMATS

MUTATIONS = 200
READERS = [known.name for known in FORMATS[1:]]
"""All but the one that refuses files of other scanners, whose smallest is too large to be copied often."""


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_nothing_comes_of_a_damaged_file_but_a_volume_or_one_of_our_errors(reader):
    assert fuzz(reader, first=0, count=MUTATIONS) == ""


def test_every_reader_gets_damaged_files():
    assert set(READERS) == set(files())
