"""The models in memory: a champion that takes over, one that cannot, versions on demand, and what makes room."""

import threading
import time

import pytest
from starlette.testclient import TestClient

from components.errors import AtelierError
from serving import residents as module
from serving.batching import Batcher, Busy
from serving.release import Release
from serving.residents import Residents
from tests.serving.shop import Shop, application, close


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def versions(shop):
    return {str(number): shop.served(latent_dim=number) for number in range(1, 9)}


@pytest.fixture
def held(shop):
    batcher = Batcher()
    residents = Residents(batcher, shop.place)
    yield residents
    residents.close()
    batcher.close()


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def champion(residents, model="fashion"):
    return residents.view.champions[model].version


def test_a_new_champion_takes_over_while_the_old_one_answers_to_the_last(shop, versions, held, tmp_path):
    path = shop.write(tmp_path / "release.json", shop.release(fashion={"champion": "1", "versions": versions}))
    held.install(Release(number=0))
    held.watch(path)
    until(lambda: "fashion" in held.view.champions)
    old, seen, stop = held.view.champions["fashion"], [], threading.Event()

    def ask():
        while not stop.is_set():
            resident = held.view.champions["fashion"]
            resident.endpoint.generate([1])
            seen.append(resident.version)

    asking = threading.Thread(target=ask)
    asking.start()
    shop.write(path, shop.release(fashion={"champion": "2", "previous": "1", "versions": versions}))
    until(lambda: champion(held) == "2")
    stop.set()
    asking.join()
    assert seen == sorted(seen) and "1" in seen
    assert held.fetch("fashion", "1").result(0) is old, "the previous one stays in memory, for a rollback"


def test_a_champion_that_cannot_be_loaded_leaves_the_old_one_and_is_tried_again(
    shop, versions, held, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.1)
    held.install(shop.release(fashion={"champion": "1", "versions": versions}))
    new = shop.served(latent_dim=20)
    weights = shop.place(new) / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    release = shop.release(
        fashion={"champion": "20", "versions": versions | {"20": new}}, other={"champion": "1", "versions": versions}
    )
    held.watch(shop.write(tmp_path / "release.json", release))
    until(lambda: held.view.release.number == release.number and "fashion" in held.view.troubles)
    assert champion(held) == "1" and "does not match its digest" in held.view.troubles["fashion"]
    until(lambda: held.view.champions.get("other"))
    weights.write_bytes(content)
    until(lambda: champion(held) == "20")
    assert not held.view.troubles


def test_where_it_must_be_whole_a_champion_that_cannot_be_loaded_is_an_error(shop, versions, held):
    lost = shop.served(latent_dim=21)
    (shop.place(lost) / "config.json").write_text("{}")
    with pytest.raises(AtelierError, match="does not match its digest"):
        held.install(shop.release(fashion={"champion": "1", "versions": {"1": lost}}), strict=True)


def test_a_release_that_cannot_be_read_or_was_moved_away_changes_nothing(shop, versions, held, tmp_path):
    held.install(shop.release(fashion={"champion": "2", "versions": versions}))
    path = tmp_path / "release.json"
    path.write_text("{")
    held.watch(path)
    time.sleep(0.5)
    path.unlink()
    time.sleep(0.5)
    assert champion(held) == "2"
    shop.write(path, shop.release(fashion={"champion": "3", "versions": versions}))
    until(lambda: champion(held) == "3")


def test_the_release_of_a_ledger_that_was_put_back_is_followed_though_its_number_is_lower(
    shop, versions, held, tmp_path
):
    older = shop.release(fashion={"champion": "1", "versions": versions})
    path = shop.write(tmp_path / "release.json", shop.release(fashion={"champion": "2", "versions": versions}))
    held.watch(path)
    until(lambda: "fashion" in held.view.champions and champion(held) == "2")
    path.unlink()  # as the publisher asks for
    shop.write(path, older)
    until(lambda: champion(held) == "1")
    assert held.view.release.number == older.number


def test_a_version_asked_for_by_many_at_once_is_loaded_once(shop, versions, held):
    held.install(shop.release(fashion={"champion": "1", "versions": versions}))
    assert len({id(held.fetch("fashion", "2")) for _ in range(8)}) == 1
    assert held.fetch("fashion", "2").result(10).version == "2"


def test_versions_without_an_alias_make_room_for_others_and_those_with_one_stay(shop, versions, held):
    aliases = {"champion": "1", "challenger": "2", "previous": "3"}
    held.install(shop.release(fashion={**aliases, "versions": versions}))
    for version in ("2", "3", "4", "5", "6", "7", "4", "8"):
        held.fetch("fashion", version).result(10)
    until(lambda: len(held._held) == 3 + module.SPARE)
    kept = {version for _, version in held._held}
    assert {"1", "2", "3", "4", "8"} <= kept and "5" not in kept, "the one used least lately goes first"


def test_a_model_that_leaves_the_release_is_no_longer_served(shop, versions, held):
    held.install(shop.release(fashion={"champion": "1", "versions": versions}))
    held.install(shop.release(other={"champion": "2", "versions": versions}))
    assert set(held.view.champions) == {"other"}


def test_a_champion_that_was_withdrawn_answers_no_more_and_its_model_says_so(shop, versions):
    parts = shop.parts(shop.release(fashion={"champion": "1", "previous": "2", "versions": versions}))
    client = TestClient(application(parts))
    assert client.post("/v1/generate", json={"model": "fashion"}).status_code == 200
    fewer = {version: served for version, served in versions.items() if version != "1"}
    parts.residents.install(shop.release(fashion={"previous": "2", "versions": fewer}))
    refused = client.post("/v1/generate", json={"model": "fashion"})
    assert refused.status_code == 404 and refused.json()["error"]["code"] == "model_not_found"
    assert "no champion that may be served" in refused.json()["error"]["message"]
    assert "fashion@previous" in refused.json()["error"]["message"]
    assert client.post("/v1/generate", json={"model": "fashion@1"}).status_code == 404
    assert client.post("/v1/generate", json={"model": "fashion@previous"}).headers["X-Model-Version"] == "2"
    assert client.get("/v1/models").json()["data"] == []
    close(parts)


def test_a_withdrawn_champion_goes_though_the_one_after_it_cannot_be_loaded(shop, versions, held):
    held.install(shop.release(fashion={"champion": "1", "versions": versions}))
    lost = shop.served(latent_dim=22)
    (shop.place(lost) / "model.safetensors").unlink()
    held.install(shop.release(fashion={"champion": "2", "versions": {"2": lost}}))
    assert not held.view.champions and "could not be loaded" in held.view.troubles["fashion"]


def test_a_champion_whose_bytes_are_lost_goes_on_being_served_from_memory(shop, held):
    served = {"1": shop.served(latent_dim=23)}
    held.install(shop.release(fashion={"champion": "1", "versions": served}))
    before = held.view.champions["fashion"]
    shop.place(served["1"]).rename(shop.root / "lost")
    held.install(shop.release(fashion={"champion": "1", "versions": served}))
    assert held.view.champions["fashion"] is before and before.endpoint.generate([1]) and not held.view.troubles


class Slow:
    """Where bundles lie, told only when `go` is set, for all but those of some versions."""

    def __init__(self, shop, *quick):
        self.shop, self.quick, self.go, self.asked = shop, {served.digest for served in quick}, threading.Event(), []

    def __call__(self, served):
        self.asked.append(served.digest)
        if served.digest not in self.quick:
            self.go.wait(10)
        return self.shop.place(served)


@pytest.fixture
def slow(shop, versions):
    """Parts whose champion 1 is in memory, and whose store is slow for all but the versions 1, 7 and 8."""
    parts = shop.parts(shop.release())
    located = Slow(shop, *(versions[version] for version in "178"))
    parts.residents._locate = located
    parts.residents.install(shop.release(fashion={"champion": "1", "versions": versions}))
    yield parts, located
    located.go.set()
    close(parts)


def test_requests_for_other_versions_hold_no_champion_up(shop, versions, slow):
    parts, located = slow
    others = {version: parts.residents.fetch("fashion", version) for version in "2348"}
    parts.residents.install(shop.release(fashion={"champion": "8", "versions": versions}))
    assert champion(parts.residents) == "8", "though a request had asked for it, and waits behind others"
    assert others["8"].result(0) is parts.residents.view.champions["fashion"]
    assert not any(others[version].done() for version in "234")
    located.go.set()
    assert [others[version].result(10).version for version in "234"] == list("234")
    assert sorted(located.asked) == sorted(versions[version].digest for version in "12348"), "each was loaded once"


def test_beyond_a_few_versions_that_wait_a_request_is_told_when_to_come_again(shop, versions, slow):
    parts, located = slow
    client = TestClient(application(parts))
    coming = [parts.residents.fetch("fashion", "2")]
    until(lambda: versions["2"].digest in located.asked)
    coming += [parts.residents.fetch("fashion", version) for version in "3456"]
    assert len(coming) == 1 + module.MOST_WAITING
    refused = client.post("/v1/generate", json={"model": "fashion@7"})
    assert refused.status_code == 503 and refused.headers["Retry-After"] == "5", refused.text
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "model_loading") and "fashion@7" in error["message"]
    assert "/v1/generate" in (paths := client.get("/v1/openapi.json").json()["paths"])
    assert "Retry-After" in paths["/v1/generate"]["post"]["responses"]["503"]["headers"]
    assert client.post("/v1/generate", json={"model": "fashion"}).status_code == 200, "what is in memory answers"
    assert parts.residents.fetch("fashion", "6") is coming[-1], "who asks for one that waits joins in"
    with pytest.raises(Busy):
        parts.residents.fetch("fashion", "8")
    located.go.set()
    assert [future.result(10).version for future in coming] == list("23456")
    assert client.post("/v1/generate", json={"model": "fashion@7"}).headers["X-Model-Version"] == "7"


def test_who_waits_for_a_version_as_the_server_stops_is_told_so(versions, slow):
    parts, located = slow
    client, answers = TestClient(application(parts)), []
    parts.residents.fetch("fashion", "2")
    until(lambda: versions["2"].digest in located.asked)
    asking = threading.Thread(target=lambda: answers.append(client.post("/v1/generate", json={"model": "fashion@3"})))
    asking.start()
    until(lambda: ("fashion", "3") in parts.residents._held)
    threading.Timer(0.2, located.go.set).start()
    parts.residents.close()
    asking.join(10)
    assert answers[0].status_code == 503 and answers[0].json()["error"]["code"] == "stopping"
