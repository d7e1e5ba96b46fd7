"""The append-only record of verdicts, versions and promotions: the truth that MLflow's aliases only display.

SQLite by a file's URL (`sqlite:////path/ledger.db`), PostgreSQL by its own. Rows are added and never changed: the
aliases of a model are what its moves add up to. Reading needs SQLAlchemy and pydantic alone, so that `atelier ls` is
quick.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import sqlalchemy as sa

from components import approvals
from components.approvals import Approval, Approver
from components.errors import AtelierError
from components.ledger_schema import MOVES, PINS, VERDICTS, VERSIONS, connect, displaying, now, writing
from components.provenance import Signer
from components.records import Pointer, Record, Verdict, fingerprint

Alias = Literal["challenger", "champion", "previous"]
ALIASES: tuple[Alias, ...] = ("champion", "challenger", "previous")
_MOVED, _ENTERED = tuple(MOVES.c.keys()), tuple(VERSIONS.c.keys())  # what rows hold, in order
RETIRED = "retired"  # and of those that say which versions were given up
DISPLAYED = "displayed"  # the name of the pins that say which generations an MLflow has shown


class Superseded(AtelierError):
    """Someone else moved an alias of the model first."""


class LedgerUnusable(AtelierError):
    """The database of the ledger cannot be read or written now: it has decided nothing."""


class Version(Record):
    """A registered version, with all that leads back from it; `created` is UTC, ISO 8601."""

    model: str
    version: str
    modality: str
    family: str
    bundle: str
    verdict: str
    data: str
    commit: str | None
    recipe: str
    run: str
    pointers: tuple[Pointer, ...]
    created: str


class Move(Record):
    """An alias set to a version; `generation` grows with every move in the ledger, whatever the model."""

    generation: int
    model: str
    alias: Alias
    version: str
    previous: str | None  # the version that the alias left
    bundle: str
    verdict: str
    actor: str
    reason: str
    created: str


class Judged(Record):
    """That a verdict was given, without its numbers; `created` is UTC, ISO 8601."""

    model: str
    candidate: str
    passed: bool
    digest: str
    created: str


@dataclass(frozen=True)
class Display:
    """What is to be displayed of a model: `now`, the aliases of `generation`."""

    generation: int
    now: dict[Alias, str]
    since: dict[Alias, frozenset[str | None]]  # what each was, from the last display on record until now
    done: bool  # this generation is on record as displayed

    def by_hand(self, alias: Alias, seen: str | None) -> bool:
        """Whether what is seen of an alias is nothing that a display, finished or cut off, can have left there."""
        return seen not in self.since[alias]

    def moved(self, alias: Alias) -> bool:
        """Whether the ledger moved an alias since the last display."""
        return self.since[alias] != {self.now.get(alias)}

    def following(self, granted: Mapping[Alias, str | None]) -> "Display":
        """The same where those aliases were moved by hand, and the ledger was made to follow."""
        return replace(self, since={**self.since, **{alias: frozenset([seen]) for alias, seen in granted.items()}})


@dataclass(frozen=True)
class Ledger:
    """The ledger at a URL; its tables are made on first use. It may be shared among threads."""

    url: str

    def record(self, verdict: Verdict, *, run: str) -> str:
        """Keep a verdict under its fingerprint, which is returned; a known one stays as it is."""
        digest = verdict.fingerprint()
        row = {
            **verdict.model_dump(include={"model", "candidate", "family", "passed"}),
            "digest": digest,
            "bundle": verdict.bundle.digest,
            "record": json.dumps(verdict.model_dump(mode="json")),
            "run": run,
            "created": now(),
        }
        with self._writing() as connection:
            if not connection.execute(sa.select(VERDICTS.c.digest).where(VERDICTS.c.digest == digest)).all():
                connection.execute(sa.insert(VERDICTS).values(row))
        return digest

    def verdict(self, digest: str) -> Verdict | None:
        """The verdict of that digest; an `AtelierError` where its row no longer matches it."""
        for row in self._read(sa.select(VERDICTS.c.record).where(VERDICTS.c.digest == digest)):
            verdict = Verdict.model_validate(json.loads(row.record))
            if verdict.fingerprint() != digest:
                raise AtelierError(
                    f"the verdict {digest} in the ledger {self.shown} was altered: it no longer matches its digest. "
                    "Restore the ledger from a backup, or run the recipe again for a verdict of its own."
                )
            return verdict
        return None

    def run_of(self, digest: str) -> str | None:
        """The MLflow run that a verdict was recorded with; none where the ledger does not hold the verdict."""
        return self._value(sa.select(VERDICTS.c.run).where(VERDICTS.c.digest == digest))

    def passing(self, model: str, bundle: str) -> str | None:
        """The newest verdict that passed that bundle.

        A later one that failed does not undo it: a gate against the champion may fail a bundle that an operator must
        still be able to roll back to.
        """
        passed = (VERDICTS.c.model == model) & (VERDICTS.c.bundle == bundle) & VERDICTS.c.passed
        return self._value(sa.select(VERDICTS.c.digest).where(passed).order_by(VERDICTS.c.created.desc()).limit(1))

    def enter(self, version: Version) -> Version:
        """Keep a registered version. Where the model has one of the same bundle already, that one is returned."""
        row = {**version.model_dump(), "pointers": json.dumps([pointer.model_dump() for pointer in version.pointers])}
        same = (VERSIONS.c.model == version.model) & (VERSIONS.c.bundle == version.bundle)
        with self._writing() as connection:
            known = connection.execute(sa.select(VERSIONS).where(same)).first()
            if known is None:
                connection.execute(sa.insert(VERSIONS).values(row))
        return version if known is None else _version(known)

    def versions(self, model: str | None = None) -> list[Version]:
        """Registered versions, of one model or of all, in the order in which they were registered."""
        query = sa.select(VERSIONS).order_by(VERSIONS.c.model, VERSIONS.c.created)
        return [_version(row) for row in self._read(query if model is None else query.where(VERSIONS.c.model == model))]

    def models(self) -> list[str]:
        """The models that have a registered version, by name."""
        return [row[0] for row in self._read(sa.select(VERSIONS.c.model).distinct().order_by(VERSIONS.c.model))]

    def generation(self, model: str) -> int:
        """The generation of the model's last move; 0 before the first."""
        moves = self.history(model)
        return moves[-1].generation if moves else 0

    def move(
        self,
        model: str,
        alias: Alias,
        version: str,
        *,
        verdict: str,
        expected_generation: int | None,
        actor: str,
        reason: str,
    ) -> Move:
        """Set an alias in one compare-and-set: `Superseded` where the model's generation is no longer the expected one.

        `verdict` is the digest of the recorded verdict that passed this version. None expects no generation, which
        only `challenger` may: it decides what is looked at, not what is served. A champion that gives way becomes
        `previous` by the same row. An alias that is there already stays where it is, without a new row.
        """
        _refuse_unguarded(model, alias, version, expected_generation)
        bundle = self._entitled(model, alias, version, verdict)
        wanted = {"model": model, "alias": alias, "version": version, "bundle": bundle, "verdict": verdict}
        with self._writing() as connection:
            if alias == "champion":
                approvals.refuse_unapproved(connection, model, version)
            if connection.execute(_pinned(model, RETIRED, version)).first() is not None:
                raise AtelierError(
                    f"{model}: version {version} cannot become {alias}: it was given up, and its bytes are gone. "
                    "`atelier ls` names the others; or run the recipe again."
                )
            moves = _moves(connection.execute(_of(model)).all())
            if expected_generation not in (None, moves[-1].generation if moves else 0):
                raise _superseded(model, alias, version, moves[-1] if moves else None)
            held = _aliases(moves).get(alias)
            if held is not None and held.version == version:
                return held
            return _added(connection, {**wanted, "actor": actor, "reason": reason}, held)

    def current(self, model: str) -> dict[Alias, Move]:
        """Where each alias of the model points now; one that points nowhere is absent."""
        return _aliases(self.history(model))

    def currents(self) -> dict[str, dict[Alias, Move]]:
        """The same of every model that has an alias, in one question."""
        of: dict[str, list[Move]] = {}
        for move in _moves(self._read(sa.select(MOVES).order_by(MOVES.c.generation))):
            of.setdefault(move.model, []).append(move)
        return {model: _aliases(moves) for model, moves in of.items()}

    def judged(self, *, last: int) -> dict[str, list[Judged]]:
        """The last verdicts of each model, newest first, in one question; without what they were made of."""
        newest = sa.func.row_number().over(partition_by=VERDICTS.c.model, order_by=VERDICTS.c.created.desc())
        ranked = sa.select(*(VERDICTS.c[name] for name in Judged.model_fields), newest.label("rank")).subquery()
        of: dict[str, list[Judged]] = {}
        for row in self._read(sa.select(ranked).where(ranked.c.rank <= last).order_by(ranked.c.rank)):
            judged = Judged.model_validate({name: getattr(row, name) for name in Judged.model_fields})
            of.setdefault(judged.model, []).append(judged)
        return of

    def history(self, model: str) -> list[Move]:
        """Every move of the model, oldest first."""
        return _moves(self._read(_of(model)))

    def displayed(self, model: str, where: str) -> Display:
        """What `where`, an MLflow by its URI, should show of a model, and what it was last made to show."""
        with self._reading() as connection:
            return _display(connection, model, where)

    @contextmanager
    def displaying(self, model: str, where: str) -> Iterator[Display]:
        """The same, for the block that displays it: no other display comes in between, though moves may.

        Whoever moves displays afterwards, so the newest comes last. It is on record as displayed when the block ends
        well.
        """
        with self._explained():
            engine = self._engine
        with displaying(engine):
            due = self.displayed(model, where)
            yield due
            if not due.done:
                self.pin(model, DISPLAYED, _displayed_key(where, due.generation), where)

    def retire(self, model: str, version: str, why: str) -> None:
        """Give a version up for good: it can get no alias any more, and its bytes may go.

        An `AtelierError` where an alias names it at this moment.
        """
        with self._writing() as connection:
            held = _aliases(_moves(connection.execute(_of(model)).all()))
            if alias := next((alias for alias, move in held.items() if move.version == version), None):
                raise AtelierError(f"{model}@{version} is {alias}, so it cannot be given up. Move the alias first.")
            row = {"model": model, "name": RETIRED, "key": version, "digest": why, "created": now()}
            if connection.execute(_pinned(model, RETIRED, version)).first() is None:
                connection.execute(sa.insert(PINS).values(row))

    def retired(self) -> set[tuple[str, str]]:
        """The models and versions that were given up."""
        given_up = sa.select(PINS.c.model, PINS.c.key).where(PINS.c.name == RETIRED)
        return {(row.model, row.key) for row in self._read(given_up)}

    def pinned_digests(self) -> set[str]:
        """Whatever is pinned, under whatever name, and the keys that it is pinned under: digests among them."""
        return {str(text) for row in self._read(sa.select(PINS.c.digest, PINS.c.key)) for text in row}

    def pin(self, model: str, name: str, key: str, digest: str) -> str:
        """Fix a digest under a name and a key for good; returns that of whoever came first."""
        row = {"model": model, "name": name, "key": key, "digest": digest, "created": now()}
        with self._writing() as connection:
            first = connection.execute(_pinned(model, name, key)).first()
            if first is None:
                connection.execute(sa.insert(PINS).values(row))
        return digest if first is None else first.digest

    def pinned(self, model: str, name: str, key: str) -> str | None:
        """The digest that was pinned there, or none."""
        return self._value(_pinned(model, name, key))

    def enrol(self, name: str, public_pem: str) -> Approver:
        """Let a key approve, under a name; see `approvals.enrol`, as of the following."""
        with self._writing() as connection:
            return approvals.enrol(connection, name, public_pem)

    def revoke(self, name: str) -> Approver:
        """Let the key of an approver count for nothing that is still to come."""
        with self._writing() as connection:
            return approvals.revoke(connection, name)

    def approvers(self) -> list[Approver]:
        """Whoever was ever enrolled, in the order of enrolling."""
        with self._reading() as connection:
            return approvals.approvers(connection)

    def approve(self, model: str, version: str, *, name: str, signer: Signer) -> Approval:
        """Keep the approval of a version, signed with an enrolled key."""
        with self._writing() as connection:
            return approvals.approve(connection, model, version, name=name, signer=signer)

    def approvals(self, model: str, version: str) -> list[Approval]:
        """The approvals of a version that count now, oldest first."""
        with self._reading() as connection:
            return approvals.given(connection, model, version)

    def approvals_needed(self, model: str, version: str) -> int:
        """How many approvals a version needs to become champion."""
        with self._reading() as connection:
            return approvals.needed(connection, model, version)

    def refuse_unapproved(self, model: str, version: str, *, at: str | None = None) -> None:
        """Raise an `AtelierError` where a version has fewer approvals that count than it needs to become champion.

        With `at`, as for one that became champion then: a key that was revoked later still counts.
        """
        with self._reading() as connection:
            approvals.refuse_unapproved(connection, model, version, at=at)

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return sa.make_url(self.url).render_as_string(hide_password=True)

    @cached_property
    def _engine(self) -> sa.Engine:
        return connect(self.url)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._explained(), writing(self._engine) as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._explained(), self._engine.connect() as connection:
            yield connection

    def _read(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with self._reading() as connection:
            return connection.execute(query).all()

    def _value(self, query: sa.Select[tuple[str]]) -> str | None:
        return next((row[0] for row in self._read(query)), None)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the database refuses into one paragraph."""
        try:
            yield
        except (sa.exc.SQLAlchemyError, OSError, ModuleNotFoundError) as error:
            cause = " ".join(str(getattr(error, "orig", None) or error).split())
            raise LedgerUnusable(
                f"the ledger {self.shown} cannot be used: {cause}. It records verdicts and promotions; check its URL, "
                "that its folder or its server can be reached, and that no other program keeps it locked."
            ) from error

    def _entitled(self, model: str, alias: Alias, version: str, digest: str) -> str:
        """The bundle of a version that the verdict passed; an `AtelierError` says why it is none."""
        named = (VERSIONS.c.model == model) & (VERSIONS.c.version == version)
        bundle = self._value(sa.select(VERSIONS.c.bundle).where(named))
        verdict = self.verdict(digest)
        if bundle is None:
            why = "the ledger knows no such version"
        elif verdict is None:
            why = f"the ledger holds no verdict {digest}"
        elif not verdict.passed:
            why = f"its verdict failed ({', '.join(check.gate for check in verdict.checks if not check.passed)})"
        elif (verdict.model, verdict.bundle.digest) != (model, bundle):
            why = f"that verdict is about another bundle, {verdict.bundle.digest} of {verdict.model}"
        else:
            return bundle
        raise AtelierError(
            f"{model}: version {version} cannot become {alias}: {why}. Only a version that a run registered with a "
            "passing verdict can; run the recipe, or name another version of `atelier ls`."
        )


def _added(connection: sa.Connection, wanted: dict[str, Any], held: Move | None) -> Move:
    """The next move of the ledger, away from what the alias held."""
    last = connection.execute(sa.select(sa.func.coalesce(sa.func.max(MOVES.c.generation), 0))).scalar_one()
    previous = held.version if held else None
    move = Move.model_validate({**wanted, "generation": last + 1, "previous": previous, "created": now()})
    connection.execute(sa.insert(MOVES).values(move.model_dump()))
    return move


def _display(connection: sa.Connection, model: str, where: str) -> Display:
    moves = _moves(connection.execute(_of(model)).all())
    pinned = sa.select(PINS.c.key).where((PINS.c.model == model) & (PINS.c.name == DISPLAYED))
    known = set(connection.execute(pinned).scalars())
    shown = len(moves)
    while shown and _displayed_key(where, moves[shown - 1].generation) not in known:
        shown -= 1
    states = [{alias: move.version for alias, move in held.items()} for held in _states(moves)]
    since = {alias: frozenset(state.get(alias) for state in states[shown:]) for alias in ALIASES}
    generation = moves[-1].generation if moves else 0
    return Display(generation, states[-1], since, done=shown == len(moves))


def _displayed_key(where: str, generation: int) -> str:
    return fingerprint([where, generation])


def _of(model: str) -> sa.Select[Any]:
    return sa.select(MOVES).where(MOVES.c.model == model).order_by(MOVES.c.generation)


def _pinned(model: str, name: str, key: str) -> sa.Select[tuple[str]]:
    return sa.select(PINS.c.digest).where((PINS.c.model == model) & (PINS.c.name == name) & (PINS.c.key == key))


def _moves(rows: Sequence[sa.Row[Any]]) -> list[Move]:
    return [Move.model_validate(dict(zip(_MOVED, row, strict=True))) for row in rows]


def _version(row: sa.Row[Any]) -> Version:
    told = dict(zip(_ENTERED, row, strict=True))
    return Version.model_validate({**told, "pointers": json.loads(told["pointers"])})


def _aliases(moves: Sequence[Move]) -> dict[Alias, Move]:
    """What the moves add up to."""
    held: dict[Alias, Move] = {}
    for move in moves:
        _apply(move, held)
    return _named(held)


def _states(moves: Sequence[Move]) -> Iterator[dict[Alias, Move]]:
    """The aliases before the first move, and after each."""
    held: dict[Alias, Move] = {}
    yield {}
    for move in moves:
        _apply(move, held)
        yield _named(held)


def _apply(move: Move, held: dict[Alias, Move]) -> None:
    """A new champion leaves the old one behind as `previous`, and is no challenger now."""
    if move.alias == "champion":
        if "champion" in held:
            held["previous"] = held["champion"]
        if "challenger" in held and held["challenger"].version == move.version:
            del held["challenger"]
    held[move.alias] = move


def _named(held: Mapping[Alias, Move]) -> dict[Alias, Move]:
    """The same with each move under the alias that it is held by: that of `previous` was a champion's."""
    return {
        alias: move if move.alias == alias else move.model_copy(update={"alias": alias}) for alias, move in held.items()
    }


def _refuse_unguarded(model: str, alias: Alias, version: str, expected_generation: int | None) -> None:
    if alias == "previous" or (alias == "champion" and expected_generation is None):
        raise AtelierError(
            f"{model}: {alias} cannot be moved to version {version} like this: `previous` follows from moving "
            "`champion`, and a move of `champion` must name the generation that it was decided on."
        )


def _superseded(model: str, alias: Alias, version: str, last: Move | None) -> Superseded:
    happened = (
        f"{last.actor} moved {last.alias} to version {last.version} at {last.created} ({last.reason})"
        if last is not None
        else "the ledger holds no move of this model at all"
    )
    return Superseded(
        f"{model}: {alias} was not moved to version {version}, for the ledger has changed since that was decided: "
        f"{happened}. Look at `atelier show {model}`, and promote again if you still want to."
    )
