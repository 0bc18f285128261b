"""Variants of a network side by side: what each pair of trainings reached, and the difference."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from lenshpc.report.content import Block, Column, Prose, Row, Section, Table
from lenshpc.report.format import format_interval, format_metric, format_number, format_p_value
from lenshpc.statistics.results import LEVEL
from lenshpc.tasks.supervised.variants import (
    METRICS,
    Metric,
    PairedDifference,
    Trained,
    compare_variants,
)

MAX_TRAININGS = 30  # that a table names


def variants_content(trained: Sequence[Trained]) -> dict[str, Any]:
    """Return what report.json holds of the variants; nothing of a run that has none."""
    if not trained:
        return {}
    members = [
        {"member": one.member.index, "auc": one.auc, "accuracy": one.accuracy} for one in trained
    ]
    differences = [asdict(one) for one in compare_variants(trained)]
    return {"variants": {"members": members, "differences": differences}}


def variants_section(trained: Sequence[Trained]) -> Iterator[Section]:
    """Yield the section of a run that has variants, of which two were trained more than once."""
    differences = tuple(one for one in compare_variants(trained) if one.num_pairs > 1)
    if not differences:
        return
    networks = dict.fromkeys(one.member.network for one in trained)
    blocks: list[Block] = [_differences(differences)]
    blocks += [_trainings(trained, network, metric) for network in networks for metric in METRICS]
    text = (
        "Trainings with the same fold and seed are compared in pairs on the test rows; the "
        f"{LEVEL:.0%} interval and p are those of a paired t test. They include the scatter "
        "between trainings, but not the scatter from the choice of rows, which the comparisons "
        "above include. Folds share most of their training rows, which makes both too small if "
        "there is more than one fold."
    )
    yield Section(title="Variants", blocks=(*blocks, Prose(text=text)))


def _differences(differences: Sequence[PairedDifference]) -> Table:
    heads = ("Figure", "Pairs", "Difference [interval]", "p (paired t)")
    return Table(
        title="Differences",
        columns=(
            Column(title="Variants", words=True),
            *(Column(title=head) for head in heads),
        ),
        rows=tuple(
            Row(
                cells=(
                    f"{one.first} − {one.second}",
                    f"test {format_metric(one.metric)}",
                    str(one.num_pairs),
                    format_interval(one.difference, one.low, one.high),
                    format_p_value(one.p_value),
                )
            )
            for one in differences
        ),
    )


def _trainings(trained: Sequence[Trained], network: str, metric: Metric) -> Table:
    """Return a network's figures: a line for each fold and seed, a column for each variant."""
    mine = [one for one in trained if one.member.network == network]
    models = list(dict.fromkeys(one.member.model for one in mine))
    found = {(one.member.fold, one.member.seed, one.member.model): one for one in mine}
    runs = sorted({(one.member.fold, one.member.seed) for one in mine})

    def format_training(fold: int, seed: int, model: str) -> str:
        return format_number(getattr(found.get((fold, seed, model)), metric, None))

    more = f" (the first {MAX_TRAININGS})" if len(runs) > MAX_TRAININGS else ""
    return Table(
        title=f"Test {format_metric(metric)} of each training of {network}{more}",
        columns=tuple(Column(title=title) for title in ("Fold", "Seed", *models)),
        rows=tuple(
            Row(
                cells=(
                    str(fold),
                    str(seed),
                    *(format_training(fold, seed, model) for model in models),
                )
            )
            for fold, seed in runs[:MAX_TRAININGS]
        ),
    )
