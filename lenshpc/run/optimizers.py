"""The optimisers that a recipe may name: timm's, by timm's names, known without importing torch.

Left out are those that need more than a gradient a step, another package, or random numbers of
their own. A test compares the lists with timm, and the first with what the optimisers do.
"""

from lenshpc.config import find_near


def _read_names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Each value of the weights steps by itself, so shares of them step as the whole does.
BY_VALUE = _read_names(
    """
    adabelief adadelta adagrad adam adamax adamc adamw adamwlegacy adan adanw adopt adoptc adoptw
    laprop lapropc lion lionc madgrad madgradw momentum nadam nadamc nadamlegacy nadamw nesterov
    nesterovw radabelief radam radamlegacy radamw rmsprop rmsproptf rmsproptfc rmsproptfw sgd sgdc
    sgdw
    """
)
# A step of a tensor depends on the tensor as a whole: on its norm, its rows, its agreement.
BY_TENSOR = _read_names(
    """
    adafactor adafactorbv adafactorbvc adamp adamuon cadafactor cadafactorbv cadafactorbvc cadamc
    cadamp cadamw cadan cadanw cadopt cadoptc cadoptw clamb clambw claprop clion clionc cmars
    cnadamc cnadamw crmsproptf csgdc csgdp csgdw lamb lambc lambcd lambcw lambw larc lars mars muon
    nadamuon nlarc nlars nmuon novograd novogradc novogradw sgdp
    """
)
WITH_MOMENTUM = _read_names(
    """
    adafactorbv adafactorbvc adamuon cadafactorbv cadafactorbvc crmsproptf csgdc csgdp csgdw larc
    lars madgrad madgradw momentum muon nadamuon nesterov nesterovw nlarc nlars nmuon rmsprop
    rmsproptf rmsproptfc rmsproptfw sgd sgdc sgdp sgdw
    """
)
UNFIT = {
    "lbfgs": "computes the loss several times a step",
    "adahessian": "needs second derivatives",
}


def find_fault(name: str) -> str:
    """Return why a recipe cannot name this optimiser; nothing of one that it can."""
    known = sorted(BY_VALUE | BY_TENSOR)
    if name in known:
        return ""
    if name in UNFIT:
        return f"{name} {UNFIT[name]}, and a step here has one gradient; use adamw"
    near = find_near(name, known, num=3)
    hint = f"did you mean {', '.join(near)}?" if near else "use adamw, sgd, lamb, lion or muon"
    return f"no optimiser {name!r} of timm's is known here; {hint}"
