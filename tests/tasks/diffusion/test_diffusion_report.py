"""The report of a run that generates images."""

import io
import json

import numpy as np
import pytest
from generation_run import make_generation_run
from PIL import Image

from lenshpc.report.write import compose, write
from lenshpc.run.results import gather
from lenshpc.tasks.diffusion.evidence import check_copies
from lenshpc.tasks.diffusion.feature_extractors import INCEPTION_SHA256
from lenshpc.tasks.diffusion.memorisation import Memorisation, Nearest


def walk(_):
    return np.random.default_rng(0).random((6, 1, 16, 16), dtype=np.float32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    paths, plan, *_ = make_generation_run(folder)
    report = compose(gather(paths, plan, {}, allow_partial=False, tools={"walk": walk}))
    return report, write(report, folder / "report")


def test_report_has_its_sections_and_files(whole):
    report, page = whole
    assert [section.title for section in report.sections][:4] == [
        "Distances",
        "Generated and real",
        "Memorisation",
        "Walk through the noise",
    ]
    names = {path.name for path in (page.parent / "figures").iterdir()}
    assert {"grid_real_01.png", "grid_sample_16.png", "generated_power.svg"} <= names
    assert {"nearest_01.png", "walk_01.gif", "walk_07.png"} <= names
    text = page.with_name("report.md").read_text()
    assert "FID" not in text.replace("It is not the FID", "")
    assert "No FD-MAE: the file" in text or "Network of FD-MAE" in text
    assert b"data:image/gif;base64,R0lGOD" in page.read_bytes()


def test_no_figure_shows_markup(whole):
    figures = list(whole[0].figures())
    assert figures
    assert not any("mathdefault" in figure.svg for figure in figures)


def test_walk_is_an_animation_of_all_frames(whole):
    _, page = whole
    moving = Image.open(io.BytesIO((page.parent / "figures" / "walk_01.gif").read_bytes()))
    assert (moving.n_frames, moving.size, moving.info["loop"]) == (6, (160, 160), 0)


def test_report_json_has_distance_floor_and_network(whole):
    _, page = whole
    content = json.loads(page.with_name("report.json").read_text())
    head = content["headline"]
    assert head["over_floor"] == pytest.approx(head["generated"]["mean"] / head["floor"]["mean"])
    assert (head["name"], head["num_rows"]) == ("unet", 32)
    assert len(content["networks"]["FD-lens"]["sha256"]) == 64
    assert set(content["memorisation"]) == {"num_training", "num_generated", "ratio", "share_close"}


def test_verdict_sets_generated_beside_blurred_images_and_looks_for_copies(whole):
    report, _ = whole
    head, checks = report.content["headline"], {one.name: one for one in report.verdict.checks}
    assert f"has a test FD-lens over that of real images of {head['over_floor']:.2f}" in (
        checks["baseline"].text
    )
    assert "real images, blurred" in checks["baseline"].text
    assert checks["rows"].text == (
        "Too few rows to tell: 16 test images on each side, and at least 60 are needed."
    )
    assert [checks[name].colour for name in ("chance", "turn", "out-of-fold", "folds")] == [
        *(None, None, None, None)
    ]


@pytest.mark.parametrize(("share", "colour"), [(0.05, "green"), (0.11, "amber"), (0.6, "red")])
def test_copies_are_told(share, colour):
    far = np.linspace(1, 2, 100)
    near = np.where(np.arange(100) < 100 * share, 0.5, 1.9)
    held_out, generated = (
        Nearest(row=np.zeros(100, np.int64), distance=one) for one in (far, near)
    )
    memory = Memorisation(num_training=9, generated=generated, held_out=held_out)
    assert memory.share_close == pytest.approx(share)
    assert check_copies(memory).colour == colour


def test_few_images_for_many_features_are_warned_of(whole):
    report, _ = whole
    (notes,) = [block for block in report.sections[0].blocks if type(block).__name__ == "Notes"]
    assert notes.lines[0].startswith(
        "FD-lens uses 16 images on each side and 6 features; at least 10 "
    )


def test_inception_gives_the_fid_beside_the_others(tmp_path):
    paths, plan, *_ = make_generation_run(tmp_path, inception="weights.pth")
    report = compose(gather(paths, plan, {}, allow_partial=False, tools={"walk": walk}))
    names = [one["name"] for one in report.content["lines"][0]["measures"]]
    assert names[:6] == ["FD-lens", "KID-lens", "FD-MAE", "KID-MAE", "FID", "KID"]
    assert report.content["headline"]["measure"] == "FD-lens"
    assert report.content["networks"]["FID"]["sha256"] == INCEPTION_SHA256
