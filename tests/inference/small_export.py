"""The folder of an export as another machine wrote it: real files, but for weights of no use."""

import hashlib
from pathlib import Path

import pandas as pd

from lenshpc.files import sha256, write_sealed
from lenshpc.registry.user_files import name_in_plan
from lenshpc.run.recipe import Recipe
from lenshpc.run.trained import EnsembleSpec, PixelStatistics, TrainedMember, weights_file


def make_export(folder: Path, *, fold: int = 0, code: str | None = None) -> Path:
    """Write the export of one network; `code` is the file that it comes from."""
    network = name_in_plan("Net", code.encode()) if code else "test_resnet"
    (folder / "members").mkdir(parents=True)
    weights = f"weights of fold {fold}".encode()
    member = TrainedMember(
        index=fold,
        model=network,
        fold=fold,
        seed=0,
        mean=(0.0,),
        std=(1.0,),
        sha256=hashlib.sha256(weights).hexdigest(),
    )
    (folder / weights_file(member)).write_bytes(weights)
    pd.DataFrame({"sha256": ["0" * 64]}).to_parquet(folder / "training_rows.parquet")
    if code:
        (folder / "code" / "files").mkdir(parents=True)
        (folder / "code" / "files" / f"{network.partition('@')[2]}.py").write_text(code)
    (folder / "README.md").write_text("---\nlicense: unknown\n---\n# lenses-01234567\n")
    kept = [one for one in folder.rglob("*") if one.is_file()]
    others = [one for one in kept if one.name != "README.md" and one.parent.name != "members"]
    spec = EnsembleSpec(
        name="lenses-01234567",
        fingerprint="01234567" * 8,
        recipe=Recipe(name="lenses", task="lens-finding", models=(network,), folds=2),
        dataset="lenses",
        source={},
        classes=("nonlens", "lens"),
        channels=("i",),
        image_shape=(1, 32, 32),
        dtype="uint8",
        pixels=PixelStatistics(centre=((0.1,), (0.1,)), scale=((1.0,), (1.0,)), limit=5.0),
        members=(member,),
        files={str(one.relative_to(folder)): sha256(one) for one in others},
    )
    write_sealed(folder / "model.json", spec.model_dump(mode="json"))
    return folder
