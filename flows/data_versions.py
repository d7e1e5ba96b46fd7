"""`atelier data status`, `diff`, `history`, `pull` and `push`: what the data are, were, and where else they lie."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from components import changes, commits, data_card, exclusions, manifest, objects, versioning
from components.data_card import Difference
from components.errors import AtelierError
from components.ledger import Ledger, Version
from components.objects import Remote
from flows.workspace import Workspace

DATA = "data"  # what data.dvc names
SHOWN = 10  # names that a list shows
MINE = "`dvc remote add -d mine URL`, where URL is a folder, s3://bucket/folder, ssh://... or what else DVC knows"


def status(place: Workspace) -> dict[str, Any]:
    """What differs from data.dvc, what lies in no remote yet, and what is excluded, as `--json` tells it."""
    root = place.project.resolve()
    tracked = changes.pointer_of(root, DATA)
    wanted = objects.entries(root, tracked.md5)
    there = manifest.entries_of(tracked.output)
    differing = data_card.compare(wanted, there)
    sources = sorted({name.split("/")[0] for name in wanted} | {name.split("/")[0] for name in there})
    excluded: dict[str, int] = {}
    for one in exclusions.every(root):
        excluded[one.source] = excluded.get(one.source, 0) + 1
    return {
        "schema": 1,
        "version": f"md5:{tracked.md5}",
        "commit": versioning.commit_of(root, DATA),
        "sources": [_source(name, wanted, there, differing) for name in sources],
        "clean": not differing["added"] and not differing["changed"] and not differing["renamed"],
        "remote": _remote(root, {tracked.md5, *wanted.values()}),
        "excluded": excluded,
        "cut_off": changes.cut_off(root) is not None,
    }


def _source(
    name: str, wanted: dict[str, str], there: dict[str, str], differing: dict[str, list[str]]
) -> dict[str, Any]:
    mine = {what: [file for file in files if _top(file) == name] for what, files in differing.items()}
    here = any(_top(file) == name for file in there)
    missing = mine.pop("removed")
    return {
        "source": f"{DATA}/{name}",
        "files": sum(_top(file) == name for file in wanted),
        "here": here,
        **mine,
        "missing": missing if here else [],  # a folder that was never brought is no difference
    }


def _top(name: str) -> str:
    return name.split("/")[0]


def _remote(root: Path, names: set[str]) -> dict[str, Any] | None:
    """The default remote and how many objects of the data it lacks; None where there is none."""
    default = _default(root)
    if default is None:
        return None
    told = {"name": default.name, "url": default.url, "read_only": default.inside}
    try:
        return told | {"lacks": len(objects.unpushed(root, names, default.name)), "problem": None}
    except AtelierError as error:
        return told | {"lacks": None, "problem": str(error)}


def _default(root: Path) -> Remote | None:
    return next((remote for remote in objects.remotes(root) if remote.default), None)


def shown_status(told: dict[str, Any]) -> RenderableType:
    """The same for a person."""
    lines: list[RenderableType] = []
    rows = Table()
    for title in ("source", "files", "differs from data.dvc", "excluded"):
        rows.add_column(title)
    for source in told["sources"]:
        words = [f"{len(source[what]):,} {what}" for what in ("added", "changed", "renamed", "missing") if source[what]]
        differs = ", ".join(words) if words else ("no" if source["here"] else "not brought here")
        excluded = told["excluded"].get(source["source"], 0)
        style = "yellow" if words else None
        rows.add_row(source["source"], f"{source['files']:,}", Text(differs, style or ""), str(excluded or ""))
    lines.append(rows)
    elsewhere = {
        name: count
        for name, count in told["excluded"].items()
        if name not in {source["source"] for source in told["sources"]}
    }
    lines += [f"{count:,} rows are excluded from {name}" for name, count in elsewhere.items()]
    lines.append(f"data.dvc names {told['version']}, commit {told['commit'] or 'none'}")
    lines.append(_of_remote(told["remote"]))
    if told["cut_off"]:
        lines.append(Text("a change was cut off before its commit: the next `atelier data add` finishes it", "yellow"))
    return Group(*lines)


def _of_remote(remote: dict[str, Any] | None) -> Text:
    if remote is None:
        return Text(f"there is no DVC remote to share it by: {MINE}", "yellow")
    if remote["problem"]:
        return Text(remote["problem"], "yellow")
    where = f"the remote {remote['name']} ({remote['url']})"
    if not remote["lacks"]:
        return Text(f"all of it is in {where}", "green")
    mend = f"which is read-only: {MINE}" if remote["read_only"] else "`atelier data push` brings them there"
    return Text(f"{remote['lacks']:,} objects are not in {where}; {mend}", "yellow")


def diff(place: Workspace, old: str | None, new: str | None) -> dict[str, Any]:
    """What two versions of the data hold differently, file by file, and in numbers where a commit tells them.

    Without names they are the last commit and what data.dvc names now. Only manifests are read, never the files.
    """
    root = place.project.resolve()
    tracked = changes.pointer_of(root, DATA)
    one, other = (_version(root, tracked.pointer, name) for name in (old or "HEAD", new))
    before, after = (_entries(root, name) for name in (one, other))
    told = _numbers(root, tracked.pointer)
    sources = []
    for top in sorted({_top(name) for name in (*before, *after)}):
        parts = [{n.split("/", 1)[-1]: md5 for n, md5 in each.items() if _top(n) == top} for each in (before, after)]
        if parts[0] == parts[1]:
            continue
        names = [f"md5:{manifest.name_of(part)}" if part else None for part in parts]
        cards = [told.get((f"{DATA}/{top}", name)) for name in names]
        sources.append(
            {
                "source": f"{DATA}/{top}",
                "versions": names,
                **data_card.compare(*parts),
                "numbers": [None if card is None else card.model_dump(mode="json") for card in cards],
            }
        )
    return {"schema": 1, "old": one, "new": other, "sources": sources}


def _version(root: Path, pointer: Path, revision: str | None) -> str | None:
    """The manifest that a revision's pointer names, or the pointer as it is; None where there was none."""
    if revision is None:
        return manifest.pointer_md5(pointer)
    text = commits.text_at(root, commits.resolve(root, revision), pointer)
    return None if text is None else manifest.pointer_md5(pointer, text)


def _entries(root: Path, name: str | None) -> dict[str, str]:
    return {} if name is None else objects.entries(root, name)


def _numbers(root: Path, pointer: Path) -> dict[tuple[str, str | None], data_card.Card | None]:
    """The numbers of each version of each source that some commit tells."""
    found: dict[tuple[str, str | None], data_card.Card | None] = {}
    for commit in commits.log(root, pointer, at="--all"):
        if (change := data_card.told(commit.body)) is not None:
            found.setdefault((change.source, change.new), change.after)
            found.setdefault((change.source, change.old), change.before)
    return found


def shown_diff(told: dict[str, Any]) -> RenderableType:
    """The same for a person."""
    if not told["sources"]:
        return "nothing differs"
    lines: list[RenderableType] = []
    for source in told["sources"]:
        lines.append(Text(source["source"], "bold"))
        for what in ("added", "removed", "changed", "renamed"):
            lines += [Text(f"  {what}  {name}") for name in source[what][:SHOWN]]
            if (left := len(source[what]) - SHOWN) > 0:
                lines.append(f"  {what}  and {left:,} more")
        lines += _numbered(source) if source["source"] != exclusions.FOLDER else []
    return Group(*lines)


def _numbered(source: dict[str, Any]) -> list[RenderableType]:
    before, after = (None if one is None else data_card.Card.model_validate(one) for one in source["numbers"])
    if before is None or after is None:
        return [Text("  no commit tells the rows of both versions", "dim")]
    change = Difference(source=source["source"], old=None, new="", before=before, after=after)
    table = Table.grid(padding=(0, 2))
    for name, one, other in change.table():
        table.add_row(f"  {name}", one, "->", other, style=None if one != other else "dim")
    return [table]


def history(place: Workspace, *, limit: int | None) -> dict[str, Any]:
    """The commits that changed data.dvc, newest first: how, and which versions were trained on what each made."""
    root = place.project.resolve()
    tracked = changes.pointer_of(root, DATA)
    if not commits.is_clone(root):
        raise AtelierError(f"{root} is no git clone, so that its data have no history. Clone the repository instead.")
    made = commits.log(root, tracked.pointer, limit=None if limit is None else limit + 1)
    trained = _trained(root, tracked.pointer, Ledger(place.ledger_url).versions())
    entries = []
    for number, commit in enumerate(made[:limit]):
        earlier = made[number + 1].sha if number + 1 < len(made) else None
        change = data_card.told(commit.body)
        entries.append(
            {
                "commit": commit.sha,
                "time": commit.time,
                "author": commit.author,
                "subject": commit.subject,
                "version": _named(root, tracked.pointer, commit.sha),
                "change": change.line() if change else _files(root, tracked.pointer, earlier, commit.sha),
                "difference": None if change is None else change.model_dump(mode="json"),
                "trained": trained.get(commit.sha, []),
            }
        )
    return {"schema": 1, "commits": entries}


def _named(root: Path, pointer: Path, revision: str) -> str | None:
    text = commits.text_at(root, revision, pointer)
    return None if text is None else f"md5:{manifest.pointer_md5(pointer, text)}"


def _files(root: Path, pointer: Path, old: str | None, new: str) -> str | None:
    """How the files of two commits differ, in a few words; None where a manifest is nowhere to be had."""
    try:
        one, other = (_entries(root, None if at is None else _version(root, pointer, at)) for at in (old, new))
    except AtelierError:
        return None
    return data_card.files_line(one, other)


def _trained(root: Path, pointer: Path, versions: Sequence[Version]) -> dict[str, list[str]]:
    """The registered versions by the commit of the data that they were trained on, as far as their commit tells it."""
    found: dict[str, list[str]] = {}
    for version in versions:
        at = (version.commit or "").removesuffix("-dirty")
        if version.commit in (None, "none") or version.commit != at:
            continue
        last = commits.log(root, pointer, at=at, limit=1)
        if last:
            found.setdefault(last[0].sha, []).append(f"{version.model}@{version.version}")
    return found


def shown_history(told: dict[str, Any]) -> RenderableType:
    """The same for a person."""
    rows = Table()
    for title in ("commit", "when", "what", "change", "trained on it"):
        rows.add_column(title)
    for entry in told["commits"]:
        rows.add_row(
            entry["commit"][:10],
            entry["time"][:16].replace("T", " "),
            Text(entry["subject"]),
            Text(entry["change"] or "its manifest is in no remote"),
            ", ".join(entry["trained"]),
        )
    return rows


def pull(place: Workspace, sources: Sequence[str]) -> dict[str, Any]:
    """Bring sources, all where none is named, to what data.dvc names; from whichever remote has them."""
    wanted = [_spelt(name) for name in sources] or [DATA]
    for source in wanted:
        if not versioning.is_tracked(place.project, source):
            known = sorted({_top(name) for name in versioning.entries(place.project, DATA)})
            raise AtelierError(f"no .dvc pointer names {source!r}. There are: {', '.join(known)}.")
        versioning.pull(place.project, source)
    return {"schema": 1, "pulled": {source: versioning.version_of(place.project, source) for source in wanted}}


def _spelt(name: str) -> str:
    name = name.rstrip("/")
    return name if name == DATA or name.startswith(f"{DATA}/") else f"{DATA}/{name}"


def push(place: Workspace, *, everything: bool) -> dict[str, Any]:
    """Bring what data.dvc names, or ever named where `everything` is asked, into the default remote."""
    root = place.project.resolve()
    tracked = changes.pointer_of(root, DATA)
    remote = _default(root)
    if remote is None:
        raise AtelierError(f"there is no default DVC remote to push the data to. Add one: {MINE}.")
    if remote.inside:
        raise AtelierError(
            f"the default DVC remote {remote.name!r} lies in the repository itself, at {remote.url}, and is only read: "
            f"pushing would put the data into git. Add one of your own: {MINE}; then `atelier data push` brings "
            "everything there, what the starter data hold as well."
        )
    versions = {tracked.md5}
    if everything:
        named = (_version(root, tracked.pointer, commit.sha) for commit in commits.log(root, tracked.pointer))
        versions |= {name for name in named if name is not None}
    names = versions | {md5 for version in versions for md5 in objects.entries(root, version).values()}
    if gone := objects.fetch(root, objects.unpushed(root, names, remote.name)):
        raise AtelierError(
            f"{len(gone)} objects of the data are neither in DVC's cache here nor in a remote, so that they cannot be "
            "pushed. Push them from where they were added."
        )
    pushed = objects.push(root, names, remote.name)
    return {"schema": 1, "remote": remote.name, "url": remote.url, "pushed": pushed, "there": len(names)}
