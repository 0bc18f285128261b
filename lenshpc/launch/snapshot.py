"""The code that a submission was made with, kept so that its jobs run that and no later edit."""

import hashlib
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from tempfile import mkdtemp

from lenshpc.config import KINDS
from lenshpc.errors import ConfigError
from lenshpc.files import flush, flush_tree
from lenshpc.launch.sites import Site

SAFE = "PYTHONSAFEPATH"  # else `python -m` looks into the current folder first: a checkout, perhaps


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The package's files (name → bytes), as they were at one moment, and where their copy lies.

    `path` is named after `sha256`, so equal code is kept once, and another one beside it.
    """

    path: Path
    sha256: str
    files: Mapping[str, bytes]

    def before(self, site: Site) -> Site:
        """Return the site whose jobs run the copy, whatever its own setup does to the path."""
        path = f"{shlex.quote(str(self.path))}${{PYTHONPATH:+:$PYTHONPATH}}"
        line = f"export {SAFE}=1 PYTHONPATH={path}"
        return site.model_copy(update={"setup": (*site.setup, line)})

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return an environment in which the copy comes before the installed package."""
        paths = [str(self.path), *filter(None, [given.get("PYTHONPATH")])]
        return {**given, SAFE: "1", "PYTHONPATH": ":".join(paths)}

    def keep(self) -> None:
        """Write the copy, unless it is there."""
        if self.path.is_dir():
            return
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        draft = Path(mkdtemp(prefix=".draft-", dir=folder))
        for name, content in self.files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(content)
        flush_tree(draft)
        try:
            draft.rename(self.path)
        except OSError:  # another submission was quicker
            shutil.rmtree(draft)
        flush(folder)


def read(folder: Path) -> Snapshot:
    """Return the package as it is now, to be kept below `folder`; writes nothing."""
    if ":" in str(folder):
        raise ConfigError(f"{folder} holds a ':', where Python would cut it; choose another folder")
    files = dict(sorted(_package_files()))
    lines = (f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    sha256 = hashlib.sha256("".join(lines).encode()).hexdigest()
    return Snapshot(path=folder / sha256[:16], sha256=sha256, files=files)


def _package_files() -> Iterator[tuple[str, bytes]]:
    """Yield name in the copy and bytes of what `import lenshpc` can reach.

    The folders of YAML lie beside the package in a checkout, and inside it elsewhere.
    """
    for name in ("lenshpc", *(f"lenshpc.{folder}" for folder in KINDS)):
        root = Path(str(resources.files(name)))
        kinds = {".py", ".yaml"} if name != "lenshpc" else None
        for path in root.rglob("*"):
            is_wanted = path.suffix in kinds if kinds else path.parent.name != "__pycache__"
            if is_wanted and path.is_file():
                yield f"{name.replace('.', '/')}/{path.relative_to(root)}", path.read_bytes()
