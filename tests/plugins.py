"""Packages that declare tasks, as installed ones do: a folder for the search path."""

from pathlib import Path


def write_plugin(folder: Path, distribution: str, entry_points: str, **modules: str) -> Path:
    """Write a distribution of version 1.0 with its modules of one file; return the folder."""
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    return folder
