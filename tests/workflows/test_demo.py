import json
from pathlib import Path

import pytest
from yaozarrs import validate_zarr_store

from napari_memseg.errors import InputError
from napari_memseg.workflows.demo import MEMORY_CEILING_GIB, demo


@pytest.mark.slow
def test_the_demo_does_the_main_job_within_its_memory(tmp_path):
    *_, last = demo(tmp_path / "demo")
    told = last.result
    assert told["dice"] >= 0.95
    facts = json.loads((tmp_path / "demo" / "demo.json").read_text())["facts"]
    assert facts["dice"] > facts["dice of a global Otsu threshold"]
    assert facts["peak memory of segmenting, GiB"] <= MEMORY_CEILING_GIB
    page = Path(told["report"]).read_text()
    pictures = sorted(path.name for path in (tmp_path / "demo").glob("*.png"))
    assert len(pictures) == 6
    assert all(name in page for name in pictures)
    validate_zarr_store(tmp_path / "demo" / "export" / "image.ome.zarr")
    validate_zarr_store(tmp_path / "demo" / "session" / "runs" / "0001")


def test_the_demo_leaves_a_folder_with_something_in_it_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        list(demo(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
