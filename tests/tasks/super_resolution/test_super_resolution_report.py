"""The report of a super-resolution run."""

import json

import pytest
from pairs_run import make_pairs_run

from lenshpc.report.write import compose, write
from lenshpc.run.results import gather


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = make_pairs_run(tmp_path_factory.mktemp("report"))
    return run, compose(gather(run.paths, run.plan, {}, allow_partial=False))


def test_report_has_its_sections_and_files(whole, tmp_path):
    run, report = whole
    titles = [section.title for section in report.sections]
    assert titles[:4] == ["Models", "Power spectra", "Images", "Spread of members as uncertainty"]
    page = write(report, tmp_path / "report")
    assert {path.name for path in (page.parent / "figures").glob("s*.svg")} == {
        "spectrum_power.svg",
        "spectrum_ratio.svg",
        "spectrum_correlation.svg",
        "spread_calibration.svg",
    }
    assert len(list((page.parent / "figures").glob("images_worst_*.png"))) == 4 * 7
    assert (run.paths.root / "merged.zarr" / "sr" / "zarr.json").is_file()
    text = page.with_name("report.md").read_text()
    assert "dB" in text
    assert "| bicubic " in text


def test_report_json_has_the_figures_of_every_line(whole, tmp_path):
    _, report = whole
    content = json.loads(write(report, tmp_path / "report").with_name("report.json").read_text())
    names = ["nearest", "bilinear", "bicubic", "Lanczos", "edsr", "rcan", "ensemble"]
    assert [one["name"] for one in content["models"]] == names
    assert content["headline"]["name"] == "ensemble"
    assert content["headline"]["gain_db"] == content["models"][-1]["test"]["gain_db"] > 10
    assert content["target_shape"] == [1, 32, 32]


def test_verdict_is_of_psnr_beside_interpolations_and_knows_no_chance(whole):
    _, report = whole
    lines = {one["name"]: one["test"] for one in report.content["models"]}
    rival = max(["nearest", "bilinear", "bicubic", "Lanczos"], key=lambda name: lines[name]["psnr"])
    ahead = lines["ensemble"]["psnr"] - lines[rival]["psnr"]
    checks = {one.name: one for one in report.verdict.checks}
    gain = f"{lines['ensemble']['gain_db']:.2f}"
    assert checks["baseline"].text.startswith(
        f"The ensemble has a test gain of PSNR over bicubic (dB) of {gain}, better than every "
        f"baseline: it beats the closest one, {rival}, by {ahead:.2f} ["
    )
    assert (checks["chance"].colour, checks["turn"].colour) == (None, None)
    assert checks["folds"].text.startswith("The 2 folds ")


def test_partial_report_of_one_model_says_so(tmp_path):
    run = make_pairs_run(tmp_path, models=("edsr",))
    run.forget(0)
    report = compose(gather(run.paths, run.plan, {}, allow_partial=True))
    assert report.banners[0].title == "PARTIAL: 1 of 2 members are missing."
    assert report.content["headline"]["name"] == "edsr"
    assert report.overview.rows[-1].cells[-1] == "20"
    calibration = [section for section in report.sections if section.title.startswith("Spread")]
    assert calibration == []
    assert report.predictions["edsr:psnr"].isna().sum() == 15
