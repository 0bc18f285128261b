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


@pytest.mark.parametrize(
    "failure", [None, failed("gpu[1-2]"), failed("gpu1", "ValueError: x"), failed("-x"), failed("")]
)
def test_nothing_is_noted_without_a_node_to_blame(paths, failure):
    exclusion.note(paths, "7_1", failure)
    assert exclusion.nodes(paths) == ()
