"""MLflow's pages as a person uses them, by what is written on them; made for the new registry of MLflow 3.17."""

import re
import time

from playwright.sync_api import Locator, Page, expect


def open_version(page: Page, server: str, model: str, version: str) -> Locator:
    """The page of one version, and on it the place that shows its aliases."""
    page.goto(f"{server}/#/models/{model}/versions/{version}")
    page.reload()  # the address differs behind its # only, which alone brings nothing new from the server
    page.get_by_role("heading", name=f"Version {version}", exact=True).wait_for()
    label = page.get_by_test_id("descriptions-item-label").get_by_text("Aliases", exact=True)
    return page.get_by_test_id("descriptions-item").filter(has=label)


def move_alias(page: Page, server: str, model: str, version: str, alias: str) -> float:
    """Give `alias` to a version as a person does, wherever it was before; when it was saved, by the monotonic clock."""
    open_version(page, server, model, version).get_by_role("button").click()  # "Add", or a pencil
    dialog = page.get_by_role("dialog").filter(has_text="Add/Edit alias for model version")
    dialog.get_by_role("combobox").fill(alias)
    dialog.get_by_role("combobox").press("Enter")
    expect(dialog.get_by_role("status", name=alias, exact=True)).to_be_visible()
    save = dialog.get_by_role("button", name=re.compile("Save"))
    with page.expect_response(lambda answer: answer.url.endswith("/registered-models/alias")) as saved:
        clicked = time.monotonic()
        save.click()
    assert saved.value.ok, saved.value.text()
    expect(dialog).to_be_hidden()
    return clicked
