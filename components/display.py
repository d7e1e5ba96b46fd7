"""What MLflow shows of the ledger: the aliases, a remark where one was put back, and the webhook that tells of moves.

MLflow is asked and told, never believed: whoever can open it can move an alias, write a tag or a description.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from components import mlflow_database
from components.aliases import without_password
from components.errors import AtelierError
from components.ledger import ALIASES, Alias, Display, Ledger

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EVENTS = ("model_version_alias.created", "model_version_alias.deleted", "model_version.created")
REFUSED = "atelier.refused"
REMARK = "**Put back by Atelier, "  # how the paragraphs of ours in a description begin
REMARKS = 3  # of ours that a description keeps
REMARK_LENGTH = 700
DESCRIPTION_LENGTH = 5000  # what MLflow's database takes


def show(
    tracking_uri: str,
    model: str,
    ledger: Ledger,
    *,
    put_back: Mapping[Alias, str | None] | None = None,
    granted: Mapping[Alias, str | None] | None = None,
) -> tuple[Alias, ...]:
    """Make MLflow's aliases what the ledger says, and return those that were not.

    One displays at a time, and notes in the ledger which generation it showed, so that none leaves older aliases than
    another; the ledger may be moved meanwhile, and whoever moves it displays next. An alias that someone moved in
    MLflow, and the ledger did not since, is left to the controller to judge; `put_back` names those that it refused,
    with the version that each was seen at, `granted` those that the ledger was made to follow. One that both moved is
    the ledger's, and the version that it is taken from gets a remark.
    """
    refused = put_back or {}
    if not refused and ledger.displayed(model, tracking_uri).done:
        return ()
    with ledger.displaying(model, tracking_uri) as noted, registry(tracking_uri) as client:
        due, seen = noted.following(granted or {}), _aliases(client, model)
        changed = tuple(alias for alias in ALIASES if _is_due(due, alias, seen.get(alias), refused))
        for alias in changed:
            _set(client, model, alias, due.now.get(alias))
    for alias in changed:
        if alias in seen and due.moved(alias) and due.by_hand(alias, seen[alias]):
            why = "the ledger moved this alias at the same time, and was first"
            remark(tracking_uri, model, seen[alias], alias, why)
    return changed


def aliases(tracking_uri: str, model: str) -> dict[str, str]:
    """The versions that MLflow's aliases point to, whoever moved them; empty where MLflow does not know the model."""
    with registry(tracking_uri) as client:
        return _aliases(client, model)


def all_aliases(tracking_uri: str) -> dict[str, dict[str, str]]:
    """Those of every registered model."""
    found: dict[str, dict[str, str]] = {}
    token: str | None = None
    with registry(tracking_uri) as client:
        while token != "":
            page = client.search_registered_models(max_results=500, page_token=token)
            found |= {held.name: {alias: str(v) for alias, v in held.aliases.items()} for held in page}
            token = page.token or ""
    return found


def remark(tracking_uri: str, model: str, version: str, alias: Alias, why: str) -> None:
    """Say on the page of a version why `alias` was taken from it, or given back to it: a paragraph and a tag.

    MLflow has no comments on versions, so the paragraph is added to the description, which keeps the last few.
    """
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    words = " ".join(why.split())[:REMARK_LENGTH]
    paragraph = f"{REMARK}{when}:** `{alias}`: {words}"
    with registry(tracking_uri) as client:
        held = client.get_model_version(model, version)
        parts = (held.description or "").split("\n\n")
        own = [part for part in parts if part.startswith(REMARK)]
        text = "\n\n".join(part for part in parts if not part.startswith(REMARK))
        kept = [*own, paragraph][-REMARKS:]
        while kept and len("\n\n".join([text, *kept])) > DESCRIPTION_LENGTH:
            kept.pop(0)
        client.update_model_version(model, version, "\n\n".join([text, *kept]).lstrip())
        client.set_model_version_tag(model, version, REFUSED, f"{alias}, {when}: {words}")


def subscribe(server: str, *, name: str, url: str, secret: str) -> None:
    """Make sure that the MLflow server tells `url` of moved aliases, signed with `secret`, once."""
    with registry(server) as client:
        held = [hook for page in _pages(client) for hook in page if hook.name == name]
        for spare in held[1:]:
            client.delete_webhook(spare.webhook_id)
        if held:  # its secret cannot be read, so it is set again
            client.update_webhook(held[0].webhook_id, url=url, events=list(EVENTS), secret=secret, status="ACTIVE")
        else:
            client.create_webhook(name, url, list(EVENTS), "Wakes the controller of Atelier.", secret)


@contextmanager
def registry(tracking_uri: str) -> "Iterator[MlflowClient]":
    """MLflow's client; what goes wrong with it is told in one paragraph."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    try:
        mlflow_database.make_whole(tracking_uri)
        yield MlflowClient(tracking_uri, registry_uri=tracking_uri)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise AtelierError(
            f"the registry of MLflow at {without_password(tracking_uri)} refused: {' '.join(str(error).split())}. Mend "
            "that and run the same command again: what was finished is kept."
        ) from error


def _aliases(client: "MlflowClient", model: str) -> dict[str, str]:
    held = client.search_registered_models(f"name = '{model}'")
    return {alias: str(version) for registered in held for alias, version in registered.aliases.items()}


def _is_due(due: Display, alias: Alias, seen: str | None, refused: Mapping[Alias, str | None]) -> bool:
    """Whether an alias is to be set to what the ledger says: it differs, and nobody's wish is still to be judged."""
    put_back = alias in refused and refused[alias] == seen
    return seen != due.now.get(alias) and (put_back or due.moved(alias) or not due.by_hand(alias, seen))


def _set(client: "MlflowClient", model: str, alias: Alias, version: str | None) -> None:
    if version is None:
        client.delete_registered_model_alias(model, alias)
    else:
        client.set_registered_model_alias(model, alias, version)


def _pages(client: "MlflowClient") -> "Iterator[list]":  # type: ignore[type-arg]
    page = client.list_webhooks()
    yield page
    while page.token:
        page = client.list_webhooks(page_token=page.token)
        yield page
