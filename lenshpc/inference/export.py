"""Write a run's trained ensemble as one folder, or .zip, that needs nothing else to be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lenshpc import __version__
from lenshpc.errors import DataError
from lenshpc.files import (
    flush_tree,
    replacing,
    replacing_folder,
    sha256,
    unique_name,
    write_text,
)
from lenshpc.inference.archive import SUFFIX, pack, require_free
from lenshpc.inference.card import CARD, UNKNOWN, Figures, write_card
from lenshpc.inference.trained import of_run
from lenshpc.registry import is_kept_file
from lenshpc.registry.user_files import path_in_run
from lenshpc.run.origin import open_origin
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import load_plan, load_splits, open_planned_store
from lenshpc.run.stages import Say, silent
from lenshpc.run.trained import (
    TRAINING_ROWS,
    EnsembleSpec,
    TrainedEnsemble,
    read_export,
    weights_file,
    write_arrays,
    write_spec,
)
from lenshpc.store.read import hexadecimal

if TYPE_CHECKING:
    from torch import Tensor

    from lenshpc.engine.ensemble import Ensemble
    from lenshpc.inference.programs import Kind
    from lenshpc.store import Store

PROGRAMS = "programs"
NUM_EXAMPLES = 5
TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written: where, how many bytes, and by how much programs differ at most."""

    place: Path
    spec: EnsembleSpec
    num_bytes: int
    programs: Mapping[Kind, float]


def export_run(
    run: RunPaths,
    place: Path,
    *,
    models: Sequence[str] | None = None,
    licence: str = UNKNOWN,
    kinds: Sequence[Kind] = (),
    say: Say = silent,
) -> Export:
    """Write the ensemble of a run that is done to a new folder or .zip, and return what it is.

    It has its place only once it was read back, answers as the run does, and so do its programs
    (`kinds`: `torch`, `onnx`). `models` chooses some; by default all but variants. IncompleteError
    where a member is not done.
    """
    require_free(place)
    if kinds:
        from lenshpc.inference.programs import require_packages

        require_packages(kinds)
    trained = of_run(run, models, say=say)
    place.parent.mkdir(parents=True, exist_ok=True)
    with _draft(place) as folder:
        differences = _write(folder, run, trained, licence, kinds, say)
        num_bytes = sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
    return Export(place=place, spec=trained.spec, num_bytes=num_bytes, programs=differences)


@contextmanager
def _draft(place: Path) -> Iterator[Path]:
    """Yield a folder that becomes the export, as it is or packed, when the block succeeds."""
    if place.suffix != SUFFIX:
        with replacing_folder(place) as folder:
            yield folder
            flush_tree(folder)
        return
    folder = unique_name(place, "tmp")
    folder.mkdir()
    try:
        yield folder
        with replacing(place) as archive:
            pack(folder, archive)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(
    folder: Path,
    run: RunPaths,
    trained: TrainedEnsemble,
    licence: str,
    kinds: Sequence[Kind],
    say: Say,
) -> dict[Kind, float]:
    """Write all files of an export and check it; return by how much programs differ."""
    import torch

    from lenshpc.engine.ensemble import Ensemble

    plan = load_plan(run)
    splits, store = load_splits(run, plan), open_planned_store(plan)
    say("copying weights")
    _copy_weights(folder, trained)
    _copy_code(folder, trained)
    write_arrays(folder, trained.arrays)
    _write_training_rows(folder / TRAINING_ROWS, run)
    original = Ensemble(trained)
    examples = torch.from_numpy(_read_examples(store))
    differences: dict[Kind, float] = {}
    if kinds:
        differences = _write_programs(folder / PROGRAMS, original, examples, kinds, say)
    _seal(folder, trained.spec)
    say("comparing the export with the run")
    _compare(folder, original, examples)
    figures = Figures.of(run, plan, splits)
    card = write_card(trained.spec, original.readout.settings(), figures, licence, differences)
    write_text(folder / CARD, card)
    return differences


def _copy_weights(folder: Path, trained: TrainedEnsemble) -> None:
    (folder / "members").mkdir()
    for member in trained.spec.members:
        # The bytes that were checked against the member's mark, and not the file once more.
        (folder / weights_file(member)).write_bytes(trained.read_weights(member))


def _copy_code(folder: Path, trained: TrainedEnsemble) -> None:
    """Copy the files of a user that networks come from, and no other code of the run."""
    names = {one.network for one in trained.spec.members if is_kept_file(one.network)}
    for name in names:
        place = path_in_run(folder / "code", name)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path_in_run(trained.code or Path(), name), place)


def _write_training_rows(path: Path, run: RunPaths) -> None:
    """Write the SHA-256 of the source files that weights or a choice have seen, in no order.

    Those too that weights had seen which the run began with.
    """
    seen = np.concatenate([one.read_sha256() for one in open_origin(run.root).find_seen()])
    # In the order of their bytes, which is that of their texts.
    hashes = np.unique(seen.view("V32")).view(np.uint8).reshape(-1, 32)
    pd.DataFrame({"sha256": hexadecimal(hashes).to_pandas()}).to_parquet(path, index=False)


def _read_examples(store: Store) -> np.ndarray[Any, Any]:
    """Return a few images (n, C, H, W) from all over the store, as they are stored."""
    rows = np.unique(np.linspace(0, store.num_rows - 1, NUM_EXAMPLES).astype(np.int64))
    pixels = np.array(store.read_raw(rows))
    if store.masks is not None:  # as they came: what fills them is a part of the ensemble
        pixels[store.read_masks(rows) == 1] = np.nan
    return pixels


def _write_programs(
    folder: Path,
    ensemble: Ensemble,
    examples: Tensor,
    kinds: Sequence[Kind],
    say: Say,
) -> dict[Kind, float]:
    from lenshpc.inference.programs import export_programs

    folder.mkdir()
    say(f"writing the program for {' and '.join(kinds)}")
    return export_programs(ensemble, examples, folder, kinds, _describe(ensemble.spec))


def _describe(spec: EnsembleSpec) -> dict[str, str]:
    """Return what a program says of itself."""
    shape = " × ".join(map(str, spec.image_shape))
    return {
        "lenshpc": __version__,
        "run": spec.name,
        "ensemble": spec.digest,
        "task": spec.recipe.task,
        "classes": json.dumps(list(spec.classes)),
        "channels": json.dumps(list(spec.channels)),
        "pixels": f"{spec.dtype}, images × {shape}, in the units of the training's",
        "bad_pixels": "refused" if spec.fill is None else f"NaN, filled with: {spec.fill}",
    }


def _seal(folder: Path, spec: EnsembleSpec) -> None:
    """Write `model.json`, which has the SHA-256 of all other files."""
    weights = {weights_file(member) for member in spec.members}
    names = {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()}
    files = {name: sha256(folder / name) for name in sorted(names - weights)}
    write_spec(folder, spec.model_copy(update={"files": files}))


def _compare(folder: Path, original: Ensemble, examples: Tensor) -> None:
    """Refuse an export whose answers differ from its run's."""
    import torch

    from lenshpc.engine.ensemble import Ensemble

    copy = Ensemble(read_export(folder), trust_code=True)  # it was our own a moment ago
    with torch.inference_mode():
        difference = float((copy(examples) - original(examples)).abs().max())
    if not difference <= TOLERANCE:  # neither is NaN
        raise DataError(
            f"the predictions of the export differ from those of run {original.spec.name} by up "
            f"to {difference:.1g}, so it was removed; check whether a network draws random "
            "numbers when it predicts"
        )
