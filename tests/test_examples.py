"""The examples: what the documentation shows is what works, from images to the report."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from plugins import write_plugin

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PLUGIN = EXAMPLES / "plugin"
PAGE = ROOT / "docs" / "plugins.md"
SHOWN = {
    "python": [
        EXAMPLES / "mynet.py",
        EXAMPLES / "myloss.py",
        PLUGIN / "lenshpc_centring" / "__init__.py",
    ],
    "toml": [PLUGIN / "pyproject.toml"],
    "yaml": [PLUGIN / "lenshpc_centring" / "centring.yaml"],
}
BROKEN = "[lenshpc.tasks]\nbroken = broken_plugin:KIND\n"
SMALL = ("--set", "train.epochs=2", "--set", "train.batch_size=8", "--set", "data.image_size=48")
MAIN = "from lenshpc.cli.main import main; main(prog_name='lenshpc')"


def num_lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def test_plugin_is_one_short_module():
    modules = list(PLUGIN.rglob("*.py"))
    assert modules == [PLUGIN / "lenshpc_centring" / "__init__.py"]
    assert num_lines(modules[0]) < 150
    assert num_lines(EXAMPLES / "from_python.py") < 30


@pytest.mark.parametrize("language", SHOWN)
def test_documentation_shows_the_files_as_they_are(language):
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert blocks == [path.read_text() for path in SHOWN[language]]


def run(*command, cwd, **environment):
    """Return what a command prints; it ends well."""
    done = started(*command, cwd=cwd, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def started(*command, cwd, **environment):
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(cwd), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Return the Python of a new environment over this one, in which the plugin is installed."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(run(python, "-c", where, cwd=folder).strip())
    below = [path for path in sys.path if Path(path).name == "site-packages"]
    lines = [f"import site; site.addsitedir({path!r})" for path in below]
    (own / "below.pth").write_text("\n".join(lines))
    source = folder / "source"  # a build leaves files in its tree
    run("cp", "-r", PLUGIN, source, cwd=folder)
    run(python, "-m", "pip", "install", "-q", "--no-deps", source, cwd=folder)
    return python


@pytest.mark.slow
def test_plugin_runs_from_images_to_its_report(python, tmp_path):
    lenshpc = (python, "-c", MAIN)
    run(*lenshpc, "simulate", "multiclass", "images", "--train", 16, "--val", 8, cwd=tmp_path)
    run(*lenshpc, "prepare", "multiclass", "images", "store", cwd=tmp_path)
    words = {"COMP_WORDS": "lenshpc submit --task c", "COMP_CWORD": "3"}
    asked = {"_LENSHPC_COMPLETE": "bash_complete", **words}
    assert run(*lenshpc, cwd=tmp_path, **asked) == "plain,centring\n"
    submit = (*lenshpc, "submit", "--task", "centring", "--data", "store", *SMALL)
    refused = started(*submit, "--set", "method.max_offset_px=13", cwd=tmp_path)
    assert (refused.returncode, refused.stderr) == (
        2,
        "lenshpc: method.max_offset_px is for larger images; use 12 or less\n",
    )
    out = run(*submit, "--wait", cwd=tmp_path)

    page = Path(out.removeprefix("report: ").strip())
    assert [path.name for path in sorted((page.parent / "figures").iterdir())] == [
        "errors.svg",
        "history_error_px.svg",
        "history_loss.svg",
    ]
    told = json.loads(page.with_name("report.json").read_text())
    predicted = pd.read_parquet(page.with_name("predictions.parquet"))
    test = predicted[predicted["split"] == "test"]
    line = told["lines"][0]
    assert (line["model"], line["split"], told["missing"]) == ("small_cnn", "test", [])
    for way in ("network", "centroid", "middle"):
        assert line[way] == pytest.approx(test[way].mean())
    shown = page.with_name("report.md").read_text()
    assert f"{line['network']:.2f} ± {1.96 * test['network'].sem():.2f}" in shown
    plan = json.loads((page.parents[1] / "plan.json").read_text())
    assert plan["plugins"] == {"lenshpc-centring": "1.0"}
    (copied,) = page.parents[1].glob("code/*/lenshpc_centring/centring.yaml")
    assert copied.read_text() == (PLUGIN / "lenshpc_centring" / "centring.yaml").read_text()
    # the middle of a cut-out is as far from the lens as it was cut off it: a row's own draw
    drawn = [np.random.default_rng(row).integers(-8, 9, size=2) for row in predicted["row"]]
    assert np.allclose(predicted["middle"], np.hypot(*np.array(drawn).T))


@pytest.mark.slow
def test_broken_plugin_beside_a_working_one_stops_only_who_asks_for_it(python, tmp_path):
    text = "raise ImportError('no galsim')\n"
    path = str(write_plugin(tmp_path / "broken", "lens-broken", BROKEN, broken_plugin=text))
    lenshpc = (python, "-c", MAIN)
    told = {}
    for task in ("broken", "brokenn", "centring", "multiclass"):
        done = started(
            *lenshpc, "submit", "--task", task, "--data", "absent", cwd=tmp_path, PYTHONPATH=path
        )
        told[task] = done.stderr
    assert told["broken"] == (
        "lenshpc: task broken of lens-broken 1.0 cannot be imported (ImportError: no galsim); "
        "update or uninstall it\n"
    )
    assert "known: anomaly, broken, centring, diffusion" in told["brokenn"]
    assert told["centring"] == told["multiclass"]
    assert told["centring"].startswith("lenshpc: no store at absent")


@pytest.mark.slow
def test_run_from_python_predicts_as_its_member_did(tmp_path):
    out = run(sys.executable, EXAMPLES / "from_python.py", "here", cwd=tmp_path)
    report, told = out.splitlines()
    image, odds = told.split(": ", maxsplit=1)
    odds = json.loads(odds.replace("'", '"'))
    page = Path(report.removeprefix("report: "))
    assert page.is_file()
    (table,) = page.parents[1].glob("members/*/predictions.parquet")
    row = pd.read_parquet(table).set_index("id").loc[image]
    assert list(odds) == ["no", "sphere", "vort"]
    assert list(odds.values()) == pytest.approx(
        np.exp(row[["logp_0", "logp_1", "logp_2"]].to_numpy(float)), abs=1e-6
    )
