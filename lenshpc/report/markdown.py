"""Render the report as Markdown: the headline, the tables and the notes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lenshpc.report.words import (
    flatten,
    word_auc,
    word_covered,
    word_duration,
    word_missing,
    word_number,
    word_reading,
)

MARKUP = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_[]<>|#$~"})


def render_markdown(summary: Mapping[str, Any], figures: Iterable[str]) -> str:
    """Return the report as Markdown; figures are linked from the folder beside it."""
    head = summary["headline"]
    sections = [
        f"# {escape(summary['run'])}",
        f"{escape(word_reading(summary))} Written {summary['created']}.",
        *_partial(summary),
        f"**Test ROC AUC of {escape(head['name'])}: {escape(word_auc(head))}** "
        f"({summary['interval']['level']:.0%} interval), {word_covered(head)} test images.",
        "## Models",
        models_table(summary),
        "## Figures",
        "\n".join(f"![{name}](figures/{name}.svg)" for name in figures),
        "## Most confident mistakes",
        _mistakes(summary) if summary["mistakes"] else "None.",
        "## Members",
        _members(summary),
        "## Data",
        _counts(summary),
        "## How to read this",
        "\n".join(f"- {escape(note)}" for note in summary["notes"]),
        "## Where it came from",
        _origin(summary),
    ]
    return "\n\n".join(sections) + "\n"


def escape(text: object) -> str:
    """Return text that Markdown shows as it is."""
    return str(text).translate(MARKUP)


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table, padded so that it reads well as plain text too."""
    cells = [list(head), *([escape(cell) for cell in line] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells)


def models_table(summary: Mapping[str, Any]) -> str:
    """Return the table of models, ensemble and baseline."""
    head = ["model", "test AUC", "PR AUC", "F1", "accuracy", "threshold", "out-of-fold AUC"]
    return table(
        head,
        (
            [
                one["name"],
                word_auc(one["test"]),
                *(word_number(one["test"][key]) for key in ("pr_auc", "f1", "accuracy")),
                word_number(one["threshold"]),
                word_auc(one["oof"]),
            ]
            for one in summary["models"]
        ),
    )


def _partial(summary: Mapping[str, Any]) -> list[str]:
    if not summary["missing"]:
        return []
    names = "; ".join(map(word_missing, summary["missing"]))
    total = f"{len(summary['missing'])} of {summary['num_members']} members are missing"
    return [
        f"> **PARTIAL: {total}.** {escape(names)}. Rerun with: {escape(summary['resume_command'])}"
    ]


def _mistakes(summary: Mapping[str, Any]) -> str:
    keys = ("id", "class", "predicted")
    return table(
        ["image", "true class", "taken for", "P(true class)"],
        ([*(one[key] for key in keys), word_number(one["p_class"])] for one in summary["mistakes"]),
    )


def _members(summary: Mapping[str, Any]) -> str:
    keys = ("index", "model", "fold", "seed", "best_epoch", "epochs")
    return table(
        [*keys[:4], "best epoch", "epochs", "val. AUC", "time", "ran on"],
        (
            [
                *(one[key] for key in keys),
                word_number(one["val_auc"]),
                word_duration(one["seconds"]),
                f"{one['num_processes']} × {one['device']}, {one['strategy']}",
            ]
            for one in summary["members"]
        ),
    )


def _counts(summary: Mapping[str, Any]) -> str:
    keys = ("class", "training", "oof", "test")
    return table(
        ["class", "always training", "out-of-fold", "test"],
        ([one[key] for key in keys] for one in summary["counts"]),
    )


def _origin(summary: Mapping[str, Any]) -> str:
    keys = ("fingerprint", "store", "store_hash", "splits_hash", "code_version")
    facts = {key: summary[key] for key in keys}
    value = {**facts, "recipe": summary["recipe"], "provenance": summary["provenance"]}
    return "\n".join(f"- {escape(key)}: {escape(text)}" for key, text in flatten(value))
