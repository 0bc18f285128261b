"""Each command that a page shows in a block runs, page by page, on small stores and runs."""

import os
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from commands import finished
from every_task import SMALL_VIT
from shown import LEFT_OPEN, PAGES, ROOT, is_as_shown, list_commands, shown_outputs, words_of

from lenshpc.cli.main import main
from lenshpc.engine.member import run_member
from lenshpc.engine.signals import Signals
from lenshpc.files import read_json, write_json
from lenshpc.launch.sites import load_site
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import save_plan
from lenshpc.run.planning import plan_run
from lenshpc.run.recipe import load_recipe
from lenshpc.store import open_store
from lenshpc.worker import write_report

pytestmark = pytest.mark.timeout(900)  # a page is many commands, some of which train and export
PROFILE = "scheduler: slurm\npartition: gpu\ngpus_per_node: 4\n"
SETS = {  # as large as a run of two folds needs
    "lens_finding": "--train lens=8,nonlens=16 --test lens=6,nonlens=12",
    "multiclass": "--train 8 --val 4",
    "slc": "--train 12",
    "diffusion": "--train 12",
    "foundation": "--train 12",
    "super_resolution": "--train 60",
}
TOY = {
    "folds": 2,
    "train.epochs": 1,
    "train.warmup_epochs": 0,
    "train.batch_size": 4,
    "resources.gpus_per_node": 0,
}
TOY_UNET = {"width": 8, "multipliers": [1, 2], "blocks": 1, "sampling_steps": 2, "num_samples": 8}
RUNS = {  # by the name that pages give it: recipe, store, what is set
    "lens_finding-9f2c51ab": ("lens_finding", "lenses", {"models": ["test_resnet", "d4_net"]}),
    "lens_finding-1c07e2d4": (
        "lens_finding",
        "lenses",
        {"models": ["test_resnet"], "train.lr": 2e-3},
    ),
    "diffusion-1c88d0aa": (
        "diffusion",
        "diffusion",
        {"method": TOY_UNET, "data.image_size": 32, "resources.nodes": 1},
    ),
    "foundation-1a2b3c4d": ("foundation", "foundation", {"folds": 1, "method.vit": SMALL_VIT}),
}
ELSEWHERE = {  # what a command needs that is not here, and the test that runs it
    r"^serve": "it ends with Ctrl-C: tests/serving",
    r"^doctor|--array-size|^resume .*--nodes": "a cluster: tests/slurm",
    r"\./examples|--task centring": "code of the user's: tests/test_examples.py",
    r"^logs": "the log of a job: the first run, tests/cli",
    r"--probe": "a GPU: tests/gpu",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return a folder with all that pages speak of, and the names of its runs by theirs."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        for name, counts in SETS.items():
            run("simulate", name, f"sets/{name}", *counts.split(), "--workers", "1")
            run("prepare", name, f"sets/{name}", f"stores/{name}", "--workers", "1")
        for name, source in {
            "images": "lens_finding",
            "cutouts": "lens_finding",
            "survey": "lens_finding",
            "downloads/SLC_Data": "slc",
        }.items():
            shutil.copytree(f"sets/{source}", name)
        for name in ("lenses", "rings", "survey", "new"):
            shutil.copytree("stores/lens_finding", f"stores/{name}")
        shutil.copytree("stores/super_resolution", "stores/pairs")
        for name in ("rings.yaml", "survey.yaml"):
            shutil.copy(ROOT / "data_prep" / "lens_finding.yaml", name)
        shutil.copy(ROOT / "jobs" / "lens_finding.yaml", "mine.yaml")
        (folder / "slurm").mkdir()
        for name in ("my.yaml", "mycluster.yaml", "slurm/mycluster.yaml"):
            Path(name).write_text(PROFILE)
        trained = {shown: train(*asked) for shown, asked in RUNS.items()}
        write_report(RunPaths(folder / "runs" / trained["lens_finding-9f2c51ab"]))
        run("export", trained["lens_finding-9f2c51ab"], "finder.zip")
        shutil.unpack_archive("finder.zip", "finder")
        return folder, trained


def train(recipe: str, store: str, changes: dict[str, object]) -> str:
    """Train a run in this process, and return its name."""
    found = open_store(Path("stores") / store)
    planned = plan_run(load_recipe(recipe, {**TOY, **changes}.items()), found)
    save_plan(planned.paths, planned.plan, planned.splits)
    planned.paths.slurm.mkdir(mode=0o700)
    write_json(planned.paths.site, load_site("local").model_dump(mode="json"))
    for member in planned.plan.members:
        run_member(planned.paths, member.index, Signals())
    return planned.paths.name


def run(*arguments: str) -> Result:
    """Run a command in this process; it has to succeed."""
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return done


def at_toy_size(arguments: list[str]) -> list[str]:
    """Return a command with fewer images and small networks; a submission is not sent."""
    line = [
        one.replace("resnet18", "test_resnet").replace("resnet34", "d4_net") for one in arguments
    ]
    if arguments[0] == "simulate":
        # Of a foundation model's images a hundredth has labels, and that must be a batch.
        size = line if "foundation" in line else [re.sub(r"\d{2,}", "60", one) for one in line]
        return [*size, "--workers", "1"]
    if arguments[0] in {"submit", "tune"}:
        line = [one for one in line if one not in {"--wait", "--dry-run"}]
        return [*line, "--set", "train.batch_size=8", "--dry-run"]
    return ["4" if one == "10000" else one for one in line]


def make_room(commands: list[list[str]]) -> None:
    """Remove what the commands of a page make, and others speak of."""
    for arguments in commands:
        made = {"simulate": 2, "prepare": 3, "export": 2}.get(arguments[0])
        if made:
            place = Path(arguments[made])
            (shutil.rmtree if place.is_dir() else Path.unlink)(place, True)


def commands_by_page():
    """Yield each page with the commands in its blocks that run here."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        shown = [one for one, alone in list_commands(text) if alone and not LEFT_OPEN.search(one)]
        here = [one for one in shown if not left_to_others(one)]
        if here and page.name != "first_run.md":
            yield pytest.param(text, here, id=str(page.relative_to(ROOT)))


def left_to_others(shown: str) -> bool:
    """Say whether another test runs a command."""
    return any(re.search(pattern, shown.split(" ", 1)[1]) for pattern in ELSEWHERE)


@pytest.mark.parametrize(("text", "commands"), [*commands_by_page()])
def test_commands_of_a_page_run_and_print_what_it_shows(
    text, commands, world, tmp_path, monkeypatch
):
    folder, runs = world
    shutil.copytree(folder, tmp_path / "here", copy_function=os.link)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("LENSHPC_DATA", "stores/lenses")
    for variables in re.findall(r"(?<=export )[A-Z_]+=.*", text):
        for name, value in re.findall(r"([A-Z_]+)=([^\s\"]+)", variables):
            monkeypatch.setenv(name, value)
    lines = [re.sub(r"\w+-[0-9a-f]{8}(?= |$)", lambda it: runs[it[0]], one) for one in commands]
    arguments = [at_toy_size(words_of(line)) for line in lines]
    make_room(arguments)
    outputs = shown_outputs(text)
    for shown, given in zip(commands, arguments, strict=True):
        done = run(*given)
        if shown in outputs:
            assert is_as_shown(outputs[shown], done.output), done.output


@pytest.mark.slow
def test_first_run_is_as_the_page_has_it(tmp_path):
    text = (ROOT / "docs" / "start" / "first_run.md").read_text(encoding="utf-8")
    commands = [shown for shown, alone in list_commands(text) if alone]
    outputs = shown_outputs(text)
    assert (len(commands), len(outputs)) == (11, 4)
    for shown in commands:
        code, out, err = finished(tmp_path, *words_of(shown))
        assert code == 0, (shown, out, err)
        assert shown not in outputs or is_as_shown(outputs[shown], out), out
    (report,) = tmp_path.glob("runs/first-*/report")
    assert (report / "report.html").is_file()
    assert read_json(report / "report.json")["verdict"]["colour"] == "amber"
    found = read_json(tmp_path / "found" / "summary.json")["decisions"]
    assert found["lens"] > 40  # of 50
    assert (tmp_path / "found" / "gallery.html").is_file()
    assert (tmp_path / "first.zip").is_file()


TWO_LINES = "run  first-f2423516\nauc  0.9955, 200 rows\n"


@pytest.mark.parametrize(
    ("shown", "output", "same"),
    [
        (TWO_LINES, "run    first-0a1b2c3d\nauc 0.97, 12 rows\n", True),
        (TWO_LINES, "run first-deadbeef\n\nauc 1, 7 rows", True),
        (TWO_LINES, "run first-0a1b2c3d\nauc 0.97, 12 images\n", False),
        (TWO_LINES, "run first-0a1b2c3d\nauc 0.97, 12 rows\nmore\n", False),
        (TWO_LINES, "run first-0a1b2c3d auc 0.97, 12 rows\n", False),
        ("run …\n…\n20 rows", "run first-0a1b2c3d\nauc 0.97\nmore\n1 rows\n", True),
        ("run …\n…\n20 rows", "run first-0a1b2c3d\nauc 0.97\nmore\n1 images\n", False),
    ],
)
def test_output_is_compared_in_all_but_figures_and_blanks(shown, output, same):
    assert is_as_shown(shown, output) is same
