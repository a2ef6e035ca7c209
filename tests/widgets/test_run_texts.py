"""What the dock says of a run is one sentence, whatever is known and whatever became of it."""

import pytest

from napari_memseg.errors import DeviceMemoryError
from napari_memseg.widgets.relay import Outcome
from napari_memseg.widgets.run_texts import ending_text, failed_text, forecast_text, skipped_text
from napari_memseg.workflows.progress import Progress

pytestmark = pytest.mark.qt

EXPECTED = {"tiles": 12, "redundancy": 1.4499, "seconds": 118.0, "memory_gib": 1.64, "disk_gib": 0.1}
RESULT = {
    "voxels": 4_096_000,
    "device": "cpu",
    "seconds": 42.0,
    "forecast_seconds": 40.4,
    "peak_memory_gib": 1.21,
    "forecast_memory_gib": 1.3,
    "tiles": 20,
    "tiles_skipped": 0,
    "tiles_failed": 0,
    "resumed": False,
}


def ending_of(**facts):
    return ending_text(Outcome(result={**RESULT, **facts}))


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({}, "12 tiles, about 1.6 GiB of memory, 0.1 GiB of disk, about 2 min; overlap 1.45"),
        ({"tiles": 1, "memory_gib": None}, "1 tile, memory unknown here, 0.1 GiB of disk"),
        ({"memory_gib": 0.01, "disk_gib": 0.004}, "about 0.1 GiB of memory, less than 0.1 GiB of disk"),
        ({"tiles": 12_345, "disk_gib": 1234.0, "seconds": 36_000.0}, "1,234 GiB of disk, about 10.0 h"),
    ],
)
def test_a_forecast(facts, text):
    assert text in forecast_text({**EXPECTED, **facts})


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({}, "Done: 4,096,000 voxels in 42 s (forecast 40 s) on cpu, 1.2 GiB of memory (forecast 1.3 GiB)."),
        ({"peak_memory_gib": None}, "Done: 4,096,000 voxels in 42 s (forecast 40 s) on cpu."),
        ({"forecast_memory_gib": None}, "on cpu, 1.2 GiB of memory."),
        ({"resumed": True}, "Done: 4,096,000 voxels, the rest in 42 s on cpu"),
        ({"tiles_failed": 2}, "Done with 2 failures: 4,096,000 voxels"),
        ({"tiles_skipped": 3}, "\n3 of 20 tiles empty, skipped."),
    ],
)
def test_an_end(facts, text):
    assert text in ending_of(**facts)


def test_an_end_that_nobody_wanted():
    assert "Resume goes on from there" in ending_text(Outcome(cancelled=True))
    assert ending_text(Outcome(error=DeviceMemoryError("No tile fits."))) == "No tile fits."


def test_tiles_that_are_empty_or_fail():
    assert skipped_text({}, 20) == ""
    assert skipped_text({"skipped": 3}, 20) == "3 of 20 tiles empty, skipped"
    for failed, text in ((1, "A tile failed at 0:1: no"), (2, "2 tiles failed. The last failed at 0:1: no")):
        step = Progress(
            stage="segment", done=1, total=4, message="failed at 0:1: no", values={"failed": failed}
        )
        assert failed_text(step) == text
