"""Queued jobs run the code of their submission, whatever happens to the installed package."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from plugins import write_plugin

import lenshpc
from lenshpc.errors import ConfigError
from lenshpc.launch import snapshot
from lenshpc.launch.sites import Site

SHOW = "print(__import__('lenshpc.worker').__file__, *[__import__('importlib.resources').resources\
.files(f'lenshpc.{name}') for name in ('jobs', 'slurm', 'data_prep')], sep='\\n')"
SITE = Site(name="big", scheduler="slurm", setup=("export PYTHONPATH=/their/own",))


@pytest.fixture
def kept(tmp_path):
    code = snapshot.read(tmp_path / "a run's code")
    code.keep()
    return code


def expected(code):
    package = code.path / "lenshpc"
    paths = (package / name for name in ("__init__.py", "jobs", "slurm", "data_prep"))
    return [str(path) for path in paths]


def shown(command, folder, environment=None):
    """Return what a command prints in a folder with another lenshpc, such as a checkout."""
    (folder / "lenshpc").mkdir()
    (folder / "lenshpc" / "__init__.py").touch()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_job_imports_the_copy_before_the_installed_package_and_the_current_folder(kept, tmp_path):
    assert Path(lenshpc.__file__).parent != kept.path / "lenshpc"
    setup = kept.before(SITE).setup
    script = "\n".join([*setup, 'exec "$0" -c "$1"'])
    assert shown(["bash", "-eu", "-c", script, sys.executable, SHOW], tmp_path) == expected(kept)
    assert setup[-1].endswith("${PYTHONPATH:+:$PYTHONPATH}"), "what the site needs stays"


def test_local_process_imports_the_copy(kept, tmp_path):
    environment = kept.environment({**os.environ, "PYTHONPATH": "/their/own"})
    assert shown([sys.executable, "-c", SHOW], tmp_path, environment) == expected(kept)


def test_same_code_is_kept_once_and_other_code_beside_it(tmp_path, monkeypatch):
    package = tmp_path / "package"
    shutil.copytree(Path(lenshpc.__file__).parent, package / "lenshpc")
    roots = {"lenshpc": package / "lenshpc"}
    monkeypatch.setattr(snapshot.resources, "files", lambda name: roots.get(name, package / "none"))
    first = snapshot.read(tmp_path / "code")
    assert not (tmp_path / "code").exists(), "reading writes nothing"
    first.keep()
    before = files_of(first.path)
    assert snapshot.read(tmp_path / "code") == first
    with (package / "lenshpc" / "run" / "paths.py").open("a") as stream:
        stream.write("# fixed\n")
    second = snapshot.read(tmp_path / "code")
    for _ in range(2):
        second.keep()
    assert files_of(first.path) == before
    changed = {name for name, content in files_of(second.path).items() if content != before[name]}
    assert changed == {"lenshpc/run/paths.py"}
    assert {path.name for path in (tmp_path / "code").iterdir()} == {
        first.sha256[:16],
        second.sha256[:16],
    }


def files_of(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_copy_has_every_module_and_template_and_no_leftovers_of_python(kept):
    names = set(files_of(kept.path))
    package = Path(lenshpc.__file__).parent
    modules = {f"lenshpc/{path.relative_to(package)}" for path in package.rglob("*.py")}
    shipped = {"report/report.html", "jobs/lens_finding.yaml", "slurm/local.yaml"}
    assert modules | {f"lenshpc/{name}" for name in shipped} <= names
    assert not [name for name in names if "__pycache__" in name]


def test_folder_that_a_search_path_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="contains a ':'"):
        snapshot.read(tmp_path / "12:30")


PLUGIN = """
from lenshpc.registry import TaskKind, TaskSettings

class Settings(TaskSettings):
    family = "toy"

KIND = TaskKind(
    settings=Settings,
    task="toy_plugin:T",
    evaluate="toy_plugin:e",
    report="toy_plugin:r",
    recipe="toy",
)
"""
KEEP = """
import sys
from pathlib import Path
from lenshpc.launch import snapshot
code = snapshot.read(Path(sys.argv[1]))
code.keep()
print(code.path)
"""
NAMES = """
from importlib.metadata import entry_points
print(*sorted(entry.name for entry in entry_points(group="lenshpc.tasks")))
"""
FIND = """
import sys
from lenshpc.registry import find_task, plugins_of
print(find_task("toy").settings.__name__, sys.modules["toy_plugin"].__file__)
print(plugins_of("toy", find_task("toy").settings(), ()))
"""


def printed(program, path, *arguments, options=()):
    """Return what a program prints that has a folder on its search path."""
    # From that folder and not from the current one, which is a checkout; and leaving it as it is.
    own = {"PYTHONPATH": str(path), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {**os.environ, **own}
    command = [sys.executable, *options, "-c", program, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.fixture
def with_plugins(tmp_path):
    """Return the path of a copy that was made where one plugin works and another does not."""
    installed = tmp_path / "installed"
    entries = "[lenshpc.tasks]\ntoy = toy_plugin:KIND\n"
    write_plugin(installed, "lens-toy", entries, toy_plugin=PLUGIN)
    broken = "[lenshpc.tasks]\nbroken = broken_plugin:KIND\nabsent = absent_plugin:KIND\n"
    broken += "built_in = sys:KIND\nmalformed = !!\n"
    write_plugin(installed, "lens-broken", broken, broken_plugin="raise ImportError('no galsim')")
    (path,) = printed(KEEP, installed, tmp_path / "code")
    shutil.rmtree(installed)
    return Path(path)


def test_copy_alone_declares_our_tasks_and_those_of_plugins(with_plugins):
    ours = [entry.name for entry in entry_points(group="lenshpc.tasks")]
    (names,) = printed(NAMES, with_plugins, options=("-S",))  # no site-packages
    assert names.split() == sorted([*ours, "toy", "broken", "absent", "built_in", "malformed"])


def test_plugin_of_the_copy_works_where_it_is_not_installed(with_plugins):
    assert printed(FIND, with_plugins) == [
        f"Settings {with_plugins / 'toy_plugin.py'}",
        "{'lens-toy': '1.0'}",
    ]


def test_copy_of_a_copy_is_the_same(with_plugins, tmp_path):
    (again,) = printed(KEEP, with_plugins, tmp_path / "again")
    assert Path(again).name == with_plugins.name
    assert files_of(Path(again)) == files_of(with_plugins)
