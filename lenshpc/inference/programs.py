"""An ensemble as one program, from pixels to answers: torch.export, and ONNX.

Each is loaded again and compared with the ensemble before it counts: a program that answers
otherwise is refused.
"""

import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lenshpc.errors import ConfigError, DataError, one_line
from lenshpc.run.extras import importing, require

Kind = Literal["torch", "onnx"]
Answers = npt.NDArray[np.floating]
Program = Callable[[npt.NDArray[Any]], Answers]
Made = TypeVar("Made")

FILES: Mapping[Kind, str] = MappingProxyType({"torch": "ensemble.pt2", "onnx": "ensemble.onnx"})
INPUT, OUTPUT, BATCH = "pixels", "answer", "batch"
OPSET = 20
TOLERANCE = 1e-4  # of answers, and of those beyond 1 relative to the largest
BATCH_SIZES = (1, 2, 5)
# torch says it of its own code, whatever is exported; every other warning is shown.
KNOWN_WARNING = "`isinstance(treespec, LeafSpec)` is deprecated"


def require_packages(kinds: Sequence[Kind]) -> None:
    """Refuse an ONNX program where the packages that write and run it are not installed."""
    if "onnx" in kinds:
        require("onnx", "--program onnx")


def export_programs(
    ensemble: nn.Module,
    examples: Tensor,
    folder: Path,
    kinds: Sequence[Kind],
    notes: Mapping[str, str] = MappingProxyType({}),
) -> dict[Kind, float]:
    """Write programs into a folder; return the largest difference of each from the ensemble.

    `examples` are images (N, C, H, W) in the dtype that the programs are to take; they take any
    number of images at once. `notes` go along as metadata. ConfigError where the networks cannot be
    written so, DataError where a program's answers differ by more than 1e-4.
    """
    batches = [examples[torch.arange(size) % len(examples)] for size in BATCH_SIZES]
    with torch.inference_mode():
        wanted = [ensemble(batch).numpy() for batch in batches]
    # Two images: a batch of one would be taken for a fixed size.
    traced = _attempt(kinds[0], partial(_trace, ensemble, batches[1]))
    differences: dict[Kind, float] = {}
    for kind in kinds:
        program = _attempt(kind, partial(WRITERS[kind], traced, folder / FILES[kind], notes))
        pairs = zip(batches, wanted, strict=True)
        differences[kind] = max(_measure(program(batch.numpy()), want) for batch, want in pairs)
        _check(kind, differences[kind])
    return differences


def _attempt(kind: Kind, make: Callable[[], Made]) -> Made:
    """Return what is made, or refuse a network for which there is no such program."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", re.escape(KNOWN_WARNING), FutureWarning)
            return make()
    except OSError:
        raise
    except Exception as error:  # torch has dozens of kinds, and a network raises its own
        root = _find_root(error)  # what is around it says in a page what step this was
        told = one_line(f"{type(root).__name__}: {root}")[:200]
        raise ConfigError(
            f"--program {kind}: the networks of this run cannot be exported as such a program "
            f"({told}); leave the option out"
        ) from error


def _find_root(error: BaseException) -> BaseException:
    return _find_root(error.__cause__) if error.__cause__ else error


def _trace(ensemble: nn.Module, batch: Tensor) -> ExportedProgram:
    sizes = ({0: torch.export.Dim(BATCH, min=1)},)
    with torch.no_grad():
        return torch.export.export(ensemble, (batch,), dynamic_shapes=sizes)


def _write_torch(traced: ExportedProgram, path: Path, notes: Mapping[str, str]) -> Program:
    torch.export.save(traced, path, extra_files={"notes.json": json.dumps(dict(notes))})
    # The file, not what it was written from: what is compared is what others load.
    module = torch.export.load(path).module()

    def run(pixels: npt.NDArray[Any]) -> Answers:
        with torch.inference_mode():
            answers: Answers = module(torch.from_numpy(pixels)).numpy()
        return answers

    return run


def _write_onnx(traced: ExportedProgram, path: Path, notes: Mapping[str, str]) -> Program:
    with importing("onnxruntime"):
        import onnxruntime

    program = torch.onnx.export(
        traced,
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: BATCH},),  # the name alone; the size is free by the tracing
    )
    if program is None:
        raise ValueError("torch wrote no program")
    program.model.metadata_props.update(notes)
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(pixels: npt.NDArray[Any]) -> Answers:
        (answers,) = session.run([OUTPUT], {INPUT: pixels})
        return np.asarray(answers)

    return run


WRITERS: Mapping[Kind, Callable[[ExportedProgram, Path, Mapping[str, str]], Program]] = (
    MappingProxyType({"torch": _write_torch, "onnx": _write_onnx})
)


def _measure(answers: Answers, wanted: Answers) -> float:
    """Return the largest difference, relative to answers that are larger than 1."""
    if answers.shape != wanted.shape:
        return float("inf")
    return float(np.abs(answers - wanted).max() / max(1.0, np.abs(wanted).max()))


def _check(kind: Kind, difference: float) -> None:
    if not difference <= TOLERANCE:  # neither is NaN
        raise DataError(
            f"--program {kind}: its predictions differ from the ensemble's by up to "
            f"{difference:.1g}, and at most {TOLERANCE:g} is accepted; leave the option out"
        )
