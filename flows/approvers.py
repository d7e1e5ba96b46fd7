"""Who may approve: enrolled by a public key, and revoked; and the approvals that they give.

A private key need never come here: two approvals mean two people where each keeps their own. `init` makes one in the
workspace for whoever is content with that.
"""

from pathlib import Path
from typing import Any

from components import provenance
from components.approvals import Approver
from components.errors import AtelierError
from components.ledger import Ledger
from components.provenance import Signer
from components.store import write_atomically
from flows.keys import PRIVATE, refuse_odd, shut, signer_of, turn
from flows.workspace import Workspace

LARGEST = 2**16  # bytes of a file with a public key


def init(place: Workspace, name: str) -> dict[str, Any]:
    """The key pair of an approver, made in the workspace where there is none, and enrolled in the ledger."""
    refuse_odd("approver", name)
    private = _private(place, name)
    with turn(place):
        made = not private.is_file()
        pem = provenance.new_key() if made else private.read_bytes()
        signer = signer_of(private, pem)
        if made:
            shut(place.secrets)
            write_atomically(private, pem, mode=PRIVATE)  # first: who is enrolled has the key
        try:
            approver = Ledger(place.ledger_url).enrol(name, signer.public_pem)
        except AtelierError:
            if made:
                private.unlink()
            raise
    return {**_shown(approver), "made": made, "private": str(private)}


def add(place: Workspace, name: str, public: Path) -> dict[str, Any]:
    """Enrol an approver by the file of a public key; the private one stays with its owner."""
    refuse_odd("approver", name)
    return _shown(Ledger(place.ledger_url).enrol(name, _public(public)))


def revoke(place: Workspace, name: str) -> dict[str, Any]:
    """Let an approver's key approve nothing more, nor what it approved count for moves that are still to come."""
    return _shown(Ledger(place.ledger_url).revoke(name))


def approve(place: Workspace, named: str, *, name: str, key: Path | None = None) -> dict[str, Any]:
    """Approve `MODEL@VERSION`, or its alias, with an approver's key, which lies in the workspace unless named."""
    from flows import listing

    if "@" not in named:
        raise AtelierError(f"name the version that is approved, as in {named}@2: an approval is of one version")
    refuse_odd("approver", name)
    path = key or _private(place, name)
    if not path.is_file():
        raise AtelierError(
            f"there is no key {path} to approve with. --key FILE names the private key whose public one was enrolled "
            f"with `atelier keys add-approver {name} PUBLIC.pem`; `atelier keys init-approver {name}` makes a pair."
        )
    version = listing.find(place, named)
    ledger = Ledger(place.ledger_url)
    approval = ledger.approve(version.model, version.version, name=name, signer=Signer.read(path))
    given = ledger.approvals(version.model, version.version)
    return {
        "schema": 1,
        **approval.model_dump(mode="json"),
        "given": [{"approver": one.approver, "key_id": one.key_id, "created": one.created} for one in given],
        "needed": ledger.approvals_needed(version.model, version.version),
    }


def _private(place: Workspace, name: str) -> Path:
    return place.secrets / "approvers" / f"{name}.pem"


def _public(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return provenance.public(file.read(LARGEST).decode("ascii"))
    except OSError as error:
        raise AtelierError(f"the public key {path} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise AtelierError(
            f"{path} holds no public Ed25519 key in PEM. `openssl genpkey -algorithm ed25519 -out mine.pem` makes a "
            f"pair, and `openssl pkey -in mine.pem -pubout -out {path.name}` writes its public key; mine.pem stays "
            "with its owner."
        ) from None


def _shown(approver: Approver) -> dict[str, Any]:
    return {"schema": 1, **approver.model_dump(mode="json", include={"name", "key_id", "created", "revoked"})}
