"""The notebooks of the examples: they lie there without outputs, and run from the first cell on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))
FIRST = "1_images_to_report.ipynb"
AFTER_FIRST = ["2_trained_model.ipynb", "4_candidates.ipynb", "5_report_files.ipynb"]
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[1])
"""


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def execute(folder, name):
    """Return what the cells of a notebook show, run in a folder; nothing is told on stderr."""
    for path in (EXAMPLES / name, EXAMPLES / "mynet.py", EXAMPLES / "myloss.py"):
        shutil.copy(path, folder)
    own = {key: str(folder / "tmp") for key in ("TMPDIR", "IPYTHONDIR", "JUPYTER_DATA_DIR")}
    (folder / "tmp").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, name],
        cwd=folder,
        env={**os.environ, **own, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outputs = [one for cell in cells(folder / name) for one in cell.get("outputs", ())]
    told = [one["text"] for one in outputs if one.get("name") == "stderr"]
    assert told == []
    return [one.get("data", {}) for one in outputs]


def last_text(shown):
    return "".join(shown[-1]["text/plain"])


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Return the folder in which the first notebook has run, and what its cells have shown."""
    folder = tmp_path_factory.mktemp("notebooks")
    return folder, execute(folder, FIRST)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_lies_there_without_outputs(name):
    found = cells(EXAMPLES / name)
    code = [cell for cell in found if cell["cell_type"] == "code"]
    assert [(cell["outputs"], cell["execution_count"]) for cell in code] == [([], None)] * len(code)
    assert found[0]["source"][0].startswith("# ")
    assert max(len(cell["source"]) for cell in found) <= 12


@pytest.mark.slow
def test_notebook_from_images_to_report_shows_each_step(first):
    folder, shown = first
    texts = ["".join(one.get("text/plain", "")) for one in shown]
    begins = (
        "<Store stores/lenses: 160 images",
        "<Planned first-",
        "<Status first-",
        "<Report AUC",
    )
    first_seen = [next(at for at, text in enumerate(texts) if text.startswith(b)) for b in begins]
    assert first_seen == sorted(first_seen)
    html = ["".join(one.get("text/html", "")) for one in shown]
    assert any('<progress value="6" max="6">' in text for text in html)
    (page,) = folder.glob("runs/first-*/report/report.html")
    assert f'href="./{page.relative_to(folder)}"' in html[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", AFTER_FIRST)
def test_notebook_of_what_was_trained_runs_after_the_first(first, name):
    folder, _ = first
    shown = execute(folder, name)
    assert "image/png" in shown[-1]


@pytest.mark.slow
def test_notebook_of_an_own_network_ends_with_its_probabilities(tmp_path):
    assert last_text(execute(tmp_path, "3_own_network.ipynb")).startswith("array([[0.")
