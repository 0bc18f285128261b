"""The site builds, and every page of the project is in it."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "site"


def test_contents_name_every_page_once():
    contents = yaml.safe_load((SITE / "contents.yaml").read_text(encoding="utf-8"))
    named = [page for pages in contents.values() for page in pages]
    made = {"reference/options", "reference/functions"}
    made |= {f"reference/{kind}-keys" for kind in ("recipe", "dataset", "site")}
    pages = {str(path.relative_to(ROOT / "docs"))[:-3] for path in (ROOT / "docs").rglob("*.md")}
    folders = {f"{folder}/README" for folder in ("jobs", "data_prep", "slurm", "benchmarks")}
    assert sorted(named) == sorted(pages | folders | made | {"contributing", "changelog"})


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path):
    pages, site = tmp_path / "pages", tmp_path / "site"
    gather = [sys.executable, SITE / "gather.py", pages]
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", SITE, pages, site]
    for command in (gather, build):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    text = (site / "reference" / "recipe-keys.html").read_text(encoding="utf-8")
    assert "train.batch_size" in text
    assert "method.focal_gamma" in text
    assert "--dry-run" in (site / "reference" / "options.html").read_text(encoding="utf-8")
    assert (site / "jobs" / "README.html").is_file()
