"""What pages show: blocks of commands, and the output that stands below them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name / "README.md" for name in ("", "jobs", "slurm", "data_prep")),
    ]
)
FENCED = re.compile(r"^```(\w*)\n([\s\S]*?)^```", re.MULTILINE)
INDENTED = re.compile(r"(?:^(?: {4}.*)?\n)+", re.MULTILINE)
INLINE = re.compile(r"`(lenshpc [a-z][^`]*)`")
LEFT_OPEN = re.compile(
    r"…|\.\.\.|\[[A-Z-]|\[options|\(--|COMMAND|STUDY"
)  # a synopsis, not a command
WITH_OUTPUT = re.compile(r"^```sh\n([\s\S]*?)^```\n\n```text\n([\s\S]*?)^```", re.MULTILINE)
FIGURE = r"(?<![\w.])[-+]?\d[\d.,:-]*(?:e[-+]?\d+)?%?(?!\w)"
HASH = r"\b[0-9a-f]{8}(?:[0-9a-f]{56})?\b"


def list_commands(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each command of lenshpc on a page, and whether it stands in a block of its own."""
    blocks = [code for language, code in FENCED.findall(text) if language in {"", "sh", "bash"}]
    rest = FENCED.sub("\n", text)
    blocks += INDENTED.findall(rest)
    for block in blocks:
        yield from ((command, True) for command in commands_of(block))
    yield from ((shown, False) for shown in INLINE.findall(" ".join(rest.split())))


def commands_of(block: str) -> Iterator[str]:
    """Yield the commands of lenshpc in a block, one for each line or its continuation."""
    for line in re.sub(r"\\\n\s*", "", block).splitlines():
        found = re.match(r"\s*(?:\S+=\S+ )*(?:\.venv/bin/)?(lenshpc [a-z].*)", line)
        if found:
            yield found[1]


def shown_outputs(text: str) -> dict[str, str]:
    """Return the output that a page shows below a block, by the block's last command."""
    return {[*commands_of(block)][-1]: output for block, output in WITH_OUTPUT.findall(text)}


def is_as_shown(shown: str, output: str) -> bool:
    """Say whether the words of an output are those that a page shows, line for line.

    A figure and a hash stand for any other, blanks for one, and … for whatever stands there.
    """
    pattern = r"\s*\n\s*".join(_pattern_of(line) for line in shown.splitlines() if line.strip())
    return re.fullmatch(rf"\s*{pattern}\s*", output) is not None


def _pattern_of(line: str) -> str:
    marks = {"…": r"[\s\S]*?"}
    words = []
    for word in line.split():
        parts = re.split(rf"(…|{HASH}|{FIGURE})", word)
        words.append("".join(_pattern_of_part(part, marks) for part in parts if part))
    return r"[ \t]+".join(words)


def _pattern_of_part(part: str, marks: dict[str, str]) -> str:
    if part in marks:
        return marks[part]
    for kind in (HASH, FIGURE):
        if re.fullmatch(kind, part):
            return kind
    return re.escape(part)


def words_of(command: str) -> list[str]:
    """Return the arguments of a command, without what stands behind # on its line."""
    return shlex.split(command, comments=True)[1:]
