"""Mistakes in YAML and in `--set` become one line with the key and the nearest known one."""

import pytest

from lenshpc.config import find_shipped, locate, override, parse_assignment, read_yaml, validate
from lenshpc.errors import ConfigError
from lenshpc.launch.sites import Site, load_site
from lenshpc.prep.dataset import Dataset, load_dataset
from lenshpc.run.recipe import Recipe, load_recipe

MINIMAL = "task: multiclass\nmodels: [resnet18]\n"


def complaint(call, *arguments):
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    return str(caught.value)


def recipe_file(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_unknown_nested_key_names_the_nearest_with_its_path(tmp_path):
    source = recipe_file(tmp_path, MINIMAL + "train:\n  epoch: 3\n")
    assert complaint(load_recipe, source) == (
        f"recipe {source}: unknown key 'train.epoch'; did you mean train.epochs? known: "
        "train.epochs, train.batch_size, train.accumulate, train.optimizer, train.momentum, "
        "train.lr, train.lr_per_256, train.weight_decay, train.layer_decay, train.freeze, "
        "train.scheduler, train.schedule_epochs, train.cycles, train.step_epochs, "
        "train.step_factor, train.warmup_epochs, train.plateau_patience, train.patience, "
        "train.monitor, train.clip_norm, train.ema_decay, train.swa_epochs, train.precision, "
        "train.tf32, train.deterministic, train.channels_last, train.compile, "
        "train.activation_checkpointing, train.sync_batchnorm, train.strategy, "
        "train.zero_stage, train.offload, train.evaluation_batch, train.checkpoint_min, "
        "train.timeout_min, train.profile"
    )


def test_unknown_top_key_names_the_nearest(tmp_path):
    source = recipe_file(tmp_path, MINIMAL + "fold: 3\n")
    assert complaint(load_recipe, source) == (
        f"recipe {source}: unknown key 'fold'; did you mean folds? known: "
        "name, task, method, models, folds, only_folds, seeds, split_seed, variants, init_from, "
        "init_fingerprint, then, ensemble, data, train, resources, search"
    )


def test_missing_key_is_named(tmp_path):
    source = recipe_file(tmp_path, "models: [resnet18]\n")
    assert complaint(load_recipe, source) == f"recipe {source}: key 'task' is missing"


def test_wrong_value_is_shown_with_its_key(tmp_path):
    source = recipe_file(tmp_path, MINIMAL + "train: {epochs: three}\n")
    assert complaint(load_recipe, source) == (
        f"recipe {source}: train.epochs: expected a whole number (found 'three')"
    )


@pytest.mark.parametrize(("text", "kind"), [("", "NoneType"), ("- a\n", "list"), ("word\n", "str")])
def test_file_that_is_no_mapping_is_refused(tmp_path, text, kind):
    source = recipe_file(tmp_path, text)
    assert complaint(load_recipe, source) == f"{source} holds {kind}; expected a mapping of keys"


def test_file_that_is_no_yaml_is_refused_in_one_line(tmp_path):
    source = recipe_file(tmp_path, "models: [a\ntask: b\n")
    told = complaint(load_recipe, source)
    assert told.startswith(f"{source} is not valid YAML: ")
    assert "\n" not in told


def test_missing_file_and_unknown_name_are_refused():
    assert complaint(locate, "jobs", "absent.yaml") == "no such file: absent.yaml"
    assert complaint(locate, "slurm", "locl") == (
        "unknown site 'locl'; did you mean local? "
        "known: local, rehearsal; or give the path of a .yaml"
    )


def test_unknown_name_of_a_file_of_ones_own_leads_to_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "mine.yaml").write_text("scheduler: slurm\n")
    told = "unknown site 'mine'; known: local, rehearsal; or give slurm/mine.yaml"
    assert complaint(locate, "slurm", "mine") == told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.epochs=3", ("train.epochs", 3)),
        ("train.strategy=ddp", ("train.strategy", "ddp")),
        ("train.patience=null", ("train.patience", None)),
        ("train.lr=3.0e-4", ("train.lr", 3e-4)),
        ("models=[resnet18, vit_tiny]", ("models", ["resnet18", "vit_tiny"])),
        ("name=a=b", ("name", "a=b")),
        ("method.classes=[no, on]", ("method.classes", ["no", "on"])),  # words, as in YAML 1.2
        ("train.deterministic=True", ("train.deterministic", True)),
    ],
)
def test_assignment_is_a_key_and_a_yaml_value(text, expected):
    assert parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["train.epochs", "=3", "", "train..epochs=3", ".a=3"])
def test_assignment_without_key_or_equals_is_refused(text):
    assert complaint(parse_assignment, text) == (
        f"--set {text}: expected key=value, such as train.epochs=3"
    )


def test_assignment_of_bad_yaml_is_refused():
    assert complaint(parse_assignment, "models=[a") == (
        "--set models: '[a' is not a YAML value: expected ',' or ']', but got '<stream end>'"
    )


def test_override_of_nested_key_leaves_the_others_and_the_original():
    value = {"name": "a", "train": {"epochs": 3, "lr": 1e-3}}
    changed = override(value, "train.epochs", 5)
    assert changed == {"name": "a", "train": {"epochs": 5, "lr": 1e-3}}
    assert value == {"name": "a", "train": {"epochs": 3, "lr": 1e-3}}


def test_override_makes_the_section_that_is_missing():
    assert override({}, "resources.nodes", 2) == {"resources": {"nodes": 2}}


def test_override_below_a_value_is_refused():
    assert complaint(override, {"folds": 5}, "folds.deep", 1) == (
        "cannot set folds.deep: folds holds a value, not further keys"
    )


def test_mistyped_set_names_the_nearest_key():
    told = complaint(load_recipe, "multiclass", [("resources.node", 2)])
    assert told == (
        "recipe multiclass: unknown key 'resources.node'; did you mean resources.nodes? known: "
        "resources.nodes, resources.gpus_per_node, resources.tasks_per_node, "
        "resources.cpus_per_gpu, resources.mem_gb_per_gpu, resources.time_min, "
        "resources.max_requeues"
    )


def test_shipped_files_are_found():
    assert {folder: sorted(find_shipped(folder)) for folder in ("jobs", "slurm", "data_prep")} == {
        "jobs": [
            "anomaly",
            "diffusion",
            "diffusion_conditional",
            "foundation",
            "foundation_classification",
            "foundation_super_resolution",
            "lens_finding",
            "lens_finding_best",
            "lens_finding_ensemble",
            "lens_finding_fixmatch",
            "lens_finding_smote_kfold",
            "lens_finding_weighted_bce",
            "multiclass",
            "multiclass_best",
            "multiclass_convnextv2",
            "multiclass_resnet18",
            "multiclass_transformers",
            "physics_guided",
            "slc_two_classes",
            "super_resolution",
            "super_resolution_ensemble",
            "super_resolution_rcan",
            "super_resolution_srresnet",
        ],
        "slurm": ["local", "rehearsal"],
        "data_prep": [
            "diffusion",
            "foundation",
            "lens_finding",
            "multiclass",
            "physics_guided",
            "slc",
            "super_resolution",
            "super_resolution_hsc_hst",
        ],
    }


@pytest.mark.parametrize("name", sorted(find_shipped("jobs")))
def test_shipped_recipe_is_valid_and_round_trips(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize("name", sorted(find_shipped("slurm")))
def test_shipped_site_is_valid_and_round_trips(name):
    site = load_site(name)
    assert site.name == name
    assert Site.model_validate_json(site.model_dump_json()) == site


@pytest.mark.parametrize("name", sorted(find_shipped("data_prep")))
def test_shipped_dataset_is_valid(name):
    assert isinstance(load_dataset(name), Dataset)


def test_read_yaml_of_a_folder_is_refused(tmp_path):
    assert complaint(read_yaml, tmp_path) == f"cannot read {tmp_path}: Is a directory"


def test_key_that_stands_twice_is_refused_with_its_line(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("folds: 3\ntask: x\nfolds: 4\n")
    with pytest.raises(ConfigError, match=r"'folds' is given twice.*line 3"):
        read_yaml(path)


# --- values of YAML ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),  # 8 in YAML 1.1
        ("0o17", 15),
        ("0x1F", 31),
        ("1e-3", 0.001),
        ("1:30", "1:30"),  # 90 in YAML 1.1
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("<<", "<<"),
        ("~", None),
        ("", None),
        ("-9223372036854775807", -9223372036854775807),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(text, value):
    assert parse_assignment(f"key={text}") == ("key", value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (".inf", "'.inf' is no finite number"),
        ("-.INF", "'-.inf' is no finite number"),
        (".nan", "'.nan' is no finite number"),
        ("1e999", "'1e999' is no finite number"),
        ("9223372036854775808", "'9223372036854775808' is no number of 64 bits"),
        ("&a [*a]", "alias *a lies within &a; write out its value"),
        ("[*b]", "found undefined alias 'b'"),
        ("!!python/name:os.system", "tag tag:yaml.org,2002:python/name:os.system is not read;"),
        ("!!binary aGk=", "tag tag:yaml.org,2002:binary is not read; leave it out"),
        ("!!timestamp 2026-01-01", "tag tag:yaml.org,2002:timestamp is not read; leave it out"),
        ("{[a]: b}", "a key is no text; quote it"),
        ("{1: b}", "a key is no text; quote it"),
        ("{a: 1, a: 2}", "'a' is given twice"),
        ("[" * 33 + "]" * 33, "values lie more than 32 deep in each other"),
        ('"\\ud800"', r"'\ud800' is no text that can be written"),
        ("a\0", "unacceptable character #x0000"),
    ],
)
def test_value_that_is_refused_is_named_with_the_cause(text, told):
    line = complaint(parse_assignment, f"key={text}")
    assert line.startswith("--set key: ")
    assert f" is not a YAML value: {told}" in line


def test_number_of_5000_digits_is_refused_in_a_short_line():
    told = complaint(parse_assignment, "key=" + "9" * 5000)
    assert told.endswith(" is no number of 64 bits")
    assert len(told) < 300


def test_aliases_in_each_other_are_refused_before_they_take_memory(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    source = recipe_file(tmp_path, "\n".join(lines))
    assert "alias *a0 lies within &a1; write out its value" in complaint(load_recipe, source)


def test_alias_stands_for_the_value_of_its_anchor(tmp_path):
    path = tmp_path / "shared.yaml"
    path.write_text("a: &one [r, g]\nb: *one\n")
    assert read_yaml(path) == {"a": ["r", "g"], "b": ["r", "g"]}


def test_aliases_of_a_large_value_are_counted_as_written_out(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text(f"a: &one [{'x, ' * 9999}x]\nb: [{'*one, ' * 9}*one]\n")
    told = complaint(read_yaml, path)
    assert "there are more than 100000 values, aliases written out" in told


def test_file_of_more_than_a_quarter_of_a_mebibyte_is_refused(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text("#" * (1 << 18) + "\n")
    assert complaint(read_yaml, path) == (
        f"{path} has more than 262144 bytes, too many for settings"
    )


@pytest.mark.parametrize("begin", [b"\xef\xbb\xbf", b""], ids=["mark", "plain"])
def test_byte_order_mark_and_carriage_returns_change_nothing(begin, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(begin + b"task: multiclass\r\nmodels:\r\n  - resnet18\r\n")
    assert read_yaml(path) == {"task": "multiclass", "models": ["resnet18"]}


def test_file_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes("task: é\n".encode("latin-1"))
    assert complaint(read_yaml, path).startswith(f"{path} is not valid YAML: 'utf-8' codec can't")


# --- bounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("train.lr", float("inf"), "train.lr: expected a finite number (found inf)"),
        ("train.epochs", 10**18, "train.epochs: expected at most 1000000000"),
        ("seeds", [2**64], "seeds.0: expected less than 4294967296"),
        ("resources.mem_gb_per_gpu", 0.0004, "expected at least 0.0005"),
        ("folds", 10**6, "folds: expected at most 1000 (found 1000000)"),
        ("seeds", list(range(50_000)), "models × folds × seeds are 250000 members, more than"),
        (".".join("a" * 40), 1, "it has more than 32 parts"),
        ("name", "a" * 5000, "name: String should have at most 64 characters"),
    ],
)
def test_value_out_of_bounds_is_refused_in_a_short_line(key, value, told):
    line = complaint(load_recipe, "lens_finding", [(key, value)])
    assert told in line
    assert len(line) < 400


@pytest.mark.parametrize("value", [float("inf"), 0.0004, 1e7])
def test_memory_that_no_node_has_is_refused_in_a_site(value):
    told = complaint(
        validate, Site, {"name": "a", "scheduler": "slurm", "mem_gb_per_gpu": value}, "site a"
    )
    assert told.startswith("site a: mem_gb_per_gpu: expected ")
