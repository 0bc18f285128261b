"""The layout that keeps a task in one room: few names at the top, no type questions outside."""

import re
import subprocess
import sys
from pathlib import Path

import lenshpc
from lenshpc.registry import find_task, load, task_names
from lenshpc.run.sections import Train

ROOT = Path(lenshpc.__file__).parent
OUTSIDE = [path for path in ROOT.rglob("*.py") if "tasks" not in path.relative_to(ROOT).parts]


def test_names_at_the_top_are_few():
    names = {path.name.removesuffix(".py") for path in ROOT.iterdir()}
    names -= {"__init__", "__pycache__", "py.typed"}
    assert len(names) <= 22, sorted(names)


def test_nobody_outside_of_the_rooms_asks_which_task_it_is():
    questions = re.compile(
        r"isinstance\([^)]*(method|settings)|\b(method|settings|recipe)\.kind\b|\.task (==|in|!=)"
    )
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in OUTSIDE
        for line in path.read_text(encoding="utf-8").splitlines()
        if questions.search(line)
    ]
    assert found == []


def test_nobody_outside_of_the_rooms_imports_one():
    inside = re.compile(r"(from|import) lenshpc\.tasks\b")
    found = [path for path in OUTSIDE if inside.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_names_of_tasks_stand_in_no_shared_module():
    """Nor in quotes; `simulate` and `prepare` name data sets, which are another thing."""
    names = {*task_names(), "classification"}
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in OUTSIDE
        if path.relative_to(ROOT).parts[0] not in {"prep", "cli"}
        for name in names
        if re.search(rf"[\"']{name}[\"']", path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_every_task_has_what_its_kind_names():
    for name in task_names():
        kind = find_task(name)
        named = (kind.task, kind.evaluate, kind.report, *kind.tools.values())
        optional = filter(None, (kind.generator, kind.readout, kind.measure))
        assert all(callable(load(reference)) for reference in (*named, *optional)), name


def test_settings_judges_reports_and_readouts_start_without_torch():
    modules = [
        f"lenshpc.tasks.{path.parent.name}.{path.stem}"
        for path in sorted((ROOT / "tasks").rglob("*.py"))
        if path.stem in {"settings", "judge", "report", "readout"}
    ]
    assert len(modules) >= 20
    code = (
        f"import importlib, sys; [importlib.import_module(m) for m in {modules}]; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_each_key_of_training_stands_in_the_table_of_keys():
    text = (ROOT.parent / "jobs" / "README.md").read_text(encoding="utf-8")
    assert [key for key in Train.model_fields if f"`train.{key}`" not in text] == []
