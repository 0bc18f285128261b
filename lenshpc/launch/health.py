"""What NVIDIA's own tools say of a node's GPUs: DCGM's checks, NVML's counters, the driver.

nvidia-smi is NVML's own command. The functions that judge are pure, and take any text.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

PATIENCE_S = 60
CHECK, DIAGNOSIS = ("dcgmi", "health", "--check"), ("dcgmi", "diag", "--run", "1")
ECC, RETIRED = "ecc.errors.uncorrected.volatile.total", "retired_pages.pending"
SLOWED = "clocks_throttle_reasons.hw_slowdown"
FIELDS = ("index", "driver_version", ECC, RETIRED, SLOWED)
ROWS = ("gpu_uuid", "remapped_rows.pending", "remapped_rows.failure")
UNKNOWN_FIELD = re.compile(r'Field "([\w.]{1,80})" is not a valid')
# by CUDA's major version, within which newer builds run on older drivers
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
TORCH = re.compile(r"^(__version__|cuda|hip)\b[^=\n]*=\s*['\"]([^'\"\n]{1,80})['\"]", re.MULTILINE)
DRIVERS = {11: 450, 12: 525, 13: 580}
BROKEN = re.compile(
    r"gpu is lost|requires? (a )?reset|fallen off the bus|unknown error|\berr!"
    r"|unable to determine the device handle|failed to initialize nvml|nvidia-smi has failed"
    r"|no devices were found",
    re.IGNORECASE,
)
OVERALL = re.compile(r"overall health\W{1,80}(healthy|warn|fail)", re.IGNORECASE)
VERDICT = re.compile(r"\b(fail|warn)(?:ure|ing|ed)?\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Complaints:
    """What is wrong with GPUs: failures, for which a node is left out, and what to keep in mind."""

    failures: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def ask_tools() -> dict[str, str]:
    """Return what the tools that are here print, by tool."""
    health = _run(CHECK)
    if not OVERALL.search(health):  # the watches are off, and turning them on is the site's affair
        health = _run(DIAGNOSIS)
    asked = {"dcgm": health, "rows": _query("--query-remapped-rows", ROWS)}
    return {**asked, "gpus": _query("--query-gpu", FIELDS)}


def _query(what: str, fields: Sequence[str]) -> str:
    """Return lines of `field=value, …`, without the fields that this driver does not know."""
    known = list(fields)
    while known:
        text = _run(["nvidia-smi", f"{what}={','.join(known)}", "--format=csv,noheader"])
        unknown = UNKNOWN_FIELD.search(text)
        if unknown is None or unknown[1] not in known:
            return name_values(text, known)
        known.remove(unknown[1])
    return ""


def name_values(text: str, fields: Sequence[str]) -> str:
    """Return the lines of a table with its fields' names; others are errors, and stay."""
    lines = []
    for line in text.split("\n"):
        values = [value.strip() for value in line.split(",")]
        whole = len(values) == len(fields)
        pairs = zip(fields, values, strict=False)
        lines.append(", ".join(f"{name}={value}" for name, value in pairs) if whole else line)
    return "\n".join(lines)


def _run(command: Sequence[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def find_complaints(told: Mapping[str, str]) -> Complaints:
    """Return what the tools complain of."""
    found = [*_judge_dcgm(told.get("dcgm", ""))]
    for kind in ("gpus", "rows"):
        for line in told.get(kind, "").split("\n"):
            found += _judge_line(line)
    unique = dict.fromkeys(found)
    return Complaints(
        failures=tuple(text for is_failure, text in unique if is_failure),
        warnings=tuple(text for is_failure, text in unique if not is_failure),
    )


def _judge_dcgm(text: str) -> Iterator[tuple[bool, str]]:
    """Yield the rows of a check or a diagnosis that do not pass."""
    for line in text.split("\n"):
        cells = [cell.strip(" -+") for cell in line.strip().strip("|").split("|")]
        verdict = VERDICT.search(cells[-1]) if len(cells) > 1 else None
        if verdict:
            row = " ".join(": ".join(cell for cell in cells if cell).split())
            yield verdict[1].lower() == "fail", f"DCGM: {row}"


def _judge_line(line: str) -> Iterator[tuple[bool, str]]:
    """Yield what a line of nvidia-smi says that is wrong."""
    values = dict(re.findall(r"([\w.]{1,80})=([^,]*)", line))
    gpu = f"GPU {values.get('index') or values.get('gpu_uuid', '?')}"
    if BROKEN.search(line):
        yield True, " ".join(line.split())[:200]
    errors = values.get(ECC, "").strip()
    if re.fullmatch("0*[1-9][0-9]{0,17}", errors):
        yield True, f"{gpu}: {errors} uncorrected memory errors since it was started"
    if values.get("remapped_rows.failure", "").strip().lower() in {"yes", "1"}:
        yield True, f"{gpu}: rows of its memory cannot be replaced any more"
    for name in (RETIRED, "remapped_rows.pending"):
        if values.get(name, "").strip().lower() in {"yes", "1"}:
            yield False, f"{gpu}: memory waits for a restart to be replaced"
    if values.get(SLOWED, "").strip().lower() == "active":
        yield False, f"{gpu}: slowed down by heat or lack of power"


def find_driver(text: str) -> int | None:
    """Return the main version of NVIDIA's driver, from /proc/driver/nvidia/version."""
    line = next((line for line in text.split("\n") if "Kernel Module" in line), "")
    version = re.search(r"(?<![\w.])([0-9]{3,4})\.[0-9]{1,4}(?:\.[0-9]{1,4})?(?![\w.])", line)
    return int(version[1]) if version else None


def require_driver(cuda: str) -> int | None:
    """Return the oldest driver on which a build for that CUDA, such as `12.8`, runs."""
    major = re.match("([0-9]{1,3})(?:[.]|$)", cuda)
    return DRIVERS.get(int(major[1])) if major else None


def read_torch(text: str) -> dict[str, str]:
    """Return `__version__`, `cuda` and `hip` of torch/version.py; no key for what is None."""
    return dict(TORCH.findall(text))
