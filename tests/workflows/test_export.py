"""An export is one moment of a session: whole or not there, the same again, and honest about its origin."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

import toys
from napari_memseg.annotation.session import Session
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.draft import make_plan
from napari_memseg.inference.executors import in_process
from napari_memseg.inference.run_card import read_run_card
from napari_memseg.io.formats import open_volume
from napari_memseg.models.classes import ClassTable
from napari_memseg.workflows.export import export
from napari_memseg.workflows.segment import segment_session
from running import checkpoint_of, noise

SHAPE = (20, 24, 140)
"""Two blocks of an export."""
CORNER = Box((0, 0, 0), (16, 16, 16))


@pytest.fixture(autouse=True, scope="module")
def _register():
    toys.register()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a session over noise with one stroke and no run."""
    tifffile.imwrite(tmp_path / "noise.tif", noise(SHAPE), photometric="minisblack")
    classes = ClassTable.from_ids(toys.null().classes.ids[1:])
    with Session.create(tmp_path / "session", open_volume(tmp_path / "noise.tif"), classes) as session:
        session.overlay[5, 2:9, 3:8] = classes.ids[1]
    return tmp_path / "session"


def predict(folder: Path, *, threshold: float = 0.5, box: str | None = None) -> None:
    model = checkpoint_of(toys.null(threshold=threshold), folder.parent)
    config = SegmentConfig(chunk=16, tile=(16, 16, 16), device="cpu", box=box)
    list(segment_session(folder, model, config))


def begin_run(folder: Path) -> None:
    """Write one block of a new run."""
    model = checkpoint_of(toys.null(threshold=0.2), folder.parent)
    config = SegmentConfig(chunk=16, tile=(16, 16, 16), device="cpu")
    with Session.open(folder, read_only=True) as session:
        plan = make_plan(model, session.image, session.new_run()[1], config)
    steps = in_process(plan)
    next(steps)
    next(steps)
    steps.close()


def export_to(destination: Path, folder: Path, **settings) -> Path:
    list(export(folder, destination, **settings))
    return destination


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def labels_in(exported: Path) -> np.ndarray:
    return np.asarray(zarr.open_array(exported / "image.ome.zarr" / "labels" / "corrected" / "0", mode="r"))


def provenance_of(exported: Path) -> dict:
    return json.loads((exported / "provenance.json").read_bytes())


def test_a_second_export_is_the_same_in_every_byte_of_every_file(folder, tmp_path):
    predict(folder)
    first = files(export_to(tmp_path / "first", folder))
    assert first == files(export_to(tmp_path / "second", folder))
    assert "provenance.json" in first


def test_what_nobody_predicted_or_painted_is_never_exported_as_background(folder, tmp_path):
    predict(folder, box="0:16,0:16,0:16")
    labels = labels_in(export_to(tmp_path / "export", folder))
    with Session.open(folder, read_only=True) as session:
        nobody, shown = session.classes.not_predicted, np.asarray(session.composite())
    assert np.array_equal(labels, shown)
    known = np.zeros(SHAPE, bool)
    known[CORNER.slices] = True
    known[5, 2:9, 3:8] = True
    assert np.array_equal(labels != nobody, known)


def test_without_a_run_there_are_opinions_and_nothing_else(folder, tmp_path):
    exported = export_to(tmp_path / "export", folder)
    assert (provenance_of(exported)["run"], provenance_of(exported)["runs"]) == (None, [])
    labels = labels_in(exported)
    assert ((labels == 255).sum(), (labels == 0).sum()) == (labels.size - 35, 0)


def test_provenance_names_the_chain_of_runs_with_model_plan_and_whether_each_is_finished(folder, tmp_path):
    begin_run(folder)
    predict(folder)
    told = provenance_of(export_to(tmp_path / "export", folder))
    cards = [read_run_card(folder / "runs" / name) for name in ("0002", "0001")]
    assert (told["run"], told["stroke"]) == ("0002", 1)
    assert told["runs"] == [
        {"id": name, "model_sha256": card["plan"]["sha256"], "plan": card["id"], "finished": finished}
        for name, card, finished in zip(("0002", "0001"), cards, (True, False), strict=True)
    ]
    assert told["runs"][0]["model_sha256"] != told["runs"][1]["model_sha256"]


def test_an_unfinished_run_is_refused_and_an_earlier_one_can_be_named(folder, tmp_path):
    predict(folder)
    before = files(export_to(tmp_path / "before", folder))
    begin_run(folder)
    with pytest.raises(InputError, match=r"Run 0002 .*not finished.*segment --session.*earlier.*are: 0001"):
        export_to(tmp_path / "export", folder)
    assert not list(tmp_path.glob("export*"))
    assert files(export_to(tmp_path / "export", folder, run="0001")) == before


def test_a_run_that_was_claimed_and_never_began_is_not_finished(folder, tmp_path):
    with Session.open(folder, read_only=True) as session:
        session.new_run()
    with pytest.raises(InputError, match=r"Run 0001 .*not finished.*are: none"):
        export_to(tmp_path / "export", folder)


def test_an_unknown_format_or_run_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="no export format 'png'"):
        export_to(tmp_path / "export", folder, kind="png")
    with pytest.raises(InputError, match="no run '0009'"):
        export_to(tmp_path / "export", folder, run="0009")
    assert not list(tmp_path.glob("export*"))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["export image 1", "export labels 1"])
def test_a_kill_leaves_only_what_is_named_part_and_the_session_as_it_was(folder, tmp_path, moment):
    predict(folder)
    before = files(folder / "runs")
    call = [sys.executable, Path(__file__).with_name("killed_export.py"), folder, tmp_path / "export"]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        for line in process.stdout:
            if line.strip() == moment:
                process.kill()
                break
    assert process.returncode != 0
    (left,) = tmp_path.glob("export*")
    assert re.fullmatch(r"export\.[0-9a-f]{8}\.part", left.name)
    assert files(folder / "runs") == before
    assert (labels_in(export_to(tmp_path / "export", folder)) != 255).all()
