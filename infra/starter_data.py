"""Build the starter data and pack it as the read-only DVC remote `infra/starter-data`, named by `data.dvc`.

    python infra/starter_data.py                                 # all of it again, from where the sources usually lie
    python infra/starter_data.py prompts --from prompts=DIR      # this one only; the others stay as they are packed
    python infra/starter_data.py --full                          # every picture of fashion; not packed

It downloads nothing: where a source is not at hand, it says which package holds it. What is rebuilt is byte for byte
what is packed, as long as the same libraries write it: a Parquet file holds the version of pyarrow, a PNG hangs on
Pillow's zlib, a FLAC file on libFLAC (`data/prompts/README.md` names it, and digests of the samples, which stay).

What `--full` builds is used where a recipe or `--set data.source=data/fashion-full` names it, and nowhere else: what
lies on a disk must not change what a recipe trains on.

A dataset is one file of `infra/starter/` with `build(source, folder)`, which fills a folder; `STARTER` lists them.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
FULL = "data/fashion-full"
sys.path.insert(0, str(PROJECT))  # so that it runs as a plain script, from anywhere

from components import manifest  # noqa: E402
from components.errors import AtelierError  # noqa: E402
from components.spelling import unknown  # noqa: E402
from components.store import write_atomically  # noqa: E402
from infra.starter import fashion, prompts, shakespeare  # noqa: E402


@dataclass(frozen=True)
class Starter:
    """How one dataset is built, and where its source usually lies."""

    build: Callable[[Path, Path], None]
    source: Path


STARTER: Mapping[str, Starter] = {
    "fashion": Starter(fashion.build, fashion.SOURCE),
    "prompts": Starter(prompts.build, prompts.SOURCE),
    "shakespeare": Starter(shakespeare.build, shakespeare.SOURCE),
}


def rebuild(sources: Mapping[str, Path], project: Path) -> None:
    """Build the named datasets anew and pack them: `infra/starter-data` and `data.dvc` of the project are replaced.

    The datasets that are not named are taken over as the project has them packed.
    """
    with tempfile.TemporaryDirectory() as aside:
        data, remote = Path(aside) / "data", project / "infra" / "starter-data"
        for name, starter in STARTER.items():
            if name in sources:
                starter.build(sources[name], data / name)
        if kept := STARTER.keys() - sources.keys():
            unpack(project, data, kept)
        pointer = manifest.pack(data, remote)
    write_atomically(project / "data.dvc", pointer.encode())


def unpack(project: Path, data: Path, names: set[str]) -> None:
    """Write the named datasets of a project's packed data below `data`."""
    remote, md5 = project / "infra" / "starter-data", manifest.pointer_md5(project / "data.dvc")
    entries = manifest.parse((remote / manifest.place_of(md5)).read_bytes(), md5)
    if missing := names - {path.split("/")[0] for path in entries}:
        raise AtelierError(
            f"{project / 'data.dvc'} packs no {', '.join(sorted(missing))}: name it on the command line, to build it."
        )
    for path, md5 in entries.items():
        if path.split("/")[0] in names:
            write_atomically(data / path, (remote / manifest.place_of(md5)).read_bytes())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build the starter data and pack it into infra/starter-data.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to build: {', '.join(STARTER)}; all if none")
    parser.add_argument(
        "--from", dest="sources", action="append", default=[], metavar="NAME=DIR", help="a source's place"
    )
    parser.add_argument("--full", action="store_true", help=f"every picture of fashion, unpacked, into {FULL}")
    parser.add_argument("--to", type=Path, help="another folder for --full to fill")
    options = parser.parse_args(arguments)
    if options.to is not None and not options.full:
        parser.error("--to DIR goes with --full: the packed data has its own place")
    if options.full and options.names:
        parser.error("--full is of fashion alone: name no dataset beside it")
    try:
        places = {name: starter.source for name, starter in STARTER.items()} | _places(options.sources)
        if options.full:
            fashion.build_full(places["fashion"], options.to or PROJECT / FULL)
        else:
            rebuild({name: places[_known(name)] for name in options.names or STARTER}, PROJECT)
    except AtelierError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _places(named: list[str]) -> dict[str, Path]:
    """The sources of `--from NAME=DIR`."""
    places = {}
    for text in named:
        name, equals, place = text.partition("=")
        if not equals or not place:
            raise AtelierError(
                f"--from {text} names no dataset and folder: write --from NAME=DIR, as fashion=/tmp/files."
            )
        places[_known(name)] = Path(place)
    return places


def _known(name: str) -> str:
    if name not in STARTER:
        raise AtelierError(unknown("dataset", name, STARTER))
    return name


if __name__ == "__main__":
    sys.exit(main())
