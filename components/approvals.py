"""Who may approve a version, and the signatures that count: each over what exactly was approved, one per key.

Rows of the ledger like its others: added, never changed. Every function works in the connection that it is given, so
that a move and the count of what entitles to it are one transaction.
"""

import base64
import binascii
from collections.abc import Iterable

import sqlalchemy as sa

from components import provenance
from components.errors import AtelierError
from components.ledger_schema import APPROVALS, APPROVERS, PINS, REVOCATIONS, VERSIONS, now
from components.provenance import Signer
from components.records import Record
from components.spelling import unknown


class Approver(Record):
    """A person or a program whose key may approve, until it is revoked; the ledger keeps what it was given."""

    name: str
    key_id: str
    public_pem: str
    created: str
    revoked: str | None = None  # since when


class Approval(Record):
    """A version approved: the signature, in base64, is over its `statement`."""

    model: str
    version: str
    bundle: str
    verdict: str
    approver: str
    key_id: str
    signature: str
    created: str


def statement(*, model: str, version: str, bundle: str, verdict: str) -> bytes:
    """What an approver signs: which bytes, judged by which verdict, may serve as which version."""
    return provenance.canonical(
        {"statement": "approval", "model": model, "version": version, "bundle": bundle, "verdict": verdict}
    )


def approvers(connection: sa.Connection) -> list[Approver]:
    """Whoever was ever enrolled, in the order of enrolling; a revoked key is revoked under every name."""
    since = {row.key_id: row.created for row in connection.execute(sa.select(REVOCATIONS))}
    rows = connection.execute(sa.select(APPROVERS).order_by(APPROVERS.c.created))
    return [
        Approver.model_validate(
            {**row._asdict(), "revoked": since.get(_key(row.public_pem) or "") or since.get(row.key_id)}
        )
        for row in rows
    ]


def enrol(connection: sa.Connection, name: str, public_pem: str) -> Approver:
    """Let a key approve, under a name, for good; the same again changes nothing.

    An `AtelierError` where the name has another key, since whoever approved stays who it was; where the key has another
    name, since one key is one approver; and where it was revoked. A `ValueError` where the PEM holds no Ed25519 key.
    """
    public = provenance.public(public_pem)
    approver = Approver(name=name, key_id=provenance.key_id(public), public_pem=public, created=now())
    for known in approvers(connection):
        _refuse_other(known, approver)
        if known.name == name:
            return known
    connection.execute(sa.insert(APPROVERS).values(approver.model_dump(exclude={"revoked"})))
    return approver


def revoke(connection: sa.Connection, name: str) -> Approver:
    """Let the key of an approver approve nothing from now on, nor count for a move that is still to come.

    One that was revoked stays as it was. An `AtelierError` where nobody is enrolled under that name.
    """
    approver = _enrolled(connection, name)
    if approver is None:
        names = [known.name for known in approvers(connection)]
        raise AtelierError(unknown("approver", name, names) if names else "nobody is enrolled as an approver yet.")
    if approver.revoked is None:
        row = {"key_id": approver.key_id, "name": name, "created": now()}
        connection.execute(sa.insert(REVOCATIONS).values(row))
        return approver.model_copy(update={"revoked": row["created"]})
    return approver


def approve(connection: sa.Connection, model: str, version: str, *, name: str, signer: Signer) -> Approval:
    """Keep the approval of a version, signed with an enrolled key; a key's second one is its first.

    An `AtelierError` where there is no such version, or the key is not the one that `name` is enrolled with, or it was
    revoked.
    """
    _refuse_stranger(_enrolled(connection, name), name, signer)
    stated = _stated(connection, model, version)
    signature = base64.b64encode(signer.sign(statement(**stated))).decode()  # the same each time
    approval = Approval(**stated, approver=name, key_id=signer.key_id, signature=signature, created=now())
    mine = (APPROVALS.c.model == model) & (APPROVALS.c.version == version) & (APPROVALS.c.signature == signature)
    first = connection.execute(sa.select(APPROVALS).where(mine)).first()
    if first is not None:
        return Approval.model_validate(first._asdict())
    connection.execute(sa.insert(APPROVALS).values(approval.model_dump()))
    return approval


def given(connection: sa.Connection, model: str, version: str, *, at: str | None = None) -> list[Approval]:
    """The approvals of a version that count, oldest first: signed by enrolled keys, not revoked (by then, with `at`),
    one per key.
    """
    of_version = (APPROVALS.c.model == model) & (APPROVALS.c.version == version)
    rows = connection.execute(sa.select(APPROVALS).where(of_version).order_by(APPROVALS.c.created)).all()
    if not rows:
        return []
    stated = statement(**_stated(connection, model, version))
    return _counted((Approval.model_validate(row._asdict()) for row in rows), approvers(connection), stated, at)


def needed(connection: sa.Connection, model: str, version: str) -> int:
    """How many approvals a version needs to become champion: what its recipe asked for when it was registered."""
    pinned = (PINS.c.model == model) & (PINS.c.name == "approvals") & (PINS.c.key == version)
    return int(connection.execute(sa.select(PINS.c.digest).where(pinned)).scalar() or 0)


def refuse_unapproved(connection: sa.Connection, model: str, version: str, *, at: str | None = None) -> None:
    """Raise an `AtelierError` where a version has fewer approvals that count than it needs to become champion.

    With `at`, as for one that became champion then: a key that was revoked later still counts.
    """
    asked = needed(connection, model, version)
    if not asked or len(counted := given(connection, model, version, at=at)) >= asked:
        return
    who = f" (of {', '.join(approval.approver for approval in counted)})" if counted else ""
    raise AtelierError(
        f"{model}@{version} cannot become champion yet: it has {len(counted)} of the {asked} approvals that its "
        f"recipe asked for when it was registered{who}. `atelier approve {model}@{version} --as NAME` gives one; "
        "each must be signed with another key that is not revoked, and `atelier keys add-approver NAME PUBLIC.pem` "
        "enrols one."
    )


def _enrolled(connection: sa.Connection, name: str) -> Approver | None:
    return next((approver for approver in approvers(connection) if approver.name == name), None)


def _refuse_other(known: Approver, approver: Approver) -> None:
    """Raise an `AtelierError` where a name or a key that is to be enrolled is taken, or the key revoked."""
    same_name, same_key = known.name == approver.name, known.key_id == approver.key_id
    if same_key and known.revoked:
        raise AtelierError(
            f"the key {known.key_id} of {known.name} was revoked at {known.revoked}, for good. Enrol a new key under a "
            "new name."
        )
    if same_name and not same_key:
        raise AtelierError(
            f"{known.name} is enrolled with the key {known.key_id}, and this one is {approver.key_id}. Approvers keep "
            "their keys for good; enrol a new key under a new name."
        )
    if same_key and not same_name:
        raise AtelierError(
            f"the key {known.key_id} is enrolled as {known.name} already, and one key is one approver. Approve as "
            f"{known.name}, or enrol a key of {approver.name}'s own."
        )


def _refuse_stranger(enrolled: Approver | None, name: str, signer: Signer) -> None:
    if enrolled is None or enrolled.key_id != signer.key_id:
        known = f"is enrolled with the key {enrolled.key_id}" if enrolled else "is not enrolled as an approver"
        raise AtelierError(
            f"{name} {known}, so an approval with the key {signer.key_id} would not count. Enrol its public key first, "
            f"with `atelier keys add-approver {name} PUBLIC.pem`, or name the approver whose key it is."
        )
    if enrolled.revoked is not None:
        raise AtelierError(
            f"the key {enrolled.key_id} of {name} was revoked at {enrolled.revoked}, so it approves nothing. Enrol a "
            "new key under a new name, and approve with that."
        )


def _stated(connection: sa.Connection, model: str, version: str) -> dict[str, str]:
    """What an approval of a version is about; an `AtelierError` where there is no such version."""
    named = (VERSIONS.c.model == model) & (VERSIONS.c.version == version)
    row = connection.execute(sa.select(VERSIONS.c.bundle, VERSIONS.c.verdict).where(named)).first()
    if row is None:
        raise AtelierError(
            f"the ledger knows no version {version} of {model}; `atelier ls` lists those that there are."
        )
    return {"model": model, "version": version, "bundle": row.bundle, "verdict": row.verdict}


def _counted(approvals: Iterable[Approval], known: Iterable[Approver], stated: bytes, at: str | None) -> list[Approval]:
    """Those signed over that statement by the enrolled key of their approver, the first of each key."""
    enrolled = {
        approver.name: approver.public_pem
        for approver in known
        if approver.revoked is None or (at is not None and approver.revoked > at)
    }
    valid: dict[str, Approval] = {}
    for approval in approvals:
        key = _signing_key(approval, enrolled.get(approval.approver), stated)
        if key is not None:  # the key itself, whatever the row calls it: two names do not make two of it
            valid.setdefault(key, approval)
    return list(valid.values())


def _signing_key(approval: Approval, public_pem: str | None, stated: bytes) -> str | None:
    if public_pem is None:
        return None
    try:
        signature = base64.b64decode(approval.signature, validate=True)
        return _key(public_pem) if provenance.signed_by(public_pem, signature, stated) else None
    except (binascii.Error, ValueError):
        return None


def _key(public_pem: str) -> str | None:
    try:
        return provenance.key_id(public_pem)
    except ValueError:
        return None
