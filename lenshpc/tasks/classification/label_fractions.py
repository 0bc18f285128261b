"""What pre-training is worth: fine-tuned, probed and from scratch, over parts of the labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from lenshpc.report.content import Block, Column, Figure, Prose, Row, Section, Table
from lenshpc.report.figures import add_legend, draw_figure, look_of
from lenshpc.report.format import ABSENT, format_interval, format_number
from lenshpc.run.plan import Plan
from lenshpc.run.recipe import Recipe, network_of
from lenshpc.statistics.results import ClassificationScores, Scores
from lenshpc.tasks.supervised.settings import Supervised

EXPLAINED = (
    "A linear probe trains only the last layer, on standardised features of the frozen encoder. "
    "A fraction of the labels is drawn from each class of a fold's training rows, a smaller "
    "fraction within a larger one; validation and test rows are complete. Pre-training used no "
    "labels, but it may have seen out-of-fold images: judge by the test rows."
)


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """How one line of the report was trained, and how it did."""

    model: str
    recipe: Recipe
    test: Scores

    @property
    def way(self) -> str:
        """Return whether the encoder was fine-tuned, probed, or began at random."""
        if Supervised.of(self.recipe.method).linear_probe:
            return "linear probe" if self.recipe.init_from else "probe of random weights"
        return "fine-tuned" if self.recipe.init_from else "from scratch"

    @property
    def series(self) -> str:
        """Return what lines share that differ in the part of the labels alone."""
        return f"{network_of(self.model)}, {self.way}"


def pretraining_section(plan: Plan, scores: ClassificationScores) -> Iterator[Section]:
    """Yield the section, where a line began from another run's weights or had fewer labels."""
    lines = [
        Beginning(model=one.name, recipe=plan.recipe.of(one.name), test=one.test)
        for one in scores.evaluations
        if one.kind == "model"
    ]
    fractions = {line.recipe.data.label_fraction for line in lines}
    if not any(line.recipe.init_from for line in lines) and fractions == {1.0}:
        return
    blocks: list[Block] = [_table(lines), Prose(text=EXPLAINED)]
    if len(fractions) > 1:
        blocks.append(_draw_fractions(lines))
    yield Section(title="Pre-training", blocks=tuple(blocks))


def _table(lines: Sequence[Beginning]) -> Table:
    words = ("Model", "Trained", "Starts from")
    figures = ("Labels", "Epochs", "Test AUC [interval]", "Accuracy", "Log-loss")
    rows = (
        Row(
            cells=(
                line.model,
                line.way,
                Path(line.recipe.init_from).name if line.recipe.init_from else ABSENT,
                f"{line.recipe.data.label_fraction:.3g}",
                f"{line.recipe.train.epochs}",
                format_interval(line.test.auc, line.test.auc_low, line.test.auc_high),
                format_number(line.test.accuracy),
                format_number(line.test.log_loss),
            )
        )
        for line in lines
    )
    return Table(
        columns=(
            *(Column(title=title, words=True) for title in words),
            *(Column(title=title) for title in figures),
        ),
        rows=tuple(rows),
    )


def _draw_fractions(lines: Sequence[Beginning]) -> Figure:
    """Return the test AUC by part of the labels, a line a network and way to begin."""
    series = dict.fromkeys(line.series for line in lines)

    def draw(axes: Axes) -> None:
        for at, name in enumerate(series):
            mine = sorted(
                (line for line in lines if line.series == name),
                key=lambda line: line.recipe.data.label_fraction,
            )
            fractions = [line.recipe.data.label_fraction for line in mine]
            aucs = [line.test.auc for line in mine]
            reach = [
                [line.test.auc - line.test.auc_low for line in mine],
                [line.test.auc_high - line.test.auc for line in mine],
            ]
            axes.errorbar(
                fractions, aucs, reach, marker="o", markersize=4, label=name, **look_of(at)
            )
        axes.set_xscale("log")
        axes.set_xticks(sorted({line.recipe.data.label_fraction for line in lines}))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda part, _: f"{part:.3g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="Fraction of the training labels", ylabel="Test AUC", title="Fewer labels")
        add_legend(axes)

    caption = (
        "Test AUC by the fraction of training labels used; bars: 95% interval over the test rows."
    )
    return draw_figure("label_fractions", caption, draw)
