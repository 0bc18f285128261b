"""Gather the pages of the site into one folder, which Sphinx reads: `gather.py FOLDER`.

Pages link to each other as files of the repository, so that GitHub shows them too; here their links
lead to where the pages lie in the site. The keys of YAML files come from the code.
"""

import posixpath
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from lenshpc.api.schemas import build_schemas

ROOT = Path(__file__).parents[2]
# Pages outside of docs/, and where they lie in the site.
OUTSIDE = {
    "README.md": "index.md",
    "jobs/README.md": "jobs/README.md",
    "data_prep/README.md": "data_prep/README.md",
    "slurm/README.md": "slurm/README.md",
    "benchmarks/README.md": "benchmarks/README.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"\[([^\]]*)\]\(([^()\s#:]+)(#[^()\s]*)?\)")
CODE = re.compile(r"^(```[\s\S]*?^```|(?:    .*\n)+)", re.MULTILINE)
OPTIONS = """# Options of every command

What `lenshpc COMMAND --help` says; [commands](../commands.md) says it at length.

```{eval-rst}
.. click:: lenshpc.cli.main:main
   :prog: lenshpc
   :nested: full
```
"""
FACE = """# Python functions

[From Python](../python.md) shows them at work.

```{eval-rst}
.. automodule:: lenshpc.api
   :members:
   :imported-members:
```
"""


def gather(folder: Path) -> None:
    """Fill a folder with all pages, those made from code, and the files that pages link to."""
    pages = dict(OUTSIDE) | {
        str(path.relative_to(ROOT)): str(path.relative_to(ROOT / "docs"))
        for path in (ROOT / "docs").rglob("*.md")
    }
    made = {"reference/options.md": OPTIONS, "reference/functions.md": FACE}
    for kind, schema in build_schemas().items():
        made[f"reference/{kind}-keys.md"] = write_keys(kind, schema)
    for source, place in pages.items():
        made[place] = _translate(source, pages, folder)
    made["index.md"] += _write_contents()
    for place, text in made.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def _translate(source: str, pages: dict[str, str], folder: Path) -> str:
    """Return a page with its links as they are in the site; copy the files that they lead to."""

    def point(found: re.Match[str]) -> str:
        label, target, anchor = found.group(1), found.group(2), found.group(3) or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if (ROOT / path).is_dir():
            return label
        place = pages.get(path, path.removeprefix("docs/"))
        if path not in pages and (ROOT / path).is_file():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, folder / place)
        to = posixpath.relpath(place, posixpath.dirname(pages[source]) or ".")
        return f"[{label}]({to}{anchor})"

    text = (ROOT / source).read_text(encoding="utf-8")
    parts = CODE.split(text)
    return "".join(
        part if number % 2 else LINK.sub(point, part) for number, part in enumerate(parts)
    )


def _write_contents() -> str:
    """Return the site's contents, which GitHub's front page does without."""
    contents = yaml.safe_load(Path(__file__).with_name("contents.yaml").read_text("utf-8"))
    parts = []
    for caption, pages in contents.items():
        listed = "\n".join(pages)
        parts.append(f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n")
    return "".join(parts)


def write_keys(kind: str, schema: dict[str, Any]) -> str:
    """Return a page with a table of all keys that a JSON schema knows."""
    lines = [
        f"# Keys of a {kind}",
        "",
        f"Made from the models that read it; `schemas/{kind}.json` is the same for "
        "[editors](../editors.md).",
        "",
        *_write_table("", schema, schema["$defs"]),
    ]
    for rule in schema.get("allOf", ()):
        task = rule["if"]["properties"]["task"]["const"]
        method = _resolve(rule["then"]["properties"]["method"], schema["$defs"])
        lines += ["", f"## Method of {task}", ""]
        lines += _write_table("method.", method, schema["$defs"])
    return "\n".join(lines) + "\n"


def _write_table(prefix: str, schema: dict[str, Any], models: dict[str, Any]) -> list[str]:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    return rows + _list_rows(prefix, schema, models)


def _list_rows(prefix: str, schema: dict[str, Any], models: dict[str, Any]) -> list[str]:
    rows = []
    for key, held in schema["properties"].items():
        value = _resolve(held, models)
        if "properties" in value:
            rows += _list_rows(f"{prefix}{key}.", value, models)
            continue
        default = "required" if key in schema.get("required", ()) else _show(held.get("default"))
        meaning = held.get("description", "")
        cells = (f"`{prefix}{key}`", _name_type(value, models), default, meaning)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return rows


def _resolve(schema: dict[str, Any], models: dict[str, Any]) -> dict[str, Any]:
    """Return what a schema refers to; of a value that may be absent, the value."""
    given = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    if len(given) == 1:
        return _resolve(given[0], models)
    if "$ref" in schema:
        return _resolve(models[schema["$ref"].rpartition("/")[2]], models)
    return schema


def _name_type(schema: dict[str, Any], models: dict[str, Any]) -> str:
    schema = _resolve(schema, models)
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            names = [_name_type(one, models) for one in schema[union]]
            return ", or ".join(dict.fromkeys(name for name in names if name))
    kind = schema.get("type", "any")
    if kind == "array":
        inner = schema.get("items", {})
        inner = inner[0] if isinstance(inner, list) else inner
        return f"list of {_name_type(inner, models)}"
    if kind == "object":
        return "mapping"
    name = {"boolean": "true, false", "string": "text", "integer": "whole number"}.get(kind, kind)
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]:,}" for key, sign in signs.items() if key in schema]
    return " ".join([name if isinstance(name, str) else "any", ", ".join(bounds)]).strip()


def _show(default: Any) -> str:
    if default is None:
        return "none"
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    return f"`{shown}`"


if __name__ == "__main__":
    gather(Path(sys.argv[1]))
