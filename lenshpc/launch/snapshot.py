"""Keep the code that a submission was made with, so that its jobs run that and no later edit."""

import hashlib
import shlex
import shutil
from importlib import resources
from pathlib import Path
from tempfile import mkdtemp

from lenshpc.files import flush_folder, flush_tree, sha256

FOLDERS = ("jobs", "slurm", "data_prep")  # beside the package in a checkout, inside it elsewhere
KINDS = {".py", ".typed", ".yaml", ".html", ".sh", ".md"}


def take(folder: Path) -> Path:
    """Copy the package below `folder` and return what goes first on the jobs' PYTHONPATH.

    The copy is named after the SHA-256 of its files: the same code is kept once, and another one
    does not touch that of jobs which wait.
    """
    files = package_files()
    kept = folder / digest(files)[:16]
    if kept.is_dir():
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(prefix=".draft-", dir=folder))
    draft.chmod(0o755)
    for name, path in files.items():
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, draft / name)
    flush_tree(draft)
    try:
        draft.rename(kept)
    except OSError:  # another submission was quicker
        shutil.rmtree(draft)
    flush_folder(folder)
    return kept


def package_files() -> dict[str, Path]:
    """Return name inside the copy → file, for all that `import lenshpc` can reach."""
    roots = {"lenshpc": Path(str(resources.files("lenshpc")))}
    roots |= {f"lenshpc/{name}": Path(str(resources.files(f"lenshpc.{name}"))) for name in FOLDERS}
    return {
        f"{name}/{path.relative_to(root)}": path
        for name, root in roots.items()
        for path in sorted(root.rglob("*"))
        if path.suffix in KINDS and path.is_file()
    }


def digest(files: dict[str, Path]) -> str:
    """Return the SHA-256 over the names and contents of files."""
    lines = [f"{sha256(path)}  {name}\n" for name, path in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def python_path(kept: Path) -> str:
    """Return the shell line that puts a copy before the installed package; for a job's setup."""
    return f"export PYTHONPATH={shlex.quote(str(kept))}${{PYTHONPATH:+:$PYTHONPATH}}"
