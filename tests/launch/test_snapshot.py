"""Queued jobs run the code of their submission, whatever happens to the installed package."""

import shutil
import subprocess
import sys

import lenshpc
from lenshpc.launch import snapshot
from lenshpc.paths import RUNS

SHOW = (
    "import lenshpc, lenshpc.worker, importlib.resources as r; print(lenshpc.__file__);"
    "print(r.files('lenshpc.jobs'), r.files('lenshpc.slurm'), r.files('lenshpc.data_prep'))"
)


def shown(folder, kept):
    """Return what a job's shell imports after the line of its setup."""
    line = f"{snapshot.python_path(kept)}\n{sys.executable} -B -c {SHOW!r}"
    script = folder / "job.sh"
    script.write_text(line.replace(repr(SHOW), f'"{SHOW}"'))
    done = subprocess.run(["bash", script], capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_copy_comes_before_the_installed_package(tmp_path):
    kept = snapshot.take(tmp_path / "a run's code")
    package = kept / "lenshpc"
    assert shown(tmp_path, kept) == [
        word
        for path in (package / "__init__.py", *(package / name for name in snapshot.FOLDERS))
        for word in str(path).split()
    ]
    assert lenshpc.__file__ != str(package / "__init__.py")


def test_same_code_is_kept_once_and_other_code_beside_it(tmp_path, monkeypatch):
    first = snapshot.take(tmp_path)
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert snapshot.take(tmp_path) == first
    changed = tmp_path / "paths.py"
    shutil.copy(sys.modules["lenshpc.paths"].__file__, changed)
    changed.write_text(changed.read_text() + f"# {RUNS}\n")
    files = {**snapshot.package_files(), "lenshpc/paths.py": changed}
    monkeypatch.setattr(snapshot, "package_files", lambda: files)
    second = snapshot.take(tmp_path)
    assert second != first
    assert (second / "lenshpc" / "paths.py").read_text() == changed.read_text()
    assert before == {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [first.name, second.name, "paths.py"]
    )


def test_copy_has_every_module_and_no_leftovers_of_python(tmp_path):
    kept = snapshot.take(tmp_path)
    names = {str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()}
    assert names == set(snapshot.package_files())
    assert {
        "lenshpc/worker.py",
        "lenshpc/report/report.html",
        "lenshpc/jobs/lens_finding.yaml",
    } <= names
    assert not [name for name in names if "__pycache__" in name]
