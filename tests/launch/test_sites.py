"""Nothing reaches a batch script but what a profile may say."""

from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner
from ranks import recipe

from lenshpc.cli.main import main
from lenshpc.config import validate
from lenshpc.errors import ConfigError
from lenshpc.launch.asking import ask_gpus, ask_memory, ask_place
from lenshpc.launch.sites import Site, check_fits, has_gpus, load_site
from lenshpc.run.sections import Resources


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


def test_setup_that_goes_on_after_a_backslash_is_refused(tmp_path):
    told = complaint(tmp_path, "setup: ['source /env/bin/activate \\']\n")
    assert told.startswith("setup.0: must be a complete command, not continued after a back")
    site = Site(name="s", scheduler="slurm", setup=("echo two of them: \\\\",), env={"A": "\\"})
    assert (site.setup, site.env) == (("echo two of them: \\\\",), {"A": "\\"})


@pytest.mark.parametrize(
    "key", ["partition", "account", "qos", "constraint", "reservation", "container", "python"]
)
@pytest.mark.parametrize(
    "value", ['"gpu --uid=0"', '"gpu;rm"', '"gpu\\n"', '"$(id)"', '"`id`"', '""']
)
def test_word_with_more_than_a_word_is_refused(tmp_path, key, value):
    assert complaint(tmp_path, f"{key}: {value}\n").startswith(f"{key}: expected text that matches")


def test_srun_argument_with_a_space_is_refused(tmp_path):
    told = complaint(tmp_path, 'srun_args: ["--mpi=pmix bash"]\n')
    assert told.startswith("srun_args.0: expected text that matches")


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
        f"sbatch: {name!r} is not an sbatch option"
    )


@pytest.mark.parametrize(
    "value", ['"a\\n#SBATCH --uid=0"', '"a --uid=0"', '"a;id"', '"$(id)"', '"`id`"', '"a\'b"']
)
def test_sbatch_value_with_more_than_a_word_is_refused(tmp_path, value):
    told = complaint(tmp_path, f"sbatch: {{exclude: {value}}}\n")
    assert told.startswith("sbatch.exclude: expected text that matches ")


def test_sbatch_value_may_be_a_host_list():
    site = {"name": "s", "scheduler": "slurm", "sbatch": {"exclude": "node[2-3,7],gpu1"}}
    assert validate(Site, site, "s").sbatch == {"exclude": "node[2-3,7],gpu1"}


def test_scheduler_must_be_known(tmp_path):
    told = complaint(tmp_path, "", scheduler="pbs")
    assert told == "scheduler: expected 'local' or 'slurm' (found 'pbs')"


def test_members_have_gpus_where_they_ask_for_some_and_the_site_has_some(monkeypatch):
    here, cluster = (Site(name="s", scheduler=one) for one in ("local", "slurm"))
    one, none = Resources(gpus_per_node=1), Resources(gpus_per_node=0)
    found = []
    for shown in ("0,1", ""):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        found.append([has_gpus(*asked) for asked in product((here, cluster), (one, none))])
    assert found == [[True, False, True, False], [False, False, True, False]]


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
            "a member asks for 4 processes a node, site here has 2",
        ),
        (
            {"scheduler": "local", "slots": 2, "gpus_per_node": 8},
            {"gpus_per_node": 0, "tasks_per_node": 4},
            "a member asks for 4 processes a node, site here has 2",
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


def test_processes_on_cpus_are_not_held_against_the_gpus_of_a_node():
    size = {"gpus_per_node": 0, "tasks_per_node": 16}
    check_fits(Site(name="here", scheduler="slurm", gpus_per_node=4), recipe(resources=size))


def test_option_without_a_value_is_true_and_never_false():
    site = {"name": "s", "scheduler": "slurm"}
    options = validate(Site, {**site, "sbatch": {"hold": True, "nice": 5}}, "s").sbatch
    assert options == {"hold": True, "nice": 5}
    with pytest.raises(ConfigError, match="hold"):
        validate(Site, {**site, "sbatch": {"hold": False}}, "s")


@pytest.mark.parametrize(
    "option",
    [
        *(
            "requeue",
            "no-requeue",
            "array",
            "dependency",
            "exclusive",
            "gres",
            "mem",
            "mem-per-cpu",
        ),
        *("wait", "test-only", "parsable", "help", "gpus", "ntasks-per-gpu", "clusters"),
    ],
)
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
            {"container": "/a/lens.sif", "container_gpu": "rocm", "bind": ["/a", "/b:/c:ro"]},
            "apptainer exec --rocm --bind=/a --bind=/b:/c:ro /a/lens.sif python3",
            (),
        ),
        (
            {"container": "/a/lens.sif", "container_gpu": "none"},
            "apptainer exec /a/lens.sif python3",
            (),
        ),
        (
            {"container": "/shared/lens.sqsh", "srun_args": ["-v"], "python": "python3"},
            "python3",
            ("--container-image=/shared/lens.sqsh", "-v"),
        ),
        (
            {"container": "nvcr.io/lens:1", "bind": ["/a", "/b:/c:ro"]},
            None,
            ("--container-image=nvcr.io/lens:1", "--container-mounts=/a:/a,/b:/c:ro"),
        ),
    ],
)
def test_container_is_apptainers_or_pyxis(keys, interpreter, step_args):
    site = validate(Site, {"name": "s", "scheduler": "slurm", **keys}, "s")
    assert (site.interpreter, site.step_args) == (interpreter, step_args)


@pytest.mark.parametrize(
    ("keys", "options"),
    [
        ({}, {"gpus-per-node": "2", "mem": "3072M"}),
        ({"gpu_type": "2080ti"}, {"gpus-per-node": "2080ti:2", "mem": "3072M"}),
        ({"gpu_request": "gres"}, {"gres": "gpu:2", "mem": "3072M"}),
        (
            {"gpu_request": "gres", "gpu_type": "1g.5gb", "mem_request": "mem-per-cpu"},
            {"gres": "gpu:1g.5gb:2", "mem-per-cpu": "439M"},  # 3072 of 7, none too little
        ),
        ({"mem_request": "mem-per-gpu"}, {"gpus-per-node": "2", "mem-per-gpu": "1536M"}),
        ({"gpu_request": "none", "mem_request": "none"}, {}),
        # SLURM refuses memory a GPU in a job that asks for no GPU
        ({"gpu_request": "none", "mem_request": "mem-per-gpu"}, {"mem": "3072M"}),
    ],
)
def test_gpus_and_memory_are_asked_as_the_site_wants(keys, options):
    site = validate(Site, {"name": "s", "scheduler": "slurm", **keys}, "s")
    assert {**ask_gpus(site, 2), **ask_memory(site, 3.0, cpus=7, gpus=2)} == options


@pytest.mark.parametrize(("request_", "asked"), [("mem-per-gpu", "mem"), ("mem", "mem")])
def test_job_without_gpus_asks_for_none_and_for_the_memory_of_a_node(request_, asked):
    site = Site(name="s", scheduler="slurm", mem_request=request_)
    assert ask_gpus(site, 0) == {}
    assert ask_memory(site, 4.0, cpus=1, gpus=0) == {asked: "4096M"}


@pytest.mark.parametrize("mem_gb", [0.0005, 1e-9])
@pytest.mark.parametrize("way", ["mem", "mem-per-cpu", "mem-per-gpu"])
def test_memory_is_never_0_which_is_all_of_a_node(mem_gb, way):
    site = Site(name="s", scheduler="slurm", mem_request=way)
    assert ask_memory(site, mem_gb, cpus=64, gpus=8) == {way: "1M"}


def test_place_has_all_that_says_where_and_the_profiles_options():
    keys = {
        "partition": "gpu",
        "account": "a",
        "qos": "q",
        "constraint": "(a100|h100)&ib",
        "reservation": "school",
        "wckey": "w",
        "exclusive": True,
        "sbatch": {"nice": 5},
    }
    site = validate(Site, {"name": "s", "scheduler": "slurm", **keys}, "s")
    assert ask_place(site) == {
        "partition": "gpu",
        "account": "a",
        "qos": "q",
        "constraint": "(a100|h100)&ib",
        "reservation": "school",
        "wckey": "w",
        "exclusive": True,
        "nice": 5,
    }


PLACE = {"partition": "gpu", "account": "a", "qos": "q", "constraint": "c", "reservation": "r"}


@pytest.mark.parametrize(
    ("block", "place"),
    [
        ({}, PLACE),
        ({"qos": "short"}, {**PLACE, "qos": "short"}),
        ({"partition": "cpu"}, {"partition": "cpu", "account": "a"}),
        (
            {"partition": "cpu", "account": "b", "constraint": "d"},
            {"partition": "cpu", "account": "b", "constraint": "d"},
        ),
    ],
)
def test_another_partition_for_jobs_without_gpus_takes_over_the_account_alone(block, place):
    keys = {"name": "s", "scheduler": "slurm", **PLACE, "exclusive": True, "cpu_jobs": block}
    assert ask_place(validate(Site, keys, "s").without_gpu()) == place


def test_nodes_that_are_named_for_members_are_not_the_reports():
    keys = {"scheduler": "slurm", "sbatch": {"nodelist": "node[1-2]", "exclude": "node3"}}
    assert validate(Site, {"name": "s", **keys}, "s").without_gpu().sbatch == {"exclude": "node3"}


def test_memory_of_jobs_without_gpus_is_asked_for_where_members_have_a_whole_node():
    keys = {"scheduler": "slurm", "mem_request": "none", "cpu_jobs": {"mem_gb": 8}}
    assert validate(Site, {"name": "s", **keys}, "s").without_gpu().mem_request == "mem"


@pytest.mark.parametrize("constraint", ["[rack1|rack2]", "(a100|h100)&ib", "ib*2", "a&b,c"])
def test_constraint_may_have_all_of_slurms_syntax(constraint):
    site = {"name": "s", "scheduler": "slurm", "constraint": constraint}
    assert validate(Site, site, "s").constraint == constraint


@pytest.mark.parametrize("name", ["SLURM_MEM_PER_CPU", "SBATCH_QOS", "SRUN_X", "A B", "1A", "A-B"])
def test_variable_that_is_slurms_or_no_name_is_refused(tmp_path, name):
    assert complaint(tmp_path, f"env: {{'{name}': x}}\n").startswith("env.")


@pytest.mark.parametrize("mask", ["0022", "022", "0077", "0027", "77", 27])
def test_umask_that_keeps_others_from_writing_is_taken(mask):
    assert validate(Site, {"name": "s", "scheduler": "slurm", "umask": mask}, "s").umask == str(
        mask
    )


@pytest.mark.parametrize(
    "mask", ["0002", "0020", "0", "0000", "0007", "8022", "00022", "0777", "x"]
)
def test_umask_that_lets_others_write_is_refused(tmp_path, mask):
    assert complaint(tmp_path, f"umask: '{mask}'\n").startswith("umask: expected text that matches")


def test_sbatchs_own_variables_fill_what_a_profile_leaves_open(tmp_path, monkeypatch):
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    monkeypatch.setenv("SBATCH_PARTITION", "other")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    path = tmp_path / "mine.yaml"
    path.write_text("scheduler: slurm\npartition: gpu\n")
    assert load_site(str(path)).model_dump(exclude_unset=True) == {
        "name": "mine",
        "scheduler": "slurm",
        "partition": "gpu",
        "account": "mine",
    }
    path.write_text("scheduler: local\n")
    assert load_site(str(path)).account is None


def test_defaults_are_changes_to_a_recipe():
    site = Site(name="s", scheduler="slurm", cpus_per_gpu=3, time_min=7)
    assert site.defaults == [("resources.cpus_per_gpu", 3), ("resources.time_min", 7)]


def test_profile_wins_over_the_recipe_and_the_command_line_over_both(spots, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("here.yaml").write_text("scheduler: slurm\nmem_gb_per_gpu: 3\ntime_min: 30\n")
    Path("mine.yaml").write_text(
        "task: multiclass\nmodels: [resnet18]\nfolds: 1\n"
        "resources: {mem_gb_per_gpu: 2, time_min: 20, cpus_per_gpu: 5}\n"
    )
    command = [
        *("submit", "--recipe", "mine.yaml", "--data", str(spots.path), "--site", "here.yaml"),
        *("--set", "resources.mem_gb_per_gpu=4", "--dry-run"),
    ]
    shown = CliRunner().invoke(main, command, catch_exceptions=False).stdout
    head, members, _ = shown.split("\n--- sbatch: ")
    assert [line.split(maxsplit=2) for line in head.splitlines()[7:12]] == [
        ["nodes", "1", "default"],
        ["gpus_per_node", "1", "default"],
        ["cpus_per_gpu", "5", "recipe"],
        ["mem_gb_per_gpu", "4.0", "command line"],
        ["time_min", "30", "site here"],
    ]
    lines = ["#SBATCH --cpus-per-task=5", "#SBATCH --mem=4096M", "#SBATCH --time=30"]
    assert [line for line in members.splitlines() if line in lines] == lines


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN"])
def test_key_of_a_tracker_is_kept_out_of_runs(tmp_path, name):
    told = complaint(tmp_path, f"env: {{{name}: abc}}\n")
    assert f"{name} would be written into every run; export it in your shell" in told


def test_tracker_that_nobody_knows_is_refused(tmp_path):
    told = complaint(tmp_path, "tracking: [neptune]\n")
    assert told.startswith("tracking.0: expected 'tensorboard', 'mlflow' or 'wandb'")
