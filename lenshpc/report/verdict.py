"""What the figures of a run amount to: plain values in, a sentence and a colour out.

The rules stand in docs/report.md. Red: something speaks against the headline; amber: it is not
shown; green: it is shown. A rule that a task has nothing for gives no colour.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from math import isfinite, sqrt
from typing import Any, Literal

from lenshpc.report.format import format_count, format_number

Colour = Literal["green", "amber", "red"]

SEVERITY: tuple[Colour, ...] = ("green", "amber", "red")
NORMAL_95 = 1.959964  # half width of a normal 95 % interval, in standard deviations
NUM_STD = 2.0  # standard deviations that two figures of different rows may lie apart
FOLDS_P = 0.01  # below, folds differ by more than the scatter of their rows
LEAST_ROWS = 20  # test rows of the rarer class


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval, or a difference of two, which is better above 0."""

    value: float
    low: float
    high: float
    name: str = ""

    @classmethod
    def of(cls, value: float, std: float, name: str = "") -> "Estimate":
        """Return a figure whose standard deviation is known."""
        reach = NORMAL_95 * std
        return cls(value=value, low=value - reach, high=value + reach, name=name)

    @property
    def std(self) -> float:
        """Return the standard deviation that a normal interval of this width has."""
        return (self.high - self.low) / (2 * NORMAL_95)

    @property
    def is_known(self) -> bool:
        """Say whether the figure and both ends are numbers."""
        return all(map(isfinite, (self.value, self.low, self.high)))


@dataclass(frozen=True, kw_only=True)
class Check:
    """What one rule says: its name, a colour or none, and a sentence."""

    name: str
    colour: Colour | None
    text: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a task says of its headline; what it has nothing for is None or empty.

    `best` is 1 where a larger `measure` is better, else -1. Of the measure a difference up to
    `small` does not matter, one above `large` does, and an interval above `wide` tells too little.
    `baselines` are paired differences from the headline, above 0 where it is better; None: the
    task has none; empty: this report lacks them, for the reason `unjudged`. `turn` is the change
    on images turned by 90°. `folds` are of the folds' own out-of-fold rows. `num_rows` counts the
    test rows of the rarer kind, named `rows`, of which `least` are asked for.
    """

    subject: str
    measure: str
    test: Estimate
    small: float
    large: float
    wide: float
    num_rows: int
    rows: str = "test images"
    least: int = LEAST_ROWS
    best: int = 1
    digits: int = 3
    chance: float | None = None
    baselines: tuple[Estimate, ...] | None = None
    unjudged: str = ""
    turn: Estimate | None = None
    oof: Estimate | None = None
    folds: tuple[Estimate, ...] = ()
    num_missing: int = 0
    further: tuple[Check, ...] = ()

    def format(self, value: float) -> str:
        """Return a figure in the digits of the measure."""
        return format_number(value, self.digits)

    def format_range(self, one: Estimate) -> str:
        """Return a figure with its interval."""
        return f"{self.format(one.value)} [{self.format(one.low)}, {self.format(one.high)}]"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The colour of the worst check, what must be read first, and all checks."""

    colour: Colour
    sentence: str
    checks: tuple[Check, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what report.json holds."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Verdict":
        """Return what report.json holds as a verdict again."""
        checks = tuple(Check(**one) for one in content["checks"])
        return cls(colour=content["colour"], sentence=content["sentence"], checks=checks)


def find_verdict(evidence: Evidence) -> Verdict:
    """Return what the evidence amounts to."""
    checks = (*(rule(evidence) for rule in RULES), *evidence.further, *_check_members(evidence))
    colours = [one.colour for one in checks if one.colour is not None]
    colour: Colour = max(colours, key=SEVERITY.index, default="amber")
    return Verdict(colour=colour, sentence=_lead(checks), checks=checks)


def format_verdict(verdict: Verdict | None) -> str:
    """Return the verdict in a line, as a command prints it."""
    if verdict is None:
        return "verdict: none. This task's report gives none."
    return f"verdict: {verdict.colour}. {verdict.sentence}"


def _lead(checks: tuple[Check, ...]) -> str:
    """Return what fails: a baseline, then too few rows, then the worst; or that all is well."""
    found = [one for one in checks if one.colour is not None]
    failing = [one for one in found if one.colour != "green"]
    if failing:
        # Whatever else fails is read in the light of these two.
        order = ("baseline", "rows")
        failing.sort(
            key=lambda one: (
                order.index(one.name) if one.name in order else len(order),
                -SEVERITY.index(one.colour or "green"),
            )
        )
        return " ".join(one.text for one in failing)
    if not found:
        return "There is nothing here to judge."
    lead, *others = found
    agreed = f" The other checks agree: {', '.join(one.name for one in others)}."
    return lead.text + agreed if others else lead.text


def check_baseline(one: Evidence) -> Check:
    """Judge whether the headline is better than each baseline, by paired intervals."""
    name = "baseline"
    if one.baselines is None:
        return Check(name=name, colour=None, text="This task has no baseline to beat.")
    if not one.baselines:
        return Check(
            name=name,
            colour="amber",
            text=f"Not shown to beat a baseline: there is none here ({one.unjudged}).",
        )
    # The nearest of all: beating the one that was best out-of-fold would leave out a better one.
    nearest = min(one.baselines, key=lambda gap: gap.low if gap.is_known else float("-inf"))
    told = f"{one.subject} has a test {one.measure} of {one.format(one.test.value)}"
    colour: Colour = "amber"
    if not nearest.is_known:
        text = f"Not shown to beat a baseline: {nearest.name} cannot be compared."
    elif nearest.low > 0:
        colour = "green"
        text = f"{told}, better than every baseline: it beats the closest one, {nearest.name}, by "
        text = _begin(f"{text}{one.format_range(nearest)}.")
    elif nearest.high < 0:
        colour = "red"
        text = f"A baseline is better: {told}; {nearest.name} is better by "
        text += f"{one.format_range(_turn_round(nearest))}."
    else:
        text = f"Not shown to beat a baseline: {told}; the difference from {nearest.name} is "
        text += f"{one.format_range(nearest)}, which includes 0."
    return Check(name=name, colour=colour, text=text)


def check_chance(one: Evidence) -> Check:
    """Judge whether the whole interval of the headline lies beyond chance."""
    name = "chance"
    if one.chance is None:
        return Check(name=name, colour=None, text="This task has no level of chance.")
    chance, told = one.format(one.chance), one.format_range(one.test)
    if not one.test.is_known:
        text = f"The {one.measure} is not defined on these rows."
        return Check(name=name, colour="amber", text=text)
    worst = one.test.low if one.best > 0 else one.test.high
    is_above = one.best * (worst - one.chance) > 0
    if is_above and one.oof is not None and one.oof.low <= one.chance <= one.oof.high:
        text = f"It is above chance ({chance}) on test rows alone: {told}, and out-of-fold "
        text += f"{one.format_range(one.oof)}."
        return Check(name=name, colour="amber", text=text)
    if is_above:
        text = f"It is above chance ({chance}): {told}."
        return Check(name=name, colour="green", text=text)
    text = f"It cannot be told apart from chance ({chance}): the test {one.measure} is {told}."
    return Check(name=name, colour="red", text=text)


def check_turn(one: Evidence) -> Check:
    """Judge whether a quarter turn of the images changes the headline."""
    name = "turn"
    if one.turn is None or not one.turn.is_known:
        text = "Turned images were not predicted, so this is not checked."
        return Check(name=name, colour=None, text=text)
    told = one.format_range(one.turn)
    within = one.turn.low <= 0 <= one.turn.high
    if within or abs(one.turn.value) <= one.small:
        text = f"Turning the images by 90° makes no difference that matters ({told})."
        return Check(name=name, colour="green", text=text)
    is_sure = abs(one.turn.value) > one.large and one.num_rows >= one.least
    text = f"Turning the images by 90° changes the {one.measure} by {told}: scores depend on "
    return Check(name=name, colour="red" if is_sure else "amber", text=f"{text}orientation.")


def check_oof(one: Evidence) -> Check:
    """Judge whether test and out-of-fold figures agree, within the scatter of both."""
    name = "out-of-fold"
    if one.oof is None or not (one.oof.is_known and one.test.is_known):
        text = "There is no out-of-fold score to compare with the test score."
        return Check(name=name, colour=None, text=text)
    ahead = one.best * (one.test.value - one.oof.value)
    scatter = sqrt(one.test.std**2 + one.oof.std**2)
    told = f"{one.format(one.oof.value)} out-of-fold, {one.format(one.test.value)} on test rows"
    # Test rows are judged by the mean over folds, which is better by itself: little says nothing.
    if abs(ahead) <= max(one.small, NUM_STD * scatter) or 0 < ahead <= one.large:
        return Check(name=name, colour="green", text=f"Out-of-fold and test agree ({told}).")
    worse = ahead < 0
    colour: Colour = "red" if worse and -ahead > one.large else "amber"
    text = f"The test score is {'worse' if worse else 'far better'} than the out-of-fold one "
    text += f"({told}): check whether test rows are of another kind"
    # A test row gets the mean over folds, an out-of-fold row the answer of one.
    text += "." if worse else ", or whether each fold trained on too few rows."
    return Check(name=name, colour=colour, text=text)


def check_rows(one: Evidence) -> Check:
    """Judge whether there are rows enough to tell: by their number, and the interval's width."""
    name = "rows"
    width = one.test.high - one.test.low
    told = f"{one.num_rows:,} {one.rows}"
    if one.num_rows < one.least:
        text = f"Too few rows to tell: {told}, and at least {one.least:,} are needed."
        return Check(name=name, colour="amber", text=text)
    if isfinite(width) and width > one.wide:
        text = f"Too few rows to tell: {told} give an interval {one.format(width)} wide, above "
        return Check(name=name, colour="amber", text=f"{text}{one.format(one.wide)}.")
    if width == 0:
        text = f"All resamples of the {told} give the same score, so the interval says too little."
        return Check(name=name, colour="amber", text=text)
    told_width = f" give an interval {one.format(width)} wide" if isfinite(width) else ""
    return Check(name=name, colour="green", text=f"There are enough rows: {told}{told_width}.")


def check_folds(one: Evidence) -> Check:
    """Judge whether folds differ by no more than the scatter of their rows (Cochran's Q)."""
    name = "folds"
    known = [fold for fold in one.folds if fold.is_known]
    if len(known) < 2:
        text = "There are no folds to compare with each other."
        return Check(name=name, colour=None, text=text)
    values = [fold.value for fold in known]
    told = f"{one.format(min(values))} to {one.format(max(values))}"
    if max(values) - min(values) <= one.small:
        return Check(name=name, colour="green", text=f"The {len(known)} folds are alike ({told}).")
    if _test_equal(known) >= FOLDS_P:
        text = f"The {len(known)} folds differ by no more than the scatter of their rows ({told})."
        return Check(name=name, colour="green", text=text)
    text = f"The folds differ by more than the scatter of their rows: {told}."
    return Check(name=name, colour="amber", text=text)


def _test_equal(folds: list[Estimate]) -> float:
    """Return the probability that folds of one value scatter so much (Cochran 1954)."""
    from scipy.stats import chi2

    if min(fold.std for fold in folds) <= 0:
        return 0.0
    weights = [1 / fold.std**2 for fold in folds]
    pairs = list(zip(weights, (fold.value for fold in folds), strict=True))
    mean = sum(weight * value for weight, value in pairs) / sum(weights)
    spread = sum(weight * (value - mean) ** 2 for weight, value in pairs)
    return float(chi2.sf(spread, len(folds) - 1))


def _check_members(one: Evidence) -> Iterator[Check]:
    if one.num_missing:
        missing = format_count(one.num_missing, "member")
        text = f"The run is incomplete: {missing} missing."
        yield Check(name="members", colour="amber", text=text)


def _turn_round(one: Estimate) -> Estimate:
    return Estimate(value=-one.value, low=-one.high, high=-one.low, name=one.name)


def _begin(text: str) -> str:
    """Return a sentence whose first word is an article in upper case; a network's name stays."""
    return f"T{text[1:]}" if text.startswith("the ") else text


RULES: tuple[Callable[[Evidence], Check], ...] = (
    check_baseline,
    check_chance,
    check_turn,
    check_oof,
    check_rows,
    check_folds,
)
