"""An export answers as its run, far from it; whatever was changed in it is named."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from damage import flip
from small_run import make_trained_run

from lenshpc.cli.main import main
from lenshpc.errors import ConfigError, DataError
from lenshpc.files import read_json
from lenshpc.inference.export import export_run
from lenshpc.inference.load import load_ensemble
from lenshpc.inference.trained import open_trained
from lenshpc.run.trained import read_export
from lenshpc.worker import write_report

FILES = {
    "README.md",
    "fitted.safetensors",
    "members/000-test_resnet-fold0-seed0.safetensors",
    "members/001-test_resnet-fold1-seed0.safetensors",
    "members/002-d4_net-fold0-seed0.safetensors",
    "members/003-d4_net-fold1-seed0.safetensors",
    "model.json",
    "training_rows.parquet",
}


def files_of(folder):
    return {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run that is done, and its store."""
    run, store = make_trained_run(tmp_path_factory.mktemp("trained"))
    return run, store


@pytest.fixture(scope="module")
def export(run, tmp_path_factory):
    """Return the folder of its export."""
    place = tmp_path_factory.mktemp("exports") / "spots"
    export_run(run[0], place, licence="cc-by-4.0")
    return place


@pytest.fixture
def copy(export, tmp_path):
    """Return a copy of the export to damage."""
    return Path(shutil.copytree(export, tmp_path / "copy"))


def test_export_holds_what_is_needed_and_nothing_else(run, export):
    assert files_of(export) == FILES
    for name in [*run[0].root.joinpath("members").iterdir()]:
        weights = (name / "model.safetensors").read_bytes()
        assert (export / "members" / f"{name.name}.safetensors").read_bytes() == weights


ELSEWHERE = """
import sys, numpy as np
from lenshpc.inference.load import load_ensemble
images = np.load("images.npy")
for number, place in enumerate(sys.argv[1:]):
    np.save(f"{number}.npy", load_ensemble(place, device="cpu").predict(images))
"""


def test_export_gives_the_runs_own_probabilities_without_run_and_store(run, export, tmp_path):
    paths, store = run
    export_run(paths, tmp_path / "spots.zip")
    images = store.read_raw(slice(40, 52))
    expected = load_ensemble(paths.root, device="cpu").predict(images)
    np.save(tmp_path / "images.npy", images)
    aside = [one.rename(one.with_name(f"{one.name}-aside")) for one in (paths.root, store.path)]
    try:
        command = [sys.executable, "-c", ELSEWHERE, str(export), "spots.zip"]
        subprocess.run(command, cwd=tmp_path, check=True)
    finally:
        for one in aside:
            one.rename(one.with_name(one.name.removesuffix("-aside")))
    for name in ("0.npy", "1.npy"):
        np.testing.assert_allclose(np.load(tmp_path / name), expected, rtol=0, atol=1e-6)
    assert expected.shape == (12, 2)


@pytest.mark.parametrize("name", sorted(FILES - {"README.md"}))
def test_export_with_one_byte_changed_is_refused_by_name(copy, name):
    flip(copy / name)
    with pytest.raises(DataError, match=name):
        read_export(copy)


@pytest.mark.parametrize("name", sorted(FILES - {"README.md", "model.json"}))
def test_export_that_has_lost_a_file_is_refused_by_name(copy, name):
    (copy / name).unlink()
    with pytest.raises(DataError) as refused:
        read_export(copy)
    assert str(refused.value) == (
        f"{copy} lacks {name}; export the run again, or copy the complete folder"
    )


def test_card_is_for_people_to_edit(copy):
    with (copy / "README.md").open("a", encoding="utf-8") as card:
        card.write("\nFirst tried on HSC images.\n")
    assert read_export(copy).spec.name.startswith("spots-")


def test_export_knows_the_rows_that_it_has_learnt_from(run, export):
    found = pd.read_parquet(export / "training_rows.parquet")
    expected = sorted(run[1].rows["sha256"][:40])
    assert found.to_dict("list") == {"sha256": expected}


def told_by(run):
    """Return what only the machine that trained knows."""
    return [str(run[0].root.parent), str(run[1].path), "somebody", "login-7", "/home", "/tmp"]


def test_export_tells_nothing_of_the_machine_that_trained(run, export):
    told = told_by(run)
    for name in FILES - {name for name in FILES if name.endswith(".safetensors")}:
        content = (export / name).read_bytes()
        assert [word for word in told if word.encode() in content] == [], name


def test_some_models_are_exported_alone(run, tmp_path):
    export_run(run[0], tmp_path / "one", models=["d4_net"])
    assert {one for one in files_of(tmp_path / "one") if "members" in one} == {
        "members/002-d4_net-fold0-seed0.safetensors",
        "members/003-d4_net-fold1-seed0.safetensors",
    }
    images = run[1].read_raw(slice(0, 3))
    expected = load_ensemble(run[0].root, models=["d4_net"], device="cpu").predict(images)
    found = load_ensemble(tmp_path / "one", device="cpu").predict(images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_zip_has_the_same_bytes_each_time(run, tmp_path):
    for name in ("a.zip", "b.zip"):
        export_run(run[0], tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert files_of(tmp_path) == {"a.zip", "b.zip"}


def test_place_that_holds_something_is_left_alone(run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "old.zip").write_text("mine")
    for place in (tmp_path, tmp_path / "old.zip"):
        with pytest.raises(ConfigError) as refused:
            export_run(run[0], place)
        assert str(refused.value) == (
            f"{place} already exists; give a new folder or .zip, or move it away"
        )
    assert files_of(tmp_path) == {"notes.txt", "old.zip"}


def test_incomplete_run_is_refused_as_aggregate_does(run, tmp_path):
    shutil.copytree(run[0].root, tmp_path / run[0].name)
    done = tmp_path / run[0].name / "members/001-test_resnet-fold1-seed0/done.json"
    done.unlink()
    found = [
        CliRunner().invoke(main, [verb, str(tmp_path / run[0].name), *place])
        for verb, place in (("aggregate", []), ("export", [str(tmp_path / "out")]))
    ]
    assert [one.exit_code for one in found] == [1, 1]
    assert found[0].output == found[1].output
    assert "member 1 (test_resnet fold 1 seed 0)" in found[1].output
    assert not (tmp_path / "out").exists()


def test_program_that_cannot_be_leaves_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match="--program onnx"):
        export_run(run[0], tmp_path / "out", kinds=["onnx"])
    assert list(tmp_path.iterdir()) == []


def test_command_says_what_was_written_and_what_comes_next(run, tmp_path):
    place = tmp_path / "out"
    found = CliRunner().invoke(main, ["export", str(run[0].root), str(place)])
    num_bytes = sum(one.stat().st_size for one in place.rglob("*") if one.is_file())
    assert found.stdout.splitlines() == [
        f"export: {place} (4 members, {num_bytes / 1e6:.1f} MB)",
        f"use it with: lenshpc predict {place} SOURCE",
    ]
    assert found.stderr == (
        "note: the model card names no licence; export with --licence to name one\n"
    )


def test_command_as_json(run, tmp_path):
    place = tmp_path / "out.zip"
    found = CliRunner().invoke(
        main, ["export", str(run[0].root), str(place), "--licence", "mit", "--json"]
    )
    value = json.loads(found.stdout)
    assert value == {
        "export": str(place),
        "ensemble": open_trained(place).spec.digest,
        "members": 4,
        "bytes": value["bytes"],
        "programs": {},
    }


def test_licence_is_a_name(run, tmp_path):
    found = CliRunner().invoke(
        main, ["export", str(run[0].root), str(tmp_path / "out"), "--licence", "a: b"]
    )
    assert found.exit_code == 2
    assert (
        "--licence 'a: b' is not the name of a licence; give one such as cc-by-4.0" in found.stderr
    )


@pytest.mark.parametrize("name", ["out.tar.gz", "out.tgz", "out.7z"])
def test_archive_of_another_kind_is_refused(run, tmp_path, name):
    place = tmp_path / name
    found = CliRunner().invoke(main, ["export", str(run[0].root), str(place)])
    told = f"Error: {place} is neither a folder nor a .zip; name one of the two\n"
    assert (found.exit_code, found.stderr.endswith(told)) == (2, True)
    assert not place.exists()


@pytest.fixture(scope="module")
def card(run, tmp_path_factory):
    """Return the card of an export after a report, with a licence."""
    write_report(run[0])
    place = tmp_path_factory.mktemp("reported") / "spots"
    export_run(run[0], place, licence="cc-by-4.0")
    return (place / "README.md").read_text(encoding="utf-8")


def test_card_has_the_reports_figures(run, card):
    report = read_json(run[0].report / "report.json")
    front = yaml.safe_load(card.split("---\n")[1])
    (result,) = front.pop("model-index")[0]["results"]
    assert front == {
        "license": "cc-by-4.0",
        "library_name": "lenshpc",
        "pipeline_tag": "image-classification",
        "tags": ["lenshpc", "astronomy", "gravitational-lensing", "lens-finding"],
        "metrics": ["roc_auc"],
    }
    assert result["metrics"] == [{"type": "roc_auc", "value": report["headline"]["auc"]}]
    page = (run[0].report / "report.md").read_text(encoding="utf-8")
    lines = [one for one in page.splitlines() if one.startswith("| ensemble  ")]
    assert lines[0] in card
    assert "| baseline (mean and std) " in card
    assert f"Fingerprint: {report['fingerprint']}" in card
    assert "Commit: " + "0123abcd" * 5 in card
    assert "Its licence is cc-by-4.0." in card
    assert [word for word in (*told_by(run), "somebody") if word in card] == []


def test_card_without_a_report_says_so(export):
    card = (export / "README.md").read_text(encoding="utf-8")
    assert "This card has no metrics, as the run had no report when it was exported." in card
    assert "model-index" not in card


def test_python_of_the_card_runs(card, export):
    (code,) = re.findall("```python\n(.*?)```", card, flags=re.DOTALL)
    names = {}
    exec(code.replace('"DIR"', repr(str(export))), names)  # noqa: S102 - what users are told to run
    assert names["answers"].shape == (2, 2)
    np.testing.assert_allclose(names["answers"].sum(axis=1), 1)


@pytest.mark.slow
def test_programs_of_an_export_answer_as_it_does(run, tmp_path):
    made = export_run(run[0], tmp_path / "out", kinds=["torch", "onnx"])
    assert list(made.programs) == ["torch", "onnx"]
    assert max(made.programs.values()) < 1e-4
    assert {"programs/ensemble.pt2", "programs/ensemble.onnx"} < files_of(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    code = re.findall("```python\n(.*?)```", card, flags=re.DOTALL)[1]
    names = {}
    images = run[1].read_raw(slice(0, 3))
    exec(code.replace("DIR", str(tmp_path / "out")), names)  # noqa: S102 - what users are told to run
    (found,) = names["session"].run(["answer"], {"pixels": images})
    expected = load_ensemble(tmp_path / "out", device="cpu").predict(images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    page = Path(__file__).parents[2] / "docs" / "export.md"
    (code,) = re.findall("```python\n(import json.*?)```", page.read_text("utf-8"), re.DOTALL)
    exec(code.replace('"lenses/', f'"{tmp_path}/out/'), names)  # noqa: S102 - as above
    assert names["answers"].shape == (4, 2)
    flip(tmp_path / "out" / "programs" / "ensemble.onnx")
    with pytest.raises(DataError, match=r"programs/ensemble\.onnx"):
        read_export(tmp_path / "out")
