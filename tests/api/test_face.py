"""The Python face: light, typed, lazy, and its documentation's examples are what happens."""

import doctest
import shutil
import subprocess
import sys

import pytest

import lenshpc
from lenshpc import api

HEAVY = ("click", "numpy", "pandas", "pydantic", "rich", "torch", "zarr")
SLOW = {"aggregate", "load_ensemble", "submit"}
EXAMPLES = {
    one.name.removeprefix("lenshpc.api."): one
    for one in doctest.DocTestFinder(recurse=True).find(api)
    if one.examples
}


def marked(name):
    return pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name


@pytest.fixture
def folder(spots, run, monkeypatch, tmp_path):
    """Return the current folder, with a store in ./stores and a run without a report in ./runs."""
    shutil.copytree(spots.path, tmp_path / "stores" / "spots")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


def test_import_is_light_and_names_come_when_they_are_asked_for():
    code = (
        "import sys, lenshpc; "
        f"print([name for name in {HEAVY} if name in sys.modules], 'lenshpc.api' in sys.modules); "
        "lenshpc.open_store; "
        f"print([name for name in {HEAVY} if name in sys.modules], 'lenshpc.api' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] False\n[] True\n"


def test_names_are_listed_and_no_others_are_there():
    assert set(lenshpc.__all__) == {*api.__all__, "__version__"}
    assert set(lenshpc.__all__) <= set(dir(lenshpc))
    assert lenshpc.plan is api.plan
    with pytest.raises(AttributeError, match="module 'lenshpc' has no attribute 'plans'"):
        _ = lenshpc.plans


def test_every_function_has_an_example():
    assert set(EXAMPLES) == set(api.__all__) - {"LensHpcError"}


@pytest.mark.parametrize("name", [marked(name) for name in sorted(EXAMPLES)])
def test_examples_of_the_documentation_hold(name, folder):
    told = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    found = runner.run(EXAMPLES[name], out=told.append)
    assert found.attempted > 1
    assert "".join(told) == ""
