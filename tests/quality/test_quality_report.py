"""The quality report as a file and on the command line."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from lenshpc.cli.main import main

SLC = Path(__file__).parents[2].parent / "shared" / "data" / "slc"


def called(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_report_is_one_page_that_needs_nothing_else(spots, tmp_path):
    page = tmp_path / "page.html"
    before = sorted(path.stat().st_mtime_ns for path in spots.path.rglob("*"))
    code, out, _ = called("info", spots.path, "--report", page)
    text = page.read_text()
    assert (code, out.splitlines()[-1]) == (0, f"report: {page}")
    assert "<script" not in text
    assert set(re.findall(r'src="(.{14})', text)) == {"data:image/png"}
    assert re.findall(r"<img(?![^>]* alt=)", text) == []
    assert sorted(path.stat().st_mtime_ns for path in spots.path.rglob("*")) == before


def test_report_as_json_replaces_the_earlier_one(spots, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("old")
    code, out, _ = called("info", spots.path, "--json", "--report", page)
    found = json.loads(out)
    assert (code, found["report"], page.read_text() == "old") == (0, str(page), False)
    assert found["quality"]["counts"] == {
        "train": {"class0": 48, "class1": 48},
        "test": {"class0": 12, "class1": 12},
    }
    assert found["quality"]["findings"][0]["gravity"] == "grave"


@pytest.mark.parametrize("name", ["page.txt", "absent/page.html"])
def test_report_at_an_impossible_place_is_refused(spots, tmp_path, name):
    code, out, err = called("info", spots.path, "--report", tmp_path / name)
    assert (code, out) == (2, "")
    assert err.startswith(f"lenshpc: cannot write a report at {tmp_path / name}")


def test_report_inside_the_store_is_refused(spots):
    code, _, err = called("info", spots.path, "--report", spots.path / "page.html")
    assert (code, "outside the store" in err) == (2, True)


@pytest.mark.slow
@pytest.mark.skipif(not SLC.is_dir(), reason=f"no real images at {SLC}")
def test_real_images_lie_along_the_x_axis(tmp_path):
    assert called("prepare", "slc", SLC, tmp_path / "slc")[0] == 0
    code, out, _ = called("info", tmp_path / "slc", "--json", "--report", tmp_path / "slc.html")
    quality = json.loads(out)["quality"]
    assert code == 0
    # 64 % without subtracting the background.
    assert quality["orientation_all"]["near_x"] == pytest.approx(0.66, abs=0.04)
    assert [
        (one["num_identical"], one["num_near"], one["num_turned"]) for one in quality["comparisons"]
    ] == [(0, 0, 0)] * 3
