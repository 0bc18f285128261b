"""Variants of a network side by side: what each pair of trainings reached, and the difference."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from lenshpc.aggregate.ablation import PairedDifference, Trained, compare_variants, pairs_of
from lenshpc.aggregate.results import LEVEL
from lenshpc.report.content import Block, Column, Prose, Row, Section, Table
from lenshpc.report.words import word_count, word_interval, word_metric, word_number, word_p

MAX_PAIRS = 30  # of trainings that a table names


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
    """Yield the section of a run that has variants."""
    differences = tuple(compare_variants(trained))
    if not differences:
        return
    pairs = dict.fromkeys((one.first, one.second) for one in differences)
    blocks: list[Block] = [_differences(differences)]
    blocks += [_trainings(trained, first, second) for first, second in pairs]
    text = (
        f"Trainings of equal fold and seed are compared pair by pair on the test rows; {LEVEL:.0%} "
        "interval and p are those of a paired t test. They hold the scatter of the training, not "
        "that of the rows, on which the comparisons above rest. Folds share most of their training "
        "rows, which makes both too narrow where there is more than one."
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
                    f"test {word_metric(one.metric)}",
                    str(one.num_pairs),
                    word_interval(one.difference, one.low, one.high),
                    word_p(one.p_value),
                )
            )
            for one in differences
        ),
    )


def _trainings(trained: Sequence[Trained], first: str, second: str) -> Table:
    pairs = pairs_of(trained, first, second)
    titles = [f"{metric}, {model}" for metric in ("AUC", "accuracy") for model in (first, second)]
    more = f" (the first {MAX_PAIRS})" if len(pairs) > MAX_PAIRS else ""
    return Table(
        title=f"{first} and {second}: {word_count(len(pairs), 'pair')} of trainings{more}",
        columns=tuple(Column(title=title) for title in ("Fold", "Seed", *titles)),
        rows=tuple(
            Row(
                cells=(
                    *map(str, (one.member.fold, one.member.seed)),
                    *map(word_number, (one.auc, other.auc, one.accuracy, other.accuracy)),
                )
            )
            for one, other in pairs[:MAX_PAIRS]
        ),
    )
