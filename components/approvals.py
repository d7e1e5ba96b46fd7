"""Who may approve a version, and the signatures that count: each over what exactly was approved, one per key."""

import base64
import binascii
from collections.abc import Iterable

from components import provenance
from components.records import Record


class Approver(Record):
    """A person or a program whose key may approve; for good, since the ledger keeps what it was given."""

    name: str
    key_id: str
    public_pem: str
    created: str


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


def counted(approvals: Iterable[Approval], approvers: Iterable[Approver], stated: bytes) -> list[Approval]:
    """Those signed over that statement by the enrolled key of their approver, the first of each key."""
    enrolled = {approver.name: approver.public_pem for approver in approvers}
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
        return provenance.key_id(public_pem) if provenance.signed_by(public_pem, signature, stated) else None
    except (binascii.Error, ValueError):
        return None
