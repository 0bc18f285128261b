"""The site builds, and every page of the project is in it."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from browser import CHROMIUM, Browser

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "site"
MEASURE = """[document.documentElement.scrollWidth,
  [...document.images].filter(one => !one.naturalWidth).map(one => one.src)]"""


def test_contents_name_every_page_once():
    contents = yaml.safe_load((SITE / "contents.yaml").read_text(encoding="utf-8"))
    named = [page for pages in contents.values() for page in pages]
    made = {"reference/options", "reference/functions"}
    made |= {f"reference/{kind}-keys" for kind in ("recipe", "dataset", "site")}
    pages = {str(path.relative_to(ROOT / "docs"))[:-3] for path in (ROOT / "docs").rglob("*.md")}
    folders = {f"{folder}/README" for folder in ("jobs", "data_prep", "slurm", "benchmarks")}
    assert sorted(named) == sorted(pages | folders | made | {"contributing", "changelog"})


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    pages, site = folder / "pages", folder / "html"
    gather = [sys.executable, SITE / "gather.py", pages]
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", SITE, pages, site]
    for command in (gather, build):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    return site


@pytest.mark.slow
def test_site_builds_without_a_warning_and_has_what_comes_from_the_code(site):
    text = (site / "reference" / "recipe-keys.html").read_text(encoding="utf-8")
    assert "train.batch_size" in text
    assert "method.focal_gamma" in text
    assert "--dry-run" in (site / "reference" / "options.html").read_text(encoding="utf-8")
    assert "load_ensemble" in (site / "reference" / "functions.html").read_text(encoding="utf-8")
    assert (site / "jobs" / "README.html").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs chromium")
@pytest.mark.parametrize("width", [1400, 400])
def test_pages_fit_the_window_and_show_their_images(site, tmp_path, width):
    browser, wrong = Browser(tmp_path), {}
    try:
        browser.resize(width)
        for page in sorted(site.rglob("*.html")):
            browser.open(page)
            found = browser.run(MEASURE)
            if found[0] > width or found[1]:
                wrong[str(page.relative_to(site))] = found
    finally:
        browser.close()
    assert wrong == {}
