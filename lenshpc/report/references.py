"""What a report cites: entries of references.bib, found by what they are for.

A text marks a citation as `[@delong1988; @sun2014]`.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MARK = re.compile(r" ?\[((?:@\w+(?:; )?)+)\]")
_ACCENTS = {"'": "\u0301", '"': "\u0308"}
_LETTERS = {r"{\l}": "ł", r"\l": "ł"}


@dataclass(frozen=True, kw_only=True)
class Citation:
    """An entry of a bibliography: its `key`, what it is cited for, and its BibTeX."""

    key: str
    purposes: tuple[str, ...]
    bibtex: str

    def field(self, name: str) -> str:
        """Return a field as plain text; empty where it has none."""
        found = re.search(rf"^  {name} = {{(.*)}},$", self.bibtex, re.MULTILINE)
        return _plain(found[1]) if found else ""

    @property
    def label(self) -> str:
        """Return how a text names it: `DeLong et al. 1988`."""
        names = [name.partition(",")[0] for name in self.field("author").split(" and ")]
        who = " & ".join(names) if len(names) < 3 else f"{names[0]} et al."
        return f"{who} {self.field('year')}"

    @property
    def line(self) -> str:
        """Return it as a line of a list of references."""
        where = self.field("journal") or self.field("booktitle") or self.field("publisher")
        number = " ".join(filter(None, (self.field("volume"), self.field("pages"))))
        source = self.field("doi") and f"doi:{self.field('doi')}"
        source = source or (self.field("eprint") and f"arXiv:{self.field('eprint')}")
        parts = (f"{self.label}: {self.field('title')}", f"{where} {number}".strip(), source)
        return ". ".join(filter(None, parts))


def _plain(text: str) -> str:
    """Return a BibTeX value as text."""
    import unicodedata

    for marked, letter in _LETTERS.items():
        text = text.replace(marked, letter)
    text = re.sub(r"""\{?\\(['"])(\w)\}?""", lambda m: m[2] + _ACCENTS[m[1]], text)
    text = text.replace(r"\&", "&").replace("--", "–")
    return unicodedata.normalize("NFC", re.sub(r"[{}]", "", text))


@cache
def read_references() -> tuple[Citation, ...]:
    """Return all entries, in the order of their keys."""
    text = (Path(__file__).parent / "references.bib").read_text("utf-8")
    entries = []
    for whole, key in re.findall(r"^(@\w+{(\w+),\n.*?^}\n)", text, re.MULTILINE | re.DOTALL):
        [purposes] = re.findall(r"^  keywords = {(.*)},\n", whole, re.MULTILINE)
        bibtex = re.sub(r"^  keywords = .*\n", "", whole, flags=re.MULTILINE)
        reference = Citation(key=key, purposes=tuple(purposes.split(", ")), bibtex=bibtex)
        entries.append(reference)
    return tuple(sorted(entries, key=lambda one: one.key))


def cite(*purposes: str) -> str:
    """Return the mark of what is cited for some purposes, as `statistic/holm`; empty without any.

    A purpose finds the entries whose own is the longest that it begins with: `network/resnet18`
    those of `network/resnet`.
    """
    keys = dict.fromkeys(key for purpose in purposes for key in _find_keys(purpose))
    return f" [{'; '.join(f'@{key}' for key in keys)}]" if keys else ""


def _find_keys(purpose: str) -> list[str]:
    own = [(one.key, part) for one in read_references() for part in one.purposes]
    found = [(key, part) for key, part in own if purpose.startswith(part)]
    longest = max((len(part) for _, part in found), default=0)
    return [key for key, part in found if len(part) == longest]


def list_cited(text: str) -> list[Citation]:
    """Return what a text cites."""
    keys = set(find_marked(text))
    return [one for one in read_references() if one.key in keys]


def format_citations(text: str) -> str:
    """Return a text for people: `(DeLong et al. 1988; Sun & Xu 2014)`."""
    labels = {one.key: one.label for one in read_references()}

    def name(mark: re.Match[str]) -> str:
        return f" ({'; '.join(labels[key] for key in find_marked(mark[0]))})"

    return MARK.sub(name, text)


def find_marked(text: str) -> list[str]:
    """Return the keys that citations of a text have."""
    return [key for mark in MARK.findall(text) for key in re.findall(r"@(\w+)", mark)]
