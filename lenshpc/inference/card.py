"""The model card of an export: what it is, how good, its limits, where it came from, how to use it.

Markdown with the front matter of a Hugging Face hub. It says nothing of the machine or the user
that trained.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from lenshpc import __version__
from lenshpc.errors import DataError
from lenshpc.files import read_json, read_whole
from lenshpc.registry import is_kept_file
from lenshpc.report.content import Table
from lenshpc.report.format import format_count
from lenshpc.report.markdown import escape, render_table
from lenshpc.report.summary import count_rows
from lenshpc.run.records import read_provenance
from lenshpc.run.trained import EnsembleSpec

if TYPE_CHECKING:
    import pandas as pd

    from lenshpc.run.paths import RunPaths
    from lenshpc.run.plan import Plan

CARD = "README.md"
UNKNOWN = "unknown"
MAX_TABLES = 3
METRICS = {"auc": "roc_auc", "pr_auc": "average_precision"}  # as the hub calls them


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a run knows of itself: rows by class, its report where it has one, its latest versions.

    `report` is `report.json`, `tables` the headline and first tables of `report.md`.
    """

    run: RunPaths
    models: tuple[str, ...]
    counts: Sequence[Mapping[str, Any]]
    submission: Mapping[str, Any]
    report: Mapping[str, Any] = field(default_factory=dict)
    tables: Sequence[str] = ()

    @classmethod
    def of(cls, run: RunPaths, plan: Plan, splits: pd.DataFrame) -> Figures:
        """Return what is known of a run; a report of another Plan is none."""
        submissions = [one for one in read_provenance(run).values() if isinstance(one, Mapping)]
        report = _read_report(run)
        known = report.get("fingerprint") == plan.fingerprint()
        return cls(
            run=run,
            models=plan.recipe.models,
            counts=count_rows(splits, plan.classes),
            submission=submissions[-1] if submissions else {},
            report=report if known else {},
            tables=[*_read_tables(run)] if known else [],
        )


def _read_report(run: RunPaths) -> Mapping[str, Any]:
    try:
        report = read_json(run.report / "report.json")
    except (FileNotFoundError, DataError):
        return {}
    return report if isinstance(report, Mapping) else {}


def _read_tables(run: RunPaths) -> Iterator[str]:
    """Yield the headline of a report's page, and its first tables with their titles."""
    page = read_whole(run.report / "report.md").decode(errors="replace")
    blocks = iter(page.split("\n\n"))
    yield from (one for one in takewhile(lambda one: one[:3] != "## ", blocks) if one[:2] == "**")
    # To the first picture: what follows shows the same in other ways.
    first = takewhile(lambda one: not re.match(r"!\[|## ", one), blocks)
    yield from [one.strip() for one in first if re.match(r"### |\|", one)][: 2 * MAX_TABLES]


def write_card(
    spec: EnsembleSpec,
    settings: Mapping[str, Any],
    figures: Figures,
    licence: str,
    programs: Mapping[Any, float],
) -> str:
    """Return the card; `settings` are those by which the ensemble decides."""
    parts = (
        _front_matter(spec, figures, licence),
        f"# {escape(spec.name)}",
        _introduce(spec, licence),
        "## How to use it",
        *_explain_use(spec),
        *_explain_programs(spec, programs),
        "## How good it is",
        *_tell_figures(spec, figures),
        "## What it was trained on",
        *_tell_data(spec, figures),
        "## What it is for, and its limits",
        _list([*_tell_limits(spec, settings, figures)]),
        "## Where it came from",
        *_tell_origin(spec, figures),
        "## How to cite it",
        _fence("bibtex", _cite()),
    )
    return "\n\n".join(parts) + "\n"


def _front_matter(spec: EnsembleSpec, figures: Figures, licence: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    measured = {METRICS.get(name, name): value for name, value in _headline(figures).items()}
    task = spec.recipe.method.pipeline_tag or spec.recipe.task
    results = [
        EvalResult(
            task_type=task,
            dataset_type=spec.dataset,
            dataset_name=f"{spec.dataset}, test rows",
            metric_type=name,
            metric_value=value,
        )
        for name, value in measured.items()
    ]
    data = ModelCardData(
        license=licence,
        library_name="lenshpc",
        pipeline_tag=spec.recipe.method.pipeline_tag,
        tags=["lenshpc", "astronomy", "gravitational-lensing", spec.recipe.task],
        metrics=[*measured] or None,
        model_name=spec.name if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml().strip()}\n---"


def _headline(figures: Figures) -> dict[str, float]:
    """Return the numbers of a report's headline but the ends of their intervals."""
    found = figures.report.get("headline") or {}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, float) and not name.endswith(("_low", "_high"))
    }


def _introduce(spec: EnsembleSpec, licence: str) -> str:
    models = ", ".join(escape(one) for one in spec.recipe.models)
    classes = ", ".join(map(escape, spec.classes))
    told = (
        "Its licence is not known: ask who trained it before you use or share it."
        if licence == UNKNOWN
        else f"Its licence is {escape(licence)}."
    )
    return (
        f"An ensemble of {format_count(len(spec.members), 'network')} ({models}) for the task "
        f"{spec.recipe.task}, trained with lenshpc {spec.code_version} on images of {classes} "
        f"from the data set {escape(spec.dataset)}.\n{told}"
    )


def _explain_use(spec: EnsembleSpec) -> Iterator[str]:
    own = any(is_kept_file(one.network) for one in spec.members)
    trust = ", trust_code=True" if own else ""
    yield "In a shell, for the candidates of a folder of images (DIR is this folder, or the .zip):"
    yield _fence("sh", f"lenshpc predict DIR IMAGES{' --trust-code' if own else ''}")
    shape = ", ".join(map(str, spec.image_shape))
    yield "In Python:"
    yield _fence(
        "python",
        "import numpy as np\n"
        "import lenshpc\n\n"
        f'ensemble = lenshpc.load_ensemble("DIR"{trust})\n'
        f'images = np.zeros((2, {shape}), "{spec.dtype}")  # yours\n'
        "answers = ensemble.predict(images)",
    )
    if own:
        yield (
            "Networks of this export are code in `code/files/`: read it before you have it run, "
            "which only your word does."
        )


def _explain_programs(spec: EnsembleSpec, programs: Mapping[Any, float]) -> Iterator[str]:
    from lenshpc.inference.programs import FILES, INPUT, OPSET, OUTPUT

    shape = ", ".join(map(str, spec.image_shape))
    for kind, difference in programs.items():
        path = f"programs/{FILES[kind]}"
        what = f"the operators of ONNX opset {OPSET}" if kind == "onnx" else "`torch.export.load`"
        yield (
            f"`{path}` is the whole ensemble as one program for {what}, preprocessing included: "
            f"input `{INPUT}` ({spec.dtype}, batch × {shape.replace(', ', ' × ')}, any batch), "
            f"output `{OUTPUT}`.\nIts answers differ from the ensemble's by at most "
            f"{difference:.1g} on images of the data set."
        )
        if kind == "onnx":
            yield _fence(
                "python",
                "import numpy as np\n"
                "import onnxruntime\n\n"
                f'session = onnxruntime.InferenceSession("DIR/{path}")\n'
                f'images = np.zeros((2, {shape}), "{spec.dtype}")  # yours\n'
                f'(answers,) = session.run(["{OUTPUT}"], {{"{INPUT}": images}})',
            )


def _tell_figures(spec: EnsembleSpec, figures: Figures) -> Iterator[str]:
    if not figures.tables:
        yield (
            "This card has no metrics, as the run had no report when it was exported.\n"
            "`lenshpc aggregate` writes one; an export after that has its figures."
        )
        return
    if spec.recipe.models != figures.models:
        yield (
            "These figures are those of the whole run, which has more models than this export: "
            f"{', '.join(map(escape, figures.models))}."
        )
    yield "Numbers in brackets are 95% intervals; baselines, where there are any, stand beside."
    yield from figures.tables
    # A note may name the store that was not there, by its path on the machine that trained.
    notes = [one for one in figures.report.get("notes") or () if not re.search(r"(^|\s)/\w", one)]
    if notes:
        yield _list([escape(one) for one in notes])


def _tell_data(spec: EnsembleSpec, figures: Figures) -> Iterator[str]:
    columns = ("class", "training", "oof", "excluded", "test")
    titles = ("Class", "Training only", "Training and validation", "Not used", "Test")
    lines = [[str(one.get(key, "")) for key in columns] for one in figures.counts]
    yield f"Images of {escape(spec.dataset)} by class, and what they were used for:"
    yield render_table(Table.of(titles, lines))
    shape = " × ".join(map(str, spec.image_shape))
    data = spec.recipe.data
    done = [
        f"cut to the central {data.crop} pixels" if data.crop else "",
        f"resized to {data.image_size} pixels" if data.image_size else "",
        f"stretched by {data.stretch}" if data.stretch != "none" else "",
        f"normalised ({data.normalise})",
    ]
    yield _list(
        [
            f"An image has {shape} pixels of {spec.dtype}, channels "
            f"{', '.join(map(escape, spec.channels))}.",
            f"It is {', '.join(filter(None, done))}, by the ensemble itself.",
            *_tell_pixels(spec),
        ]
    )


def _tell_pixels(spec: EnsembleSpec) -> Iterator[str]:
    """Yield what the pixels of a channel are like, in the units of the files."""
    means, stds = spec.pixels.centre
    for name, mean, std in zip(spec.channels, means, stds, strict=True):
        yield (
            f"Channel {escape(name)}: half of the training images have a mean below "
            f"{mean / spec.scale:.4g} and a standard deviation below {std / spec.scale:.4g}."
        )


def _tell_limits(
    spec: EnsembleSpec, settings: Mapping[str, Any], figures: Figures
) -> Iterator[str]:
    yield (
        f"It is for images like those of {escape(spec.dataset)}, in the same units: another "
        "instrument, depth, seeing or pixel scale makes its answers unreliable, without a sign of "
        "it in the probabilities."
    )
    yield "`lenshpc predict` marks images that are unlike the training's; look at these first."
    yield from _tell_imbalance(figures)
    told = ", ".join(
        f"{name.replace('_', ' ')} {_number(value)}"
        for name, value in settings.items()
        if value is not None
    )
    if told:
        yield f"It decides by what was fitted on out-of-fold rows: {escape(told)}."
    yield (
        "A threshold and probabilities belong to the shares of classes that it was trained on; "
        "where lenses are rarer, say so with `lenshpc predict --prior`."
    )
    yield (
        "`training_rows.parquet` has the SHA-256 of each file that it has learnt from: figures on "
        "those say nothing of how good it is."
    )


def _tell_imbalance(figures: Figures) -> Iterator[str]:
    learnt = {str(one["class"]): one["training"] + one["oof"] for one in figures.counts}
    total = sum(learnt.values())
    if total and len(learnt) > 1:
        rarest = min(learnt, key=lambda name: learnt[name])
        yield (
            f"Of the {total} labelled images that it learnt from, {learnt[rarest]} "
            f"({100 * learnt[rarest] / total:.2g}%) are of its rarest class, {escape(rarest)}."
        )


def _tell_origin(spec: EnsembleSpec, figures: Figures) -> Iterator[str]:
    told, git = figures.submission, figures.submission.get("git")
    packages = told.get("packages") or {}
    named = [f"{name} {version}" for name, version in packages.items()]
    commit = git.get("commit") if isinstance(git, Mapping) else None
    pairs = {
        "Run": spec.name,
        "Fingerprint": spec.fingerprint,
        "lenshpc": f"{spec.code_version}, exported by {__version__}",
        "Commit": str(commit or ""),
        "Python": str(told.get("python") or ""),
        "Packages": ", ".join(named),
        "Plugins": ", ".join(f"{name} {version}" for name, version in spec.plugins.items()),
    }
    yield _list([f"{key}: {escape(value)}" for key, value in pairs.items() if value])
    lines = [
        [str(one.index), one.model, str(one.fold), str(one.seed), one.sha256[:16]]
        for one in spec.members
    ]
    yield render_table(Table.of(("Member", "Model", "Fold", "Seed", "SHA-256 begins"), lines))


def _cite() -> str:
    return (
        "@software{lenshpc,\n"
        "  title = {lenshpc: batch jobs on GPU clusters for deep learning on gravitational "
        "lenses},\n"
        f"  version = {{{__version__}}},\n"
        "  license = {Apache-2.0}\n"
        "}"
    )


def _fence(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
