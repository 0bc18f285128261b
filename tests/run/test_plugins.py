"""Networks and losses of a file, and of packages that others install."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import finished
from plugins import write_plugin
from torch import nn

from lenshpc import registry
from lenshpc.config import locate
from lenshpc.engine.load import load_model
from lenshpc.errors import ConfigError, DataError
from lenshpc.models.backbones import whole
from lenshpc.registry import build_component, name_in_plan, path_in_run
from lenshpc.run.planning import plan_run
from lenshpc.run.recipe import load_recipe
from lenshpc.tasks.physics_guided.networks import GuidedBackbone

EXAMPLES = Path(__file__).parents[2] / "examples"
NET, LOSS = EXAMPLES / "mynet.py", EXAMPLES / "myloss.py"
SMALL = [
    ("folds", 1),
    ("train.epochs", 2),
    ("train.batch_size", 8),
    ("data.augment", ()),
]


def planned(store, *changes):
    return plan_run(load_recipe("multiclass", [*SMALL, *changes]), store)


def complaint(call, *arguments):
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    return str(caught.value)


def digest_of(path):
    return name_in_plan("x", path.read_bytes())[2:]


@pytest.fixture
def copies(tmp_path):
    for path in (NET, LOSS):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_files_are_named_by_what_they_hold_and_kept_with_the_plan(spots, copies):
    asked = [("models", [f"{copies}/mynet.py:MyNet"]), ("method.loss", f"{copies}/myloss.py:brier")]
    run = planned(spots, *asked)
    net, loss = f"MyNet@{digest_of(NET)}", f"brier@{digest_of(LOSS)}"
    assert run.plan.recipe.models == (net,)
    assert run.plan.recipe.method.loss == loss
    assert run.files == {net: NET.read_bytes(), loss: LOSS.read_bytes()}
    assert planned(spots, *asked).plan.fingerprint() == run.plan.fingerprint()
    with (copies / "mynet.py").open("a") as stream:
        stream.write("# another width\n")
    assert planned(spots, *asked).plan.fingerprint() != run.plan.fingerprint()


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        (None, "MyNet", "{path}:MyNet: cannot read the file (No such file or directory)"),
        ("class Other: ...\n", "MyNet", "{path} defines no class or function MyNet; it has Other"),
        ("class MyNet(\n", "MyNet", "{path}:1: '(' was never closed; correct the file"),
    ],
)
def test_file_without_the_class_is_refused_at_submission(spots, tmp_path, text, name, expected):
    path = tmp_path / "net.py"
    if text is not None:
        path.write_text(text)
    told = complaint(planned, spots, ("models", [f"{path}:{name}"]))
    assert told == expected.format(path=path)


def kept_file(code, text, name="MyNet"):
    """Keep a file as a run does; return what its class is called."""
    known = name_in_plan(name, text.encode())
    path = path_in_run(code, known)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return known


def spec_of(store, code):
    recipe = load_recipe("multiclass")
    return registry.TaskSpec(
        settings=recipe.method,
        train=recipe.train,
        classes=store.classes,
        class_counts=(48, 48),
        image_shape=store.image_shape,
        code=code,
    )


def test_file_that_does_not_import_is_one_line_where_the_job_runs(spots, tmp_path):
    name = kept_file(tmp_path, "import nothing_of_that_name\nclass MyNet: ...\n")
    told = complaint(build_component, "networks", spec_of(spots, tmp_path), name)
    assert told == (
        f"{path_in_run(tmp_path, name)} cannot be imported (ModuleNotFoundError: No module named "
        "'nothing_of_that_name'); correct the file that it was copied from and submit again, "
        "since resume uses this copy"
    )


def test_kept_file_that_was_altered_or_removed_is_refused(spots, tmp_path):
    name = kept_file(tmp_path, NET.read_text())
    path, spec = path_in_run(tmp_path, name), spec_of(spots, tmp_path)
    path.write_text("class MyNet: ...\n")
    with pytest.raises(DataError, match=r"was altered after the run was submitted"):
        build_component("networks", spec, name)
    path.unlink()
    with pytest.raises(DataError, match=r"which MyNet comes from, cannot be read"):
        build_component("networks", spec, name)


def test_network_of_a_file_must_give_the_numbers_that_are_asked_for(spots, tmp_path):
    from lenshpc.engine.load import make_task

    text = NET.read_text().replace("spec.num_outputs", "7")
    name, spec = kept_file(tmp_path, text), spec_of(spots, tmp_path)
    assert complaint(make_task("multiclass", spec).build_model, name) == (
        f"{name} returns (2, 7) for 2 images; expected (2, 2): spec.num_outputs numbers for each"
    )
    probed = spec.settings.model_copy(update={"linear_probe": True})
    task = make_task("multiclass", replace(spec, settings=probed))
    told = complaint(task.build_model, kept_file(tmp_path, NET.read_text()))
    assert told.startswith("method.linear_probe trains the last layer alone")
    with pytest.raises(ConfigError, match=r"the lens is found from .* does not name; give it timm"):
        GuidedBackbone(whole(nn.Flatten()), 3)


def test_loss_of_a_file_must_give_a_number_for_each_image(spots, tmp_path):
    scalar = kept_file(
        tmp_path, "def l2(spec):\n    return lambda o, t, w: ((o - t) ** 2).mean()\n", "l2"
    )
    spec, rows = spec_of(spots, tmp_path), torch.zeros(4, 2)
    with pytest.raises(ConfigError) as caught:
        build_component("losses", spec, scalar)(rows, rows, torch.ones(2))
    assert str(caught.value) == (
        f"loss {scalar} returns () for 4 images; expected (4,): one number for each"
    )


@pytest.mark.slow
def test_run_of_a_network_and_a_loss_of_files_outlives_the_files(spots, copies):
    settings = [text for key, value in SMALL for text in ("--set", f"{key}={json.dumps(value)}")]
    asked = ("--data", str(spots.path), *settings, "--set", "method.loss=./myloss.py:brier")
    code, out, err = finished(
        copies, "submit", "--task", "multiclass", "--models", "./mynet.py:MyNet", *asked, "--wait"
    )
    assert code == 0, err
    page = Path(out.removeprefix("report: ").strip())
    run = page.parents[1]
    model = load_model(run, 0)
    for name in ("mynet.py", "myloss.py"):
        (copies / name).unlink()

    assert {"embedding.svg"} <= {path.name for path in (page.parent / "figures").iterdir()}
    report = json.loads(page.with_name("report.json").read_text())
    assert [one["name"] for one in report["models"] if one["kind"] == "model"] == [
        f"MyNet@{digest_of(NET)}"
    ]
    image = torch.randn(3, *spots.image_shape)
    weights = model.state_dict()
    (done,) = run.glob("members/*/done.json")
    done.unlink()
    code, _, err = finished(copies, "resume", str(run))
    assert code == 0, err
    code, _, err = finished(copies, "status", str(run), "--watch")
    assert code == 0, err
    again = load_model(run, 0)
    assert all((weights[key] == value).all() for key, value in again.state_dict().items())
    assert torch.equal(model(image), again(image))


def listed(folder, program):
    """Return what a program prints that has a folder on its search path."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


ASK = """
from lenshpc.errors import ConfigError
from lenshpc.registry import find_task, task_names
print(*task_names())
find_task("multiclass")
try:
    find_task("broken")
except ConfigError as error:
    print(error)
"""


def test_plugin_that_does_not_import_is_listed_and_stops_only_who_asks_for_it(tmp_path):
    entries = "[lenshpc.tasks]\nbroken = broken_plugin:KIND\n"
    text = "raise ImportError('no galsim\\nhere')\n"
    folder = write_plugin(tmp_path, "lens-broken", entries, broken_plugin=text)
    names, error = listed(folder, ASK)
    assert names.split() == sorted([*registry.task_names(), "broken"])
    assert error == (
        "task broken of lens-broken 1.0 cannot be imported (ImportError: no galsim here); update "
        "or uninstall it"
    )


TWICE = """
from lenshpc.errors import ConfigError
from lenshpc.registry import find_task, task_names
print(*task_names())
find_task("multiclass")
try:
    find_task("rings")
except ConfigError as error:
    print(error)
"""


def test_name_that_two_packages_declare_stops_only_who_asks_for_it(tmp_path):
    for name in ("one", "two"):
        write_plugin(tmp_path, f"lens-{name}", f"[lenshpc.tasks]\nrings = rings_{name}:KIND\n")
    names, error = listed(tmp_path, TWICE)
    assert names.split() == sorted([*registry.task_names(), "rings"])
    both = {"lens-one 1.0", "lens-two 1.0"}
    assert (
        set(error.removeprefix("task rings is declared by ").partition(";")[0].split(" and "))
        == both
    )
    assert error.endswith("; uninstall one of them")


def test_recipe_of_a_package_is_found_by_package_and_file():
    assert locate("jobs", "lenshpc.jobs:multiclass.yaml") == locate("jobs", "multiclass")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("nothing_there:a.yaml", "nothing_there:a.yaml: no package nothing_there can be imported"),
        ("lenshpc.jobs:absent.yaml", "no such file: .*absent.yaml"),
    ],
)
def test_recipe_of_a_package_that_is_absent_is_refused(source, expected):
    assert re.match(expected, complaint(locate, "jobs", source))


class Settings(registry.TaskSettings):
    family = "rings"


PARTS = {"task": "math:pi", "evaluate": "math:pi", "report": "math:pi", "recipe": "rings.yaml"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"report": "math"}, "'math' is not the module:name of an installed module"),
        ({"tools": {"look": "nothing_there:x"}}, "'nothing_there:x' is not the module:name"),
        ({"settings": Settings()}, r"settings is Settings\(\), no class that derives from"),
        ({"settings": registry.TaskSettings}, "TaskSettings has no family"),
        ({"settings": {"monitors": ["loss"]}}, "monitors is no mapping of a metric to 1 or -1"),
        ({"settings": {"monitors": {"loss": "min"}}}, "monitors has 'min'"),
        ({"settings": {"scored": ("oof", "aside")}}, "scored has 'aside'"),
        ({"settings": {"loss_keys": ("loss",)}}, "loss_keys has 'loss'"),
    ],
)
def test_task_that_cannot_serve_is_refused_where_it_is_declared(changes, told):
    answers = changes.get("settings", Settings)
    if isinstance(answers, dict):
        answers = type("Wrong", (Settings,), {"__module__": __name__, **answers})
    registry.TaskKind(settings=Settings, **PARTS)
    with pytest.raises((TypeError, ValueError), match=told):
        registry.TaskKind(**{**PARTS, **changes, "settings": answers})


def test_reference_that_is_not_there_is_one_line():
    told = "math has no 'tau2', which its task names; correct the TaskKind"
    assert complaint(registry.load, "math:tau2") == told


def test_file_that_leaves_python_is_one_line(spots, tmp_path):
    name = kept_file(tmp_path, "import sys\nclass MyNet: ...\nsys.exit()\n")
    told = complaint(build_component, "networks", spec_of(spots, tmp_path), name)
    assert told.endswith(
        "cannot be imported (SystemExit: ); correct the file that it was copied from and submit "
        "again, since resume uses this copy"
    )


def test_network_of_a_file_may_divide_by_the_std_of_an_image(spots, tmp_path):
    from lenshpc.engine.load import make_task

    text = NET.read_text().replace("self.first(image)", "self.first(image / image.std())")
    made = make_task("multiclass", spec_of(spots, tmp_path)).build_model(kept_file(tmp_path, text))
    assert made(torch.randn(2, *spots.image_shape)).isfinite().all()


TAKEN = """
from lenshpc.errors import ConfigError
from lenshpc.registry import find_task, plugins_of
from lenshpc.run.networks import check_names
settings = find_task("multiclass").settings()
for names in (["test_resnet"], ["d4_net"], ["resnet18"]):
    try:
        check_names(names, settings)
        print(plugins_of("multiclass", settings, names))
    except ConfigError as error:
        print(error)
"""


def test_plugin_cannot_take_the_name_of_another_network(tmp_path):
    names = ("test_resnet", "d4_net")
    lines = "".join(f"classification.{name} = rings:net\n" for name in names)
    write_plugin(tmp_path, "lens-rings", f"[lenshpc.networks]\n{lines}")
    timms, ours, other = listed(tmp_path, TAKEN)
    assert timms == (
        "network test_resnet is a timm model, and a plugin declares another of that name; rename "
        "or uninstall the plugin's"
    )
    assert ours.startswith("network d4_net is declared by lens")
    assert other == "{}"
