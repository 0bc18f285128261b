"""A node fits a constraint as sbatch's manual says; the oracle is Python's own logic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tries import tried

from lenshpc.launch.constraints import fits

NAMES = ("a100", "h100", "ib", "rack1", "rack2", "80gb-x_1.2")


@pytest.mark.parametrize(
    ("constraint", "is_fit"),
    [
        (None, True),
        ("a100", True),
        ("h100", False),
        ("a100&ib", True),
        ("a100,opa", False),
        ("h100|a100&ib*2", True),
        ("h100|opa", False),
        ("[rack1|rack2]", True),
        ("[rack3|rack2]", False),
        ("(a100|h100)&ib", True),
        ("(a100|h100)&opa", False),
        ("a100*2", True),
        ("ib&[rack1|rack2]", True),
        ("opa&[rack1|rack2]", False),
        ("[rack1*2&rack2*4]", True),
        ("[rack3*2&rack2*4]", False),
        ("[(h100&ib)*2&(a100&ib)*4]", True),
        ("[(h100&ib)*2&(a100&opa)*4]", False),
        ("((a100))", True),
        ("(a100|h100)*2&ib", True),
    ],
)
def test_node_fits_a_constraint_by_its_features(constraint, is_fit):
    assert fits({"AvailableFeatures": "a100,ib,rack1"}, constraint) is is_fit


def join(operator):
    """Return a strategy's step from terms to (text, Python expression) of their combination."""
    python = {"&": " and ", "|": " or "}[operator]

    def combine(terms):
        texts, values = zip(*terms, strict=True)
        return operator.join(texts), f"({python.join(values)})"

    return combine


def wrap(term):
    return f"({term[0]})", term[1]


FEATURE = st.sampled_from(NAMES).map(lambda name: (name, f"({name!r} in own)"))
COUNTED = st.tuples(FEATURE, st.integers(1, 99)).map(
    lambda one: (f"{one[0][0]}*{one[1]}", one[0][1])
)
EXPRESSION = st.recursive(
    FEATURE | COUNTED,
    lambda inner: (
        st.lists(inner.map(wrap) | FEATURE, min_size=1, max_size=3).map(join("&"))
        | st.lists(inner.map(wrap) | FEATURE, min_size=1, max_size=3).map(join("|"))
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("tries", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_any_constraint_means_what_python_makes_of_it(tries):
    @tried(tries)
    @given(EXPRESSION, st.sets(st.sampled_from(NAMES)))
    def check(expression, own):
        text, python = expression
        node = {"AvailableFeatures": ",".join(sorted(own))}
        expected = eval(python, {"own": own})  # noqa: S307 (made above)
        assert fits(node, text) is expected
        assert fits(node, f"[{text}]" if "*" not in text else text) is expected

    check()


@pytest.mark.parametrize("tries", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_text_is_too_odd_for_a_constraint(tries):
    @tried(tries)
    @given(st.text("ab01&|,*()[] é", max_size=200))
    def check(text):
        assert fits({"AvailableFeatures": "a,b"}, text) in {True, False}

    check()
