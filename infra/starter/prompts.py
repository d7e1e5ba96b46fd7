"""Recorded prompts of a telephone exchange with what they say, from Debian's package `asterisk-core-sounds-en-wav`."""

import csv
import gzip
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from components.errors import AtelierError
from components.store import file_sha256
from infra.starter.card import write_card

SOURCE = Path("/")  # where Debian's packages put their files
SOUNDS = Path("usr/share/asterisk/sounds/en_US_f_Allison")  # of the package asterisk-core-sounds-en-wav
NOTICE = Path("usr/share/doc/asterisk-core-sounds-en-wav/copyright")
TRANSCRIPTS = Path("usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")  # of asterisk-core-sounds-en
RATE = 8000
ROUNDING = 8  # of 32,768 levels: how far two roundings of one take lie apart; 3 was found
PHRASES = "phrases"  # the label of what lies in no folder
CLASSES = ("dictate", "digits", "followme", "letters", "phonetic", PHRASES)
LICENCE = "CC-BY-SA-3.0"
VERSION = "1.6.1-1"  # of both packages
NOTE = re.compile(r"\s*(\[.*?\]|\(.*?\)|<.*?>)")  # what is said of a recording, not in it

CARD = """\
# Prompts of a telephone exchange

{sounds} recordings, {minutes} minutes, of one voice saying the prompts of the telephone exchange Asterisk in American
English: FLAC, 8 kHz, mono, 16 bits. The layout is Hugging Face's AudioFolder: `metadata.csv` has the columns
`file_name`, `text` (what is said) and `label`, which is the folder: `digits` (numbers and dates), `letters` (and
signs), `phonetic` (alpha, bravo ...), `dictate`, `followme`, and `{phrases}` for the files outside any folder.

Which are held out is for the recipe to say: `held_out: {{share: 0.1, by: digest}}`; the source has no split. No take
is there twice, but {shared} of them say, letter case and punctuation aside, the same words as another one, by design: a
word was recorded again for each use of it (`minutes`, `queue-minutes`, `vm-minutes`). The same words on both sides are
no leak, then: no recording is on both.

## How it was made
By `infra/starter_data.py`, from the WAV files of Debian's package `asterisk-core-sounds-en-wav` and the list of
transcripts in `asterisk-core-sounds-en`, both {version}. Every recording there has a transcript, and none was written
by us. Left out are the folder `silence/`; those whose transcript names a sound instead of words:
{noises};
and those that are an earlier take again, rounded anew:
{again}.
In the transcripts, notes in brackets were taken away ("at [@]" became "at"), and blanks at the ends and beyond one
between words; the words are the source's own, misspelt ones too, and digits stand for spoken numbers in some.

The samples are the source's own: FLAC loses nothing, and `sound_sha256` above is the sha256 of all of them, 16 bits
each, little-endian, in the order of `metadata.csv`. The bytes of the FLAC files were written at compression level 0
by `{encoder}`; other releases of it give other bytes for the same samples.

## Licence
Creative Commons Attribution-ShareAlike 3.0. Whoever passes these recordings on, changed or not, must name their author
as below, say what was changed, and do so under this licence or one that it allows; its text follows.

Debian's copyright file says: "Copyright: 2003-2010, Allison Smith", and of the files' credits:

    Recorded by:
    Allison Smith (http://www.theivrvoice.com)

    Financial Contributions by:
    Digium, Inc. (http://www.digium.com)
    License: CC-BY-SA-3.0

The title of the work is asterisk-core-sounds; it comes from http://downloads.asterisk.org/pub/telephony/asterisk/.
Changed here: the recordings were converted from WAV to FLAC, some were left out, and the transcripts were edited, as
described above. Atelier is not connected with the author or with Digium, and neither endorses it. `metadata.csv` is
under the same licence. The text as Debian's copyright file has it follows; its words are those of the version for the
United States, https://creativecommons.org/licenses/by-sa/3.0/us/legalcode.

"""


@dataclass(frozen=True)
class Prompt:
    """One recording: its name without a suffix (`digits/1`), int16 samples [n], and the words that are said."""

    name: str
    samples: np.ndarray
    text: str

    @property
    def file_name(self) -> str:
        return f"{self.name}.flac"

    @property
    def label(self) -> str:
        return self.name.split("/")[0] if "/" in self.name else PHRASES


def build(source: Path, folder: Path) -> None:
    """A FLAC file for each prompt, `metadata.csv` and the card; an `AtelierError` where the source is not whole."""
    texts = _transcripts(_there(source, TRANSCRIPTS))
    licence = licence_of(_there(source, NOTICE).read_text(encoding="utf-8"))
    sounds = _there(source, SOUNDS)
    prompts = [_prompt(sounds, name, texts) for name in _names(sounds)]
    noises = [prompt.name for prompt in prompts if not prompt.text]
    again = {later.name: first.name for first, later in same_takes(prompts)}
    prompts = [prompt for prompt in prompts if prompt.text and prompt.name not in again]
    for prompt in prompts:
        path = folder / prompt.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(flac(prompt.samples))
    _write_metadata(folder / "metadata.csv", prompts)
    _write_card(folder, prompts, noises, again, licence)


def same_takes(prompts: Iterable[Prompt]) -> Iterator[tuple[Prompt, Prompt]]:
    """Each prompt that is an earlier one again, beside that one: equal but for the noise that rounding adds."""
    by_length: dict[int, list[Prompt]] = {}
    for prompt in prompts:
        others = by_length.setdefault(len(prompt.samples), [])
        same = (p for p in others if np.abs(p.samples.astype(np.int32) - prompt.samples).max() <= ROUNDING)
        if first := next(same, None):
            yield first, prompt
        else:
            others.append(prompt)


def words(transcript: str) -> str:
    """What is said, without the notes that a transcript holds in brackets; empty where it is nothing but a note."""
    return " ".join(NOTE.sub("", transcript).split())


def flac(samples: np.ndarray) -> bytes:
    """Int16 samples [n] as a FLAC file; at level 0 no floating-point number has a say in the bytes."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, RATE, format="FLAC", subtype="PCM_16", compression_level=0.0)
    return stream.getvalue()


def sound_sha256(sounds: Iterable[np.ndarray]) -> str:
    """The sha256 of the samples of all sounds, one after the other: the same whatever wrote their files."""
    digest = hashlib.sha256()
    for samples in sounds:
        digest.update(samples.astype("<i2").tobytes())
    return digest.hexdigest()


def encoder_of(content: bytes) -> str:
    """Which encoder wrote a FLAC file, by its own account: the vendor of its comment block."""
    at = 4
    while content[at] & 127 != 4:  # every block: a byte with its type (4: comment), three with its length
        at += 4 + int.from_bytes(content[at + 1 : at + 4])
    length = int.from_bytes(content[at + 4 : at + 8], "little")
    return content[at + 8 : at + 8 + length].decode()


def licence_of(notice: str) -> str:
    """The text of the licence in a copyright file of Debian: its paragraph `License: CC-BY-SA-3.0` that has one."""
    paragraphs = [p for p in notice.split("\n\n") if p.startswith(f"License: {LICENCE}\n ")]
    if len(paragraphs) != 1:
        raise AtelierError(f"{NOTICE.name} of asterisk-core-sounds-en-wav does not hold the text of {LICENCE} once.")
    lines = paragraphs[0].splitlines()[1:]
    return "\n".join("" if line == " ." else line.removeprefix(" ") for line in lines) + "\n"


def _there(source: Path, path: Path) -> Path:
    if not (source / path).exists():
        raise AtelierError(
            f"the source {source / path} is not there. `apt-get install asterisk-core-sounds-en-wav "
            "asterisk-core-sounds-en` puts it in its place; or fetch both with `apt-get download`, unpack each with "
            "`dpkg -x FILE.deb DIR`, and name that folder with --from prompts=DIR."
        )
    return source / path


def _transcripts(path: Path) -> dict[str, str]:
    """The transcript of each recording, by its name without a suffix: lines of `name: text`."""
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    pairs = [line.partition(":") for line in lines if line.strip() and not line.startswith(";")]
    return {name: text for name, _, text in pairs}


def _names(sounds: Path) -> list[str]:
    found = sorted(path.relative_to(sounds).with_suffix("").as_posix() for path in sounds.rglob("*.wav"))
    return [name for name in found if not name.startswith("silence/")]


def _prompt(sounds: Path, name: str, texts: Mapping[str, str]) -> Prompt:
    if name not in texts:
        raise AtelierError(f"{sounds / name}.wav has no transcript in {TRANSCRIPTS}: are both packages 1.6.1?")
    return Prompt(name, _samples(sounds / f"{name}.wav"), words(texts[name]))


def _samples(path: Path) -> np.ndarray:
    about = soundfile.info(path)
    if (about.samplerate, about.channels, about.subtype) != (RATE, 1, "PCM_16"):
        raise AtelierError(
            f"{path} has {about.samplerate} Hz, {about.channels} channels and {about.subtype}, not {RATE} Hz, one and "
            "PCM_16: it is not of the package asterisk-core-sounds-en-wav 1.6.1."
        )
    return np.asarray(soundfile.read(path, dtype="int16")[0])


def _write_metadata(path: Path, prompts: Iterable[Prompt]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["file_name", "text", "label"])
        table.writerows([prompt.file_name, prompt.text, prompt.label] for prompt in prompts)


def _write_card(
    folder: Path, prompts: Sequence[Prompt], noises: Sequence[str], again: Mapping[str, str], licence: str
) -> None:
    said = Counter(re.sub(r"\W+", " ", prompt.text).strip().lower() for prompt in prompts)
    counts = Counter(prompt.label for prompt in prompts)
    facts = {
        "title": "Prompts of a telephone exchange: recorded speech with transcripts",
        "licence": LICENCE,
        "source": f"Debian packages asterisk-core-sounds-en-wav and asterisk-core-sounds-en {VERSION}",
        "classes": list(CLASSES),
        "counts": {label: counts[label] for label in CLASSES},
        "sha256": {"metadata.csv": file_sha256(folder / "metadata.csv")},
        "sound_sha256": sound_sha256(prompt.samples for prompt in prompts),
    }
    text = CARD.format(
        sounds=len(prompts),
        minutes=round(sum(len(prompt.samples) for prompt in prompts) / RATE / 60, 1),
        phrases=PHRASES,
        shared=sum(count for count in said.values() if count > 1),
        version=VERSION,
        noises=", ".join(f"`{name}`" for name in noises),
        again=" and ".join(f"`{later}` (`{first}`)" for later, first in again.items()),
        encoder=encoder_of((folder / prompts[0].file_name).read_bytes()),
    )
    write_card(folder, facts, text + licence)
