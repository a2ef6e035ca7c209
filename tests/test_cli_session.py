import json

import numpy as np
import pytest
import tifffile

from napari_memseg.annotation.session import Session
from napari_memseg.cli import run
from running import noise
from volumes import ome_tiff

SHAPE = (140, 12, 14)


@pytest.fixture
def image(tmp_path):
    """Write an image that does not say how large its voxels are."""
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, noise(SHAPE), photometric="minisblack")
    return path


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "session"


@pytest.fixture
def ask(capsys):
    """Return a call of one command with --json, whose last line of stdout is parsed."""

    def ask(*words):
        assert run([*map(str, words), "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out.strip().splitlines()[-1])

    return ask


def test_a_session_takes_the_voxel_size_that_an_image_does_not_say(ask, image, folder):
    size = ("--voxel-size", 2, 0.5, 0.5, "--unit", "micrometer")
    told = ask("session", folder, "new", image, *size)
    assert (told["voxel_size"], told["unit"]) == ([2.0, 0.5, 0.5], "micrometer")
    again = ask("session", folder, "info")
    assert (again["voxel_size"], again["unit"]) == ([2.0, 0.5, 0.5], "micrometer")


def test_without_one_the_voxel_size_stays_unknown(ask, image, folder):
    assert ask("session", folder, "new", image)["voxel_size"] is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--voxel-size", 0, 1, 1, "--unit", "micrometer"), "impossible"),
        (("--voxel-size", 1, 1, 1, "--unit", "um"), "'um' is no unit"),
        (("--unit", "micrometer"), "without a voxel size"),
        (("--voxel-size", 1, 1), "requires 3 arguments"),
    ],
)
def test_an_impossible_voxel_size_is_refused_and_nothing_written(capsys, image, folder, options, says):
    assert run([str(word) for word in ("session", folder, "new", image, *options)]) == 2
    told = capsys.readouterr()
    assert says in told.err
    assert (told.out, folder.exists()) == ("", False)


def test_a_voxel_size_beside_that_of_the_image_is_refused(capsys, tmp_path, folder):
    call = ("session", folder, "new", ome_tiff(tmp_path, noise((4, 6, 8))), "--voxel-size", 9, 9, 9)
    assert run([str(word) for word in call]) == 2
    assert "Leave the voxel size out" in capsys.readouterr().err
    assert not folder.exists()


def test_a_pyramid_is_built_in_the_session_and_is_its_image(ask, image, folder):
    ask("session", folder, "new", image, "--voxel-size", 2, 0.5, 0.5, "--unit", "micrometer")
    told = ask("session", folder, "pyramid")
    assert told["levels"] == [[140, 12, 14], [70, 6, 7]]
    assert told["path"] == str(folder / "image.ome.zarr")
    assert told["voxel_size"] == ask("info", folder / "image.ome.zarr")["voxel_size"] == [2.0, 0.5, 0.5]
    with Session.open(folder) as session:
        assert session.image.source == told["path"]


def test_a_second_pyramid_is_refused(ask, capsys, image, folder):
    ask("session", folder, "new", image)
    ask("session", folder, "pyramid")
    assert run(["session", str(folder), "pyramid"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_info_counts_painted_voxels(ask, image, folder):
    ask("session", folder, "new", image, "--class", 1, "bone", "--class", 15, "cartilage")
    assert ask("session", folder, "info")["painted_voxels"] == {"0": 0, "1": 0, "15": 0}
    with Session.open(folder) as session:
        session.overlay[60:70, 0, 0] = 15
        session.overlay[0, 0, :4] = session.classes.background_opinion
        painted = np.asarray(session.overlay)
    assert ask("session", folder, "info")["painted_voxels"] == {"0": 4, "1": 0, "15": 10}
    assert np.count_nonzero(painted) == 14


def test_a_review_without_a_prediction_is_refused_and_statistics_count_what_is_known(
    ask, capsys, image, folder
):
    ask("session", folder, "new", image)
    assert run(["session", str(folder), "review"]) == 2
    assert "Segment first" in capsys.readouterr().err
    with Session.open(folder) as session:
        session.overlay[3, 4:6, 5:7] = 1
    told = ask("session", folder, "statistics")
    assert (told["strokes"], told["known"], told["changed"]) == (1, 4, 0)
    assert told["classes"]["1"] == {"known": 4, "changed": None, "dice_before": None, "dice_after": None}


def test_device_tells_what_networks_run_on_and_why(ask):
    told = ask("device")
    assert told.keys() == {"device", "why"}
    assert told["device"].partition(":")[0] in ("cpu", "cuda", "mps")
    assert "PyTorch found" in told["why"]


def test_a_device_that_was_asked_for_is_named_as_such(ask):
    told = ask("device", "--device", "cpu")
    assert told["device"] == "cpu"
    assert told["why"].startswith("CPU")
    assert told["why"].endswith("as asked")


def test_a_device_that_is_not_there_is_refused(capsys):
    assert run(["device", "--device", "abacus"]) == 2
    assert "'abacus'" in capsys.readouterr().err


@pytest.fixture
def painted(ask, image, folder):
    """A session with a stroke of one class."""
    ask("session", folder, "new", image, "--class", 1, "bone", "--class", 15, "cartilage")
    with Session.open(folder) as session:
        session.overlay[60:70, 0, 0] = 15
    return folder


@pytest.fixture
def theirs(tmp_path):
    """Write labels of another program: 0, and 7 where ours is 15."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[60:80, 0] = 7
    tifffile.imwrite(tmp_path / "theirs.tif", labels, photometric="minisblack")
    return tmp_path / "theirs.tif"


def test_labels_from_elsewhere_are_imported_as_one_step_in_the_log(ask, painted, theirs):
    told = ask("session", painted, "import", theirs, "--map", "7=15", "--zero-is", "no-opinion")
    voxels = 20 * SHAPE[2] - 10  # ten of them were cartilage before
    assert told == {
        "session": str(painted),
        "seq": 2,
        "imported": voxels,
        "kept": 0,
        "classes": {"15": voxels},
    }
    assert [row["kind"] for row in ask("session", painted, "log")] == ["paint", "import"]
    assert ask("session", painted, "info")["painted_voxels"] == {"0": 0, "1": 0, "15": 20 * SHAPE[2]}
    again = ask("session", painted, "import", theirs, "--unlabelled", 7, "--box", "0:60,:,:", "--overwrite")
    assert again["classes"] == {"0": 60 * SHAPE[1] * SHAPE[2]}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "hold [7], which mean nothing here"),
        (("--map", "7-15"), "theirs=ours"),
        (("--map", "7=3"), "no classes of the session"),
        (("--box", "0:200,:,:"), "leaves the volume"),
        (("--zero-is", "nothing"), "'nothing' is not one of"),
    ],
)
def test_labels_that_mean_nothing_are_refused_and_nothing_is_changed(
    capsys, ask, painted, theirs, options, says
):
    assert run([str(word) for word in ("session", painted, "import", theirs, *options)]) == 2
    assert says in capsys.readouterr().err
    assert len(ask("session", painted, "log")) == 1


@pytest.mark.parametrize("kind", ["nnunet", "monai", "tiff"])
def test_a_part_of_a_session_is_exported_for_others(ask, painted, tmp_path, kind):
    out = tmp_path / "out"
    told = ask("export", painted, out, "--format", kind, "--box", "60:70,0:8,0:9", "--labels", "confirmed")
    assert told == {"path": str(out), "seq": 1, "run": None}
    told = json.loads((out / "provenance.json").read_bytes())
    assert (told["format"], told["region"], told["labels"]) == (kind, "60:70,0:8,0:9", "confirmed")


def test_an_export_to_what_exists_or_of_no_format_is_refused(capsys, painted, tmp_path):
    for call, says in (((painted,), "exists already"), ((tmp_path / "out", "--format", "png"), "not one of")):
        assert run([str(word) for word in ("export", painted, *call)]) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
