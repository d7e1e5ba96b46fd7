"""The door to git: which commit names which data, and the one commit that a change of the data makes."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from components.errors import AtelierError

FIELDS = ("%H", "%cI", "%an", "%s", "%b")
PART, END = "\x1f", "\x1e"  # between the fields of a commit, and after each


@dataclass(frozen=True)
class Commit:
    """A commit that changed a file."""

    sha: str
    time: str  # ISO 8601
    author: str
    subject: str
    body: str


def git(project: Path, *arguments: str) -> str | None:
    """The output of git, or None where the project is no clone, has no commit, or git is not there."""
    try:
        done = _run(project, *arguments)
    except OSError:
        return None
    return done.stdout.strip(" \n") if done.returncode == 0 else None


def _run(project: Path, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    # Inside a git hook these point at the repository of the hook, not at the project's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    named = {name: os.environ[name] for name in os.environ if name.startswith(("GIT_AUTHOR_", "GIT_COMMITTER_"))}
    return subprocess.run(
        ["git", "-C", str(project), *arguments],
        input=given, capture_output=True, text=True, env=environment | named, check=False,
    )  # fmt: skip


def is_clone(project: Path) -> bool:
    """Whether the project lies in a git repository."""
    return git(project, "rev-parse", "--is-inside-work-tree") == "true"


def head(project: Path) -> str | None:
    """The commit that is checked out; None where there is none."""
    return git(project, "rev-parse", "--verify", "--quiet", "HEAD")


def resolve(project: Path, revision: str) -> str:
    """The commit that a revision names; an `AtelierError` where it names none."""
    if not is_clone(project):
        raise AtelierError(f"{project} is no git clone, so that {revision!r} names no commit of it.")
    found = (
        None if revision.startswith("-") else git(project, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    )
    if found is None:
        raise AtelierError(
            f"{revision!r} names no commit of {project}. `atelier data history` lists those that changed the data."
        )
    return found


def text_at(project: Path, revision: str, path: Path) -> str | None:
    """A file of the project as it is in a commit; None where it is not there."""
    try:
        done = _run(project, "show", f"{revision}:./{path.relative_to(project).as_posix()}")
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def log(project: Path, path: Path, *, at: str = "HEAD", limit: int | None = None) -> list[Commit]:
    """The commits that changed a file, newest first."""
    asked = ["log", f"--format={PART.join(FIELDS)}{END}", *([f"-{limit}"] if limit else []), at, "--", str(path)]
    told = (git(project, *asked) or "").split(END)
    return [Commit(*entry.strip("\n").split(PART)) for entry in told if entry.strip("\n")]


def ignored(project: Path, path: Path) -> bool:
    """Whether git leaves a path alone."""
    return git(project, "check-ignore", "--quiet", str(path)) is not None


def refuse_unfit(project: Path, path: Path) -> None:
    """Raise an `AtelierError` where a commit of one changed file cannot be made here now."""
    mend = "or leave the commit to yourself with --no-commit"
    if not is_clone(project):
        raise AtelierError(f"{project} is no git clone, so that the change cannot be committed. Make it one, {mend}.")
    if git(project, "symbolic-ref", "--quiet", "HEAD") is None:
        raise AtelierError(
            f"{project} is at a detached HEAD, where a commit would belong to no branch. `git switch -c NAME` makes "
            f"one, {mend}."
        )
    folder = Path(project, git(project, "rev-parse", "--git-dir") or ".git")
    for name, what in (("MERGE_HEAD", "merge"), ("rebase-merge", "rebase"), ("rebase-apply", "rebase")):
        if (folder / name).exists():
            raise AtelierError(f"a {what} is going on in {project}. Finish it first, {mend}.")
    if git(project, "var", "GIT_COMMITTER_IDENT") is None:
        raise AtelierError(
            f"git does not know who you are in {project}. Tell it by `git config user.name` and `git config "
            f"user.email`, {mend}."
        )
    if git(project, "status", "--porcelain", "--", str(path)):
        raise AtelierError(
            f"{path.name} differs from the last commit: an earlier change of the data was not committed. Commit it, as "
            f"with `git commit {path.name}`, {mend}."
        )


def commit(project: Path, path: Path, message: str) -> str:
    """Commit one file as it is, and nothing else that may be staged; the new commit, or an `AtelierError` of git's."""
    name = path.relative_to(project).as_posix()
    alone = ["commit", "--quiet", "--only", "--file=-", "--cleanup=verbatim", "--", name]
    for arguments in (["add", "--", name], alone):
        done = _run(project, *arguments, given=message)
        if done.returncode != 0:
            told = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
            raise AtelierError(f"git did not commit {name}: {told}")
    made = head(project)
    assert made is not None, "git has just made a commit"
    return made
