"""The Python face: light, typed, lazy, and its documentation's examples are what happens."""

import doctest
import shutil
import subprocess
import sys

import pytest
from trained_run import train_run

import lenshpc
from lenshpc import api

HEAVY = ("click", "numpy", "pandas", "pydantic", "rich", "torch", "zarr")
OF_TRAINED = {"load_ensemble", "predict"}
SLOW = {"aggregate", "submit", *OF_TRAINED}
EXAMPLES = {
    name: one
    for name in api.__all__
    for one in doctest.DocTestFinder().find(getattr(api, name), name)
    if one.name == name and one.examples
}


def marked(name):
    return pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name


@pytest.fixture
def folder(spots, run, monkeypatch, tmp_path):
    """Return the current folder, with ./stores/spots, a run without a report in ./runs, a copy."""
    shutil.copytree(spots.path, tmp_path / "stores" / "spots")
    shutil.copytree(run.paths.root, tmp_path / "theirs")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with images, a store and a trained run."""
    folder = tmp_path_factory.mktemp("trained")
    train_run(folder)
    return folder


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
    assert set(lenshpc.__all__) == {*api.__all__, "__version__", "hub"}
    assert set(lenshpc.__all__) <= set(dir(lenshpc))
    assert lenshpc.plan is api.plan
    with pytest.raises(AttributeError, match="module 'lenshpc' has no attribute 'plans'"):
        _ = lenshpc.plans


def test_every_function_has_an_example():
    assert set(EXAMPLES) == set(api.__all__) - {"LensHpcError"}


@pytest.mark.parametrize("name", [marked(name) for name in sorted(EXAMPLES)])
def test_examples_of_the_documentation_hold(name, request, monkeypatch):
    place = request.getfixturevalue("trained" if name in OF_TRAINED else "folder")
    monkeypatch.chdir(place)
    told = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    found = runner.run(EXAMPLES[name], out=told.append)
    assert found.attempted > 1
    assert "".join(told) == ""


@pytest.mark.parametrize(("asked", "minutes"), [({}, 60), ({"resources.time_min": 90}, 90)])
def test_a_sites_limits_stand_unless_others_were_asked_for(spots, tmp_path, asked, minutes):
    site = tmp_path / "mine.yaml"
    site.write_text("scheduler: slurm\ntime_min: 60\ncpus_per_gpu: 3\n")
    recipe = lenshpc.load_recipe("lens_finding", {"train.batch_size": 16} | asked)
    planned = lenshpc.plan(recipe, spots, tmp_path / "runs", site=site)
    size = planned.plan.recipe.resources
    assert (size.time_min, size.cpus_per_gpu, size.mem_gb_per_gpu) == (minutes, 3, 16)
    # what a site sets is of no weight for the result: the run is the same
    local = lenshpc.plan(recipe, spots.path, str(tmp_path / "runs"))
    assert (local.path, local.plan.recipe.resources.cpus_per_gpu) == (planned.path, 4)


def test_what_is_asked_of_a_whole_section_is_not_a_sites_to_change(spots, tmp_path):
    site = tmp_path / "mine.yaml"
    site.write_text("scheduler: slurm\ntime_min: 60\n")
    recipe = lenshpc.load_recipe("lens_finding", resources={"nodes": 1})
    size = lenshpc.plan(recipe, spots, tmp_path, site=site).plan.recipe.resources
    assert size.time_min == 240


def test_more_than_a_site_has_is_refused_before_anything_is_written(spots, tmp_path):
    recipe = lenshpc.load_recipe("lens_finding", {"resources.nodes": 2, "train.strategy": "ddp"})
    with pytest.raises(lenshpc.LensHpcError, match="a member asks for 2 nodes, site local has 1"):
        lenshpc.plan(recipe, spots, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_submit_asks_for_a_store_beside_a_recipe():
    with pytest.raises(lenshpc.LensHpcError, match="a planned run, or a recipe and a store"):
        lenshpc.submit("lens_finding")


@pytest.mark.slow
def test_waiting_for_a_run_that_fails_says_who_failed_and_what_to_do(spots, folder):
    (folder / "broken.py").write_text("class Net:\n    def __init__(self, spec):\n        1 / 0\n")
    small = {"train.batch_size": 16, "models": ["broken.py:Net"], "folds": 1}
    planned = lenshpc.plan(lenshpc.load_recipe("lens_finding", small), spots)
    with pytest.raises(lenshpc.LensHpcError) as error:
        lenshpc.submit(planned, wait=True)
    told = str(error.value)
    assert told.startswith(f"run {planned.path.name} has no report (member 0: job ")
    assert "ZeroDivisionError: division by zero" in told
    assert told.endswith(f"for details: lenshpc status {planned.path.name}")
    (failed,) = lenshpc.status(planned).members
    assert (failed.state, lenshpc.status(planned).report) == ("FAILED", "FAILED")
