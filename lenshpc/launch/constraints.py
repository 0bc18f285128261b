"""Read sbatch's `--constraint`: which features a node must have for a job to go there."""

import re
from collections import deque
from collections.abc import Set

from lenshpc.launch.facts import Record

TOKEN = re.compile(r"[()\[\]&|,]|\*[0-9]*|[^()\[\]&|,*]+")


def fits(node: Record, constraint: str | None) -> bool:
    """Return whether a node may be used under a constraint, such as `(a100|h100)&ib`.

    `[rack1|rack2]` wants all nodes of a job in one rack, whichever: a node fits that is in either.
    So does one for `[rack1*2&rack2*4]`, which wants so many of each. Other counts, as in `a100*2`,
    say nothing of a single node.
    """
    features = set(node.get("AvailableFeatures", "").split(","))
    tokens = deque(TOKEN.findall(constraint or ""))
    return constraint is None or _meets_any(tokens, features, in_brackets=False)


def _meets_any(tokens: deque[str], features: Set[str], *, in_brackets: bool) -> bool:
    """Read alternatives up to the bracket that closes them."""
    met = [_meets_all(tokens, features, in_brackets=in_brackets)]
    while tokens and tokens[0] == "|":
        tokens.popleft()
        met.append(_meets_all(tokens, features, in_brackets=in_brackets))
    return any(met)


def _meets_all(tokens: deque[str], features: Set[str], *, in_brackets: bool) -> bool:
    """Read terms that are joined by `&`, or by the comma of older versions."""
    met, are_counted = [_meets_term(tokens, features)], _drop_count(tokens)
    while tokens and tokens[0] in {"&", ","}:
        tokens.popleft()
        met.append(_meets_term(tokens, features))
        are_counted |= _drop_count(tokens)
    return any(met) if in_brackets and are_counted else all(met)


def _meets_term(tokens: deque[str], features: Set[str]) -> bool:
    word = tokens.popleft() if tokens else ""
    if word not in {"(", "["}:
        return word in features
    met = _meets_any(tokens, features, in_brackets=word == "[")
    if tokens:
        tokens.popleft()  # what closes it
    return met


def _drop_count(tokens: deque[str]) -> bool:
    """Take the count away that may follow a term; return whether there was one."""
    is_counted = bool(tokens) and tokens[0].startswith("*")
    if is_counted:
        tokens.popleft()
    return is_counted
