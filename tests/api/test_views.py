"""What a notebook shows of a store, a planned run, a status and a report: whole texts, escaped."""

import base64
import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from stores import write_rows

import lenshpc
from lenshpc.api.views import OpenStore, Status, WrittenReport, convert
from lenshpc.launch.failures import find_failure
from lenshpc.launch.states import MemberStatus
from lenshpc.report.content import Banner, Headline, Table
from lenshpc.report.verdict import Verdict
from lenshpc.store import Pixels, StoreSpec, open_store

EVIL = "<script>alert(1)</script>\x1b[31m"
SHOWN = "<script>alert(1)</script>\\x1b[31m"  # as text; a script would not be one


class Reader(HTMLParser):
    """Gathers the rows of tables, the paragraphs, summaries, titles, images and links."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.texts, self.tags, self.images, self.links = [], [], set(), [], []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self._inside = tag
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if tag in {"p", "summary", "h3", "pre", "figcaption", "li", "strong"}:
            self.texts.append("")
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_data(self, data):
        if self._inside in {"td", "th"} and self.rows:
            self.rows[-1][-1] += data.strip()
        elif self._inside not in {"style", "tr", "tbody", "thead"} and self.texts:
            self.texts[-1] += data.strip()


def read(shown):
    return Reader(shown._repr_html_())


def member(index, state, **facts):
    name = f"{index:03d}-resnet18-fold{index}-seed0"
    return MemberStatus(index=index, name=name, state=state, epochs=50, **facts)


def evil_store(folder):
    """Return a store whose classes and ids are markup; its second class is that of red squares."""
    images = np.zeros((8, 3, 32, 32), np.float32)
    images[4:, 2, 8:24, 8:24] = 1
    rows = pd.DataFrame({"label": np.arange(8) // 4, "split": ["train"] * 6 + ["test"] * 2})
    rows["id"] = rows["group"] = [f"{EVIL}{row}" for row in range(8)]
    spec = StoreSpec(
        dataset=EVIL,
        classes=("dark", EVIL),
        image=Pixels(shape=(3, 32, 32), dtype="float32", channels=("g", "r", "i")),
        seed=0,
    )
    write_rows(folder, spec, rows, images)
    return convert(OpenStore, open_store(folder))


def test_store_shows_counts_and_pictures_and_no_markup_of_its_own(tmp_path):
    shown = read(evil_store(tmp_path / "store"))
    assert shown.rows[:3] == [["split", "dark", SHOWN], ["train", "4", "2"], ["test", "0", "2"]]
    assert ["dataset", f"{SHOWN}, rows permuted with seed 0"] in shown.rows
    assert ["images", "8 of 3 x 32 x 32 float32, scale 1"] in shown.rows
    assert "script" not in shown.tags
    assert [image["alt"] for image in shown.images] == [f"{SHOWN}{row}" for row in range(8)]
    png = base64.b64decode(shown.images[7]["src"].removeprefix("data:image/png;base64,"))
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    # red is the last channel; asinh's largest value is rounded down
    assert (pixels[16, 16].tolist(), pixels[0, 0].tolist()) == ([254, 0, 0], [0, 0, 0])


def test_store_that_is_damaged_later_still_shows_what_is_known(tmp_path):
    store = evil_store(tmp_path / "store")
    (shard,) = (path for path in (tmp_path / "store" / "images" / "c").rglob("*") if path.is_file())
    shard.write_bytes(b"\x00" * shard.stat().st_size)
    shown = read(store)
    assert shown.rows[1] == ["train", "4", "2"]
    assert shown.images == []
    assert any(text.startswith("The images cannot be read.") for text in shown.texts)


def test_planned_run_shows_members_cost_models_and_rows(spots, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    changes = {"train.epochs": 4, "train.batch_size": 16, "resources.time_min": 30}
    recipe = lenshpc.load_recipe(
        "lens_finding", changes, folds=2, seeds=[0, 1], models=["resnet10t", "resnet18"]
    )
    planned = lenshpc.plan(recipe, spots, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    shown = read(planned)
    assert shown.rows == [
        ["run", str(planned.path)],
        ["data", f"{spots.path} (spots: class0, class1)"],
        ["a member", "1 node(s) x 1 process(es) on CPUs, single, no time limit"],
        ["site", "local (local)"],
        ["model", "members", "folds", "seeds", "epochs", "batch", "lr"],
        ["resnet10t", "4", "2", "2", "4", "16", "0.0003"],
        ["resnet18", "4", "2", "2", "4", "16", "0.0003"],
        ["class", "training", "out-of-fold", "excluded", "test"],
        ["class0", "0", "48", "0", "12"],
        ["class1", "0", "48", "0", "12"],
    ]
    assert repr(planned) == f"<Planned {planned.path.name}: 8 members on site local>"
    assert Path(planned) == planned.path


def test_status_shows_members_with_progress_and_failures():
    failure = replace(find_failure("OUT OF MEMORY"), line=EVIL, tail=("last words", EVIL))
    status = Status(
        run=EVIL,
        report="PENDING",
        members=(
            member(0, "RUNNING", epoch=12, best_metric=0.5, job="7_0", node="gpu03"),
            member(1, "FAILED", epoch=3, reason=EVIL, failure=failure),
            member(2, "DONE", epoch=20),
        ),
    )
    shown = read(status)
    assert shown.rows == [
        ["member", "state", "epoch", "best", "GPU-h", "job", "node", "ends", "note"],
        ["000-resnet18-fold0-seed0", "RUNNING", "12/50", "0.5000", "0.00", "7_0", "gpu03", "", ""],
        ["001-resnet18-fold1-seed0", "FAILED", "3/50", "", "0.00", "", "", "", SHOWN],
        ["002-resnet18-fold2-seed0", "DONE", "20/50", "", "0.00", "", "", "", ""],
        ["report", "PENDING", "", "", "", "", "", "", ""],
    ]
    # a member that early stopping has ended is done
    assert "1 DONE 1 RUNNING 1 FAILED; report PENDING; 65 of 150 epochs" in shown.texts
    assert f"run {SHOWN}" in shown.texts
    assert any(text.endswith(f"last words\n{SHOWN}") for text in shown.texts)
    assert "script" not in shown.tags


@pytest.mark.parametrize(
    ("folder", "link"),
    [
        ("runs/a b/report", "./runs/a%20b/report/report.html"),
        ("/far/report", "file:///far/report/report.html"),
    ],
)
def test_report_shows_its_headline_table_and_page(tmp_path, monkeypatch, folder, link):
    monkeypatch.chdir(tmp_path)
    report = WrittenReport(
        title=EVIL,
        reading="",
        banners=(Banner(title="Not whole.", text="One is missing."),),
        headline=Headline(label="test AUC", value="0.987", range="[0.98, 0.99]", measure="AUC"),
        overview=Table.of(["model", "AUC"], [[EVIL, "0.987"]]),
        sections=(),
        content={},
        predictions=pd.DataFrame(),
        folder=tmp_path / folder,
    )
    shown = read(report)
    assert shown.rows == [["model", "AUC"], [SHOWN, "0.987"]]
    assert shown.texts[:4] == [SHOWN, "test AUC", "0.987[0.98, 0.99]", "Not whole.One is missing."]
    assert shown.links == [link]
    assert repr(report) == f"<Report AUC 0.987: {tmp_path / folder / 'report.html'}>"
    judged = replace(report, verdict=Verdict(colour="amber", sentence="Not shown.", checks=()))
    assert read(judged).texts[:2] == [SHOWN, "verdict: amber. Not shown."]


def test_what_may_be_meant_otherwise_is_a_warning_and_stands_in_the_view(spots, tmp_path):
    twice = {"data.sampling": "balanced", "method.class_weights": "balanced"}
    recipe = lenshpc.load_recipe("lens_finding", twice | {"train.batch_size": 16})
    told = "data.sampling balanced and method.class_weights balanced count rare classes 2 times"
    with pytest.warns(UserWarning, match=told):
        planned = lenshpc.plan(recipe, spots, tmp_path / "runs")
    assert read(planned).texts[1:3] == ["Is it meant so?", f"{told}; keep one"]
