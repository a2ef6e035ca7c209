"""The package as a whole: what importing it costs, what it promises, what it never does."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import packages_distributions, requires
from importlib.resources import files
from pathlib import Path

import pytest
import tifffile

import napari_memseg
from napari_memseg.data import NAMES, bundled
from napari_memseg.errors import InputError

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "napari_memseg"
MODULES = sorted(SOURCE.rglob("*.py"))
HEAVY = ("torch", "napari", "qtpy", "monai", "zarr", "dask")


def calls(tree):
    """Every call in a module: ``name.of.function``, and its keyword arguments as they are written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


def imports(tree):
    """The top-level names of all that a module imports."""
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in plain | parts}


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def test_importing_the_package_loads_nothing_heavy():
    code = f"import sys, napari_memseg; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", napari_memseg.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(napari_memseg, name).__doc__
    assert name in dir(napari_memseg)


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(AttributeError, match="open_volume"):
        napari_memseg.segmnet  # noqa: B018 - the access is the test


def test_the_bundled_volume_and_its_labels_lie_on_one_grid():
    for name in NAMES:
        with tifffile.TiffFile(bundled(name)) as file:
            assert file.series[0].shape == (160, 160, 160)
            assert file.ome_metadata.count('="19.5"') == 3


def test_a_volume_that_is_not_bundled_is_refused_with_those_that_are():
    with pytest.raises(InputError, match=NAMES[0]):
        bundled("skull.tif")


def test_the_package_is_small_and_complete():
    package = Path(str(files("napari_memseg")))
    for name in ("napari.yaml", "py.typed", "data/README.md", "data/LICENSE.trabecular_bone.txt"):
        assert (package / name).is_file()
    shipped = [*package.rglob("*.py"), *(package / "data").glob("*.*")]
    assert sum(path.stat().st_size for path in shipped) < 8_000_000


def test_the_manifest_at_the_top_is_a_link_to_the_packaged_one():
    link = ROOT / "napari.yaml"
    assert link.is_symlink()
    assert link.resolve() == SOURCE / "napari.yaml"


def test_every_import_of_another_project_is_declared():
    distributions = packages_distributions()
    declared = {canonical(re.split(r"[\s\[<>=!;~(]", wish)[0]) for wish in requires("napari-memseg")}
    for path in MODULES:
        for module in imports(parse(path)) - set(sys.stdlib_module_names) - {"napari_memseg"}:
            owners = {canonical(owner) for owner in distributions.get(module, [module])}
            assert owners & declared, f"{path.relative_to(SOURCE)} imports {module}"


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_that_is_loaded_can_run_code(path):
    tree = parse(path)
    for name, options in calls(tree):
        assert name != "torch.load" or options.get("weights_only") == "True"
        assert name not in ("torch.export.load", "torch.jit.load", "eval", "exec")
        assert not name.endswith((".extractall", ".unpack_archive"))
    for line in ast.walk(tree):
        if isinstance(line, ast.Import | ast.ImportFrom) and imports(line) & {
            "pickle",
            "dill",
            "joblib",
            "shelve",
        }:
            assert ast.unparse(line) == "from pickle import UnpicklingError"


@pytest.mark.qt
def test_the_manifest_is_valid_and_everything_in_it_imports():
    from npe2 import PluginManifest

    manifest = PluginManifest.from_distribution("napari-memseg")
    manifest.validate_imports()
    for command in manifest.contributions.commands:
        module, function = command.python_name.split(":")
        assert callable(getattr(import_module(module), function))
