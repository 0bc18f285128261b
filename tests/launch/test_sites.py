"""Nothing reaches a batch script but what a profile may say."""

import pytest
from ranks import recipe

from lenshpc.config import validate
from lenshpc.errors import ConfigError
from lenshpc.launch.sites import Site, check_fits, load_site


def complaint(tmp_path, text, scheduler="slurm"):
    path = tmp_path / "mine.yaml"
    path.write_text(f"scheduler: {scheduler}\n{text}")
    with pytest.raises(ConfigError) as caught:
        load_site(str(path))
    told = str(caught.value)
    assert told.startswith(f"site {path}: ")
    assert "\n" not in told
    return told.removeprefix(f"site {path}: ")


@pytest.mark.parametrize(
    "line", ['"module load x\\n#SBATCH --uid=0"', '"#SBATCH --uid=0"', '"  # x"', '"a\\rb"']
)
def test_setup_that_could_become_an_option_is_refused(tmp_path, line):
    told = complaint(tmp_path, f"setup: [{line}]\n")
    assert told.startswith("setup.0: must be one line that does not begin with '#'")


@pytest.mark.parametrize(
    "key", ["partition", "account", "qos", "constraint", "reservation", "container", "python"]
)
@pytest.mark.parametrize(
    "value", ['"gpu --uid=0"', '"gpu;rm"', '"gpu\\n"', '"$(id)"', '"`id`"', '""']
)
def test_word_with_more_than_a_word_is_refused(tmp_path, key, value):
    assert complaint(tmp_path, f"{key}: {value}\n").startswith(f"{key}: String should match")


def test_srun_argument_with_a_space_is_refused(tmp_path):
    told = complaint(tmp_path, 'srun_args: ["--mpi=pmix bash"]\n')
    assert told.startswith("srun_args.0: String should match")


def test_unknown_key_names_the_nearest(tmp_path):
    assert complaint(tmp_path, "partitions: gpu\n").startswith(
        "unknown key 'partitions'; did you mean partition? known: name, scheduler, partition, "
    )


@pytest.mark.parametrize(
    "name", ["array", "dependency", "output", "nodes", "reservation", "time", "wckey"]
)
def test_sbatch_option_that_lenshpc_sets_is_refused(tmp_path, name):
    assert complaint(tmp_path, f"sbatch: {{{name}: x}}\n").startswith(
        f"sbatch: {name!r} is set by lenshpc"
    )


@pytest.mark.parametrize("name", ["--mail-type", "Mail", "mail_type", "x y"])
def test_sbatch_option_that_is_no_name_is_refused(tmp_path, name):
    assert complaint(tmp_path, f"sbatch: {{'{name}': x}}\n").startswith(
        f"sbatch: {name!r} is no sbatch option"
    )


@pytest.mark.parametrize(
    "value", ['"a\\n#SBATCH --uid=0"', '"a --uid=0"', '"a;id"', '"$(id)"', '"`id`"', '"a\'b"']
)
def test_sbatch_value_with_more_than_a_word_is_refused(tmp_path, value):
    told = complaint(tmp_path, f"sbatch: {{exclude: {value}}}\n")
    assert told.startswith("sbatch.exclude.")


def test_sbatch_value_may_be_a_host_list():
    site = {"name": "s", "scheduler": "slurm", "sbatch": {"exclude": "node[2-3,7],gpu1"}}
    assert validate(Site, site, "s").options == {"exclude": "node[2-3,7],gpu1"}


def test_scheduler_must_be_known(tmp_path):
    told = complaint(tmp_path, "", scheduler="pbs")
    assert told == "scheduler: Input should be 'local' or 'slurm' (found 'pbs')"


@pytest.mark.parametrize(
    ("site", "size", "told"),
    [
        (
            {"scheduler": "slurm", "max_nodes": 4, "gpus_per_node": 4},
            {"nodes": 8},
            "a member asks for 8 nodes, site here has 4",
        ),
        (
            {"scheduler": "slurm", "max_nodes": 4, "gpus_per_node": 4},
            {"gpus_per_node": 8},
            "a member asks for 8 GPUs a node, site here has 4",
        ),
        (
            {"scheduler": "local", "slots": 2},
            {"nodes": 2},
            "a member asks for 2 nodes, site here has 1",
        ),
        (
            {"scheduler": "local", "slots": 2},
            {"gpus_per_node": 4},
            "a member asks for 4 GPUs a node, site here has 2",
        ),
    ],
)
def test_recipe_that_asks_for_more_than_the_site_has_is_refused(site, size, told, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError) as caught:
        check_fits(Site(name="here", **site), recipe(resources=size))
    assert str(caught.value) == f"{told}; lower resources or choose another --site"


def test_recipe_fits_a_site_without_limits():
    size = {"nodes": 16, "gpus_per_node": 1}
    check_fits(Site(name="here", scheduler="slurm"), recipe(resources=size))


def test_option_without_a_value_is_true_and_never_false():
    site = {"name": "s", "scheduler": "slurm"}
    options = validate(Site, {**site, "sbatch": {"exclusive": True, "nice": 5}}, "s").sbatch
    assert options == {"exclusive": True, "nice": 5}
    with pytest.raises(ConfigError, match="exclusive"):
        validate(Site, {**site, "sbatch": {"exclusive": False}}, "s")


@pytest.mark.parametrize("option", ["requeue", "no-requeue", "array", "dependency"])
def test_option_that_lenshpc_sets_is_refused(option):
    site = {"name": "s", "scheduler": "slurm", "sbatch": {option: True}}
    with pytest.raises(ConfigError, match=f"'{option}' is set by lenshpc"):
        validate(Site, site, "s")


@pytest.mark.parametrize(
    ("keys", "interpreter", "step_args"),
    [
        ({"python": "/env/bin/python", "srun_args": ["-v"]}, "/env/bin/python", ("-v",)),
        ({}, None, ()),
        (
            {"container": "/shared/lens.sif", "srun_args": ["-v"]},
            "apptainer exec --nv /shared/lens.sif python3",
            ("-v",),
        ),
        (
            {"container": "/shared/lens.sqsh", "srun_args": ["-v"], "python": "python3"},
            "python3",
            ("--container-image=/shared/lens.sqsh", "-v"),
        ),
    ],
)
def test_container_is_apptainers_or_pyxis(keys, interpreter, step_args):
    site = validate(Site, {"name": "s", "scheduler": "slurm", **keys}, "s")
    assert (site.interpreter, site.step_args) == (interpreter, step_args)


def test_reservation_is_an_option_of_sbatch():
    site = {"name": "s", "scheduler": "slurm", "sbatch": {"nice": 5}}
    assert validate(Site, site, "s").options == {"nice": 5}
    assert validate(Site, {**site, "reservation": "school"}, "s").options == {
        "reservation": "school",
        "nice": 5,
    }
