"""The ledger's tables, and how a database that holds them is opened and written to, one writer at a time."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import NullPool

from components.errors import AtelierError
from components.process import locked

PATIENCE = 30  # seconds that a writer waits for another one
DISPLAY_PATIENCE = 15  # the same of who displays
LOCK = 0x6C6564676572  # "ledger": the advisory lock of all writers on PostgreSQL
DISPLAY = LOCK + 1  # that of those who display

METADATA = sa.MetaData()
VERDICTS = sa.Table(
    "verdicts",
    METADATA,
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("candidate", sa.String, nullable=False),
    sa.Column("family", sa.String, nullable=False),
    sa.Column("bundle", sa.String, nullable=False),
    sa.Column("passed", sa.Boolean, nullable=False),
    sa.Column("record", sa.Text, nullable=False),  # the verdict's JSON: its fingerprint is the digest
    sa.Column("run", sa.String, nullable=False),
    sa.Column("created", sa.String, nullable=False),
    sa.Index("verdicts_of_bundle", "model", "bundle"),
)
VERSIONS = sa.Table(
    "versions",
    METADATA,
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("version", sa.String, primary_key=True),
    sa.Column("modality", sa.String, nullable=False),
    sa.Column("family", sa.String, nullable=False),
    sa.Column("bundle", sa.String, nullable=False),
    sa.Column("verdict", sa.String, nullable=False),
    sa.Column("data", sa.String, nullable=False),
    sa.Column("commit", sa.String),
    sa.Column("recipe", sa.String, nullable=False),
    sa.Column("run", sa.String, nullable=False),
    sa.Column("pointers", sa.Text, nullable=False),
    sa.Column("created", sa.String, nullable=False),
    sa.UniqueConstraint("model", "bundle"),
)
MOVES = sa.Table(
    "moves",
    METADATA,
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("model", sa.String, nullable=False, index=True),
    sa.Column("alias", sa.String, nullable=False),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("previous", sa.String),
    sa.Column("bundle", sa.String, nullable=False),
    sa.Column("verdict", sa.String, nullable=False),
    sa.Column("actor", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("created", sa.String, nullable=False),
)
PINS = sa.Table(
    "pins",
    METADATA,
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("created", sa.String, nullable=False),
)
APPROVERS = sa.Table(
    "approvers",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("key_id", sa.String, nullable=False),
    sa.Column("public_pem", sa.Text, nullable=False),
    sa.Column("created", sa.String, nullable=False),
)
APPROVALS = sa.Table(
    "approvals",
    METADATA,
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("version", sa.String, primary_key=True),
    sa.Column("signature", sa.String, primary_key=True),  # a row that was forged keeps no true one out
    sa.Column("key_id", sa.String, nullable=False),
    sa.Column("bundle", sa.String, nullable=False),
    sa.Column("verdict", sa.String, nullable=False),
    sa.Column("approver", sa.String, nullable=False),
    sa.Column("created", sa.String, nullable=False),
)
REVOCATIONS = sa.Table(
    "revocations",
    METADATA,
    sa.Column("key_id", sa.String, primary_key=True),  # an approver's, whatever names it was enrolled under
    sa.Column("name", sa.String, nullable=False),
    sa.Column("created", sa.String, nullable=False),
)

KEPT = "the ledger is append-only"
FUNCTION = f"""CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger AS $$
BEGIN RAISE EXCEPTION '{KEPT}'; END $$ LANGUAGE plpgsql"""


def _keep(table: sa.Table) -> None:
    """Let the database itself refuse whatever is not an addition."""
    unique = (sa.PrimaryKeyConstraint, sa.UniqueConstraint)
    keys = [constraint.columns for constraint in table.constraints if isinstance(constraint, unique)]
    same = " OR ".join(" AND ".join(f'"{column.name}" = NEW."{column.name}"' for column in key) for key in keys)
    known = f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {same})"  # INSERT OR REPLACE deletes without firing DELETE
    refuse = f"BEGIN SELECT RAISE(ABORT, '{KEPT}'); END"
    for verb, when in {"UPDATE": "", "DELETE": "", "INSERT": known}.items():
        _after(table, "sqlite", f"CREATE TRIGGER {table}_{verb} BEFORE {verb} ON {table} {when} {refuse}")
    _after(table, "postgresql", FUNCTION)
    verbs = "BEFORE UPDATE OR DELETE OR TRUNCATE"
    _after(table, "postgresql", f"CREATE TRIGGER {table}_kept {verbs} ON {table} EXECUTE FUNCTION refuse_change()")


def _after(table: sa.Table, dialect: str, statement: str) -> None:
    event.listen(table, "after_create", sa.DDL(statement).execute_if(dialect=dialect))  # type: ignore[no-untyped-call]


for _table in METADATA.sorted_tables:
    _keep(_table)


def now() -> str:
    """The time as rows tell it: UTC, to the microsecond, so that their order is that of the text."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def connect(url: str) -> sa.Engine:
    """The database of that URL, with the tables made where they are missing; its folder too, for SQLite."""
    target = sa.make_url(url)
    if target.get_backend_name() == "sqlite":
        Path(target.database or "").parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(target, poolclass=NullPool, connect_args={"timeout": PATIENCE})
        event.listen(engine, "connect", _transactions_are_ours)
    else:
        engine = sa.create_engine(target, poolclass=NullPool)
    event.listen(engine, "begin", _begin)
    if not set(METADATA.tables) <= set(sa.inspect(engine).get_table_names()):
        if engine.dialect.name == "sqlite":
            with closing(engine.raw_connection()) as raw:
                raw.cursor().execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
        with writing(engine) as connection:
            METADATA.create_all(connection)
    return engine


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that begins once no other writer is at work, so that what it reads is still true as it writes."""
    with engine.execution_options(writes=True).begin() as connection:
        yield connection


@contextmanager
def displaying(engine: sa.Engine) -> Iterator[None]:
    """The turn of those who display the ledger, one at a time; writers wait for none. It ends with its process.

    An `AtelierError` where another one keeps it for too long.
    """
    with _turn(engine) as taken:
        until = time.monotonic() + DISPLAY_PATIENCE
        while not taken():
            if time.monotonic() > until:
                raise AtelierError(
                    f"another command has been showing the ledger in MLflow for {DISPLAY_PATIENCE} s: MLflow is slow, "
                    "or hangs. The ledger holds; once MLflow answers, `atelier up` shows in it what the ledger says."
                )
            time.sleep(0.02)
        yield


@contextmanager
def _turn(engine: sa.Engine) -> Iterator[Callable[[], bool]]:
    """What tries to take the turn; it is given back with the block."""
    if engine.dialect.name == "sqlite":
        with Path(f"{engine.url.database}-displaying").open("a") as file:
            yield lambda: locked(file.fileno())
    else:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield lambda: bool(connection.execute(sa.select(sa.func.pg_try_advisory_lock(DISPLAY))).scalar())


def _transactions_are_ours(connection: object, _: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]  # else sqlite3 begins by itself, without a lock


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
    elif writes:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
