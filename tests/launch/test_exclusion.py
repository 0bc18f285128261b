"""A node that a failure is blamed on is avoided by what the run sends afterwards."""

import pytest

from lenshpc.launch import exclusion
from lenshpc.launch.failures import classify
from lenshpc.launch.sites import Site
from lenshpc.run.paths import RunPaths

ECC = "RuntimeError: CUDA error: uncorrectable ECC error encountered"
SITE = Site(name="big", scheduler="slurm", sbatch={"nice": 5, "exclude": "gpu1,gpu2"})


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "slurm").mkdir()
    return RunPaths(tmp_path)


def failed(node, log=ECC):
    return classify("FAILED", "1:0", [log], node)


def test_nodes_are_noted_once_and_added_to_those_of_the_profile(paths):
    assert exclusion.before(SITE, paths) == SITE
    for node in ("gpu9", "gpu3", "gpu9"):
        exclusion.note(paths, "7_1", failed(node))
    assert paths.excluded.read_text().count("job") == 2
    assert exclusion.before(SITE, paths).sbatch == {"nice": 5, "exclude": "gpu1,gpu2,gpu3,gpu9"}
    bare = Site(name="big", scheduler="slurm")
    assert exclusion.before(bare, paths).sbatch == {"exclude": "gpu3,gpu9"}


def test_cause_that_several_nodes_have_excludes_none_of_them(paths):
    unseen = "lenshpc.errors.DataError: node {} does not see /stores/lenses, which was there"
    exclusion.note(paths, "7_1", failed("gpu[1-9]", unseen.format("gpu3")))
    assert exclusion.nodes(paths) == ("gpu3",)
    exclusion.note(paths, "7_2", failed("gpu5", "RuntimeError: No CUDA GPUs are available"))
    assert exclusion.nodes(paths) == ("gpu3", "gpu5")
    exclusion.note(paths, "7_3", failed("gpu[1-9]", unseen.format("gpu4")))
    assert exclusion.nodes(paths) == ("gpu5",)
    exclusion.note(paths, "7_4", failed("gpu[1-9]", unseen.format("gpu3")))
    assert paths.excluded.read_text().count("gpu3") == 1
    exclusion.note(paths, "7_5", failed("gpu3"))
    assert exclusion.nodes(paths) == ("gpu3", "gpu5")


def test_nodes_whose_gpus_are_broken_are_avoided_however_many_they_are(paths):
    for number in range(3):
        exclusion.note(paths, f"7_{number}", failed(f"gpu{number}"))
    assert exclusion.nodes(paths) == ("gpu0", "gpu1", "gpu2")


def test_driver_that_is_too_old_on_all_nodes_excludes_none(paths):
    line = "RuntimeError: The NVIDIA driver on your system is too old (found version 11040)."
    for number in range(2):
        failure = failed(f"gpu{number}", line)
        exclusion.note(paths, f"7_{number}", failure)
        assert (failure.name, failure.action) == ("DRIVER TOO OLD", "stop")
    assert exclusion.nodes(paths) == ()


@pytest.mark.parametrize(
    "failure", [None, failed("gpu[1-2]"), failed("gpu1", "ValueError: x"), failed("-x"), failed("")]
)
def test_nothing_is_noted_without_a_node_to_blame(paths, failure):
    exclusion.note(paths, "7_1", failure)
    assert exclusion.nodes(paths) == ()
