"""The code that a submission was made with, kept so that its jobs run that and no later edit."""

import hashlib
import importlib.util
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

from lenshpc.config import KINDS
from lenshpc.errors import ConfigError
from lenshpc.files import flush, flush_tree, unique_name
from lenshpc.launch.sites import Site
from lenshpc.registry import OURS, plugin_entries

SAFE = "PYTHONSAFEPATH"  # else `python -m` looks into the current folder first: a checkout, perhaps


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Files of lenshpc and of plugins, name → bytes, at one moment, and where their copy lies.

    `path` is named after `sha256`, so equal code is kept once, and another one beside it.
    """

    path: Path
    sha256: str
    files: Mapping[str, bytes]

    def before(self, site: Site) -> Site:
        """Return the site whose jobs run the copy, whatever its own setup does to the path."""
        path = f"{shlex.quote(str(self.path))}${{PYTHONPATH:+:$PYTHONPATH}}"
        # Last in the setup and first in the path: a site's own lines may set PYTHONPATH.
        line = f"export {SAFE}=1 PYTHONPATH={path}"
        # model_copy does not validate: the line is ours, and its path is quoted.
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
        # Beside its place, written, flushed, renamed: a job must never import from half a package.
        # Not by mkdtemp, whose folders stay closed to all who may read the rest of the run.
        draft = unique_name(self.path, "tmp")
        draft.mkdir()
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
    """Return lenshpc and all plugins as they are now, to be kept below `folder`; writes nothing."""
    if ":" in str(folder):
        raise ConfigError(
            f"{folder} contains a ':', which separates paths for Python; choose another folder"
        )
    # Read once, at this moment, and written from memory: what is hashed is what is kept, also while
    # somebody edits.
    files = dict(sorted([*_package_files(), *_plugin_files(), *_metadata_files()]))
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


def _plugin_files() -> Iterator[tuple[str, bytes]]:
    """Yield name in the copy and bytes of the plugins' top-level packages, none being imported."""
    values = (entry.value for entry in plugin_entries())
    # A wrong entry, or metadata alone that is left, stops whoever asks for it and nobody else.
    for name in sorted({re.split(r"[.:\s]", value)[0] for value in values} - {""}):
        found = importlib.util.find_spec(name)
        if found is None or not (found.submodule_search_locations or found.has_location):
            continue
        folders = found.submodule_search_locations
        if folders is None:
            path = Path(str(found.origin))
            yield path.name, path.read_bytes()
        for root in map(Path, folders or ()):
            for path in root.rglob("*"):
                if path.parent.name != "__pycache__" and path.is_file():
                    yield f"{name}/{path.relative_to(root)}", path.read_bytes()


def _metadata_files() -> Iterator[tuple[str, bytes]]:
    """Yield what makes the copy's entry points found, whatever is installed when a job starts."""
    declared = (entry.dist for entry in plugin_entries())
    plugins = {dist.name: dist for dist in declared if dist is not None}
    for dist in (metadata.distribution(OURS), *plugins.values()):
        folder = f"{dist.name.replace('-', '_')}-{dist.version}.dist-info"
        yield f"{folder}/METADATA", f"Name: {dist.name}\nVersion: {dist.version}\n".encode()
        yield f"{folder}/entry_points.txt", (dist.read_text("entry_points.txt") or "").encode()
