"""Each fault of docs/faults.md is made by a test that is there."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "faults.md"


def test_every_fault_names_a_test_that_is_there():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    rows = [line for line in lines if not line.startswith("| fault |")]
    assert rows
    for row in rows:
        assert "::" in row, row
        for file, function in re.findall(r"`([\w/]+\.py)::(\w+)`", row):
            assert re.search(rf"^(def|class) {function}\b|^{function} =", (TESTS / file).read_text(), re.M), (
                row
            )
