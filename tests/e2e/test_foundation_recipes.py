"""Pre-training and the fine-tuning after it, at reduced size, in one command."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import finished
from safetensors.torch import load_file
from spots import write_store

JOBS = Path(__file__).parents[2] / "jobs"
VIT = {"patch": 8, "width": 24, "depth": 2, "heads": 2}
TRAIN = {"epochs": 2, "batch_size": 8, "warmup_epochs": 1}
DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


def reduced(folder: Path, name: str, *, method: dict[str, object], **changes: object) -> dict:
    """Write a shipped recipe at reduced size and return it."""
    recipe = yaml.safe_load((JOBS / f"{name}.yaml").read_text())
    recipe["train"] |= TRAIN
    recipe["method"] |= {"vit": VIT, **method}
    for variant in recipe.get("variants", {}).values():
        variant |= {key: 2 for key in ("train.epochs", "train.batch_size") if key in variant}
    recipe |= {"folds": 1, **changes}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return recipe


@pytest.mark.slow
def test_chain_goes_from_pretraining_to_the_report_of_fine_tuning(tmp_path: Path):
    write_store(tmp_path / "three", np.arange(96) % 3, ["train"] * 72 + ["test"] * 24)
    fine = reduced(tmp_path, "foundation_classification", method={})
    method = {"classes": ["class0"], **DECODER}
    reduced(tmp_path, "foundation", method=method, then=["./foundation_classification.yaml"])
    asked = ("submit", "--recipe", "./foundation.yaml", "--data", "three", "--wait")
    code, out, err = finished(tmp_path, *asked)
    assert code == 0, err
    first, second = (
        json.loads(Path(line.removeprefix("report: ")).with_name("report.json").read_text())
        for line in out.splitlines()
    )

    assert (first["task"], second["task"]) == ("foundation", "multiclass")
    assert first["learnt"] == ["class0"]
    assert np.isfinite(first["headline"]["ratio"])
    assert second["missing"] == []
    models = [one["name"] for one in second["models"] if one["kind"] == "model"]
    assert models == fine["models"]
    assert Path(second["recipe"]["init_from"]).name == first["run"]
    folder = tmp_path / "runs" / second["run"]
    page = (folder / "report" / "report.md").read_text()
    assert "## Pre-training" in page
    assert "label\\_fractions.svg" in page or "label_fractions.svg" in page

    learnt = encoder_weights(tmp_path / "runs" / first["run"], 0, "encoder.")
    probe = encoder_weights(folder, models.index("mae_vit+probe"), "network.encoder.")
    scratch = encoder_weights(folder, models.index("mae_vit+scratch"), "network.encoder.")
    assert all((learnt[key] == probe[key]).all() for key in learnt)
    assert any((learnt[key] != scratch[key]).any() for key in learnt)


def encoder_weights(run: Path, member: int, prefix: str) -> dict:
    """Return the encoder's weights of a run's member."""
    (path,) = run.glob(f"members/{member:03d}-*/model.safetensors")
    weights = load_file(path)
    return {
        key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
    }
