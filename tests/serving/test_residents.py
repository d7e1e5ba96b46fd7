"""The models in memory: a champion that takes over, one that cannot, versions on demand, and what makes room."""

import threading
import time

import pytest

from components.errors import AtelierError
from serving import residents as module
from serving.batching import Batcher
from serving.release import Release
from serving.residents import Residents
from tests.serving.shop import Shop


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


def test_an_older_release_or_one_that_cannot_be_read_changes_nothing(shop, versions, held, tmp_path):
    older = shop.release(fashion={"champion": "1", "versions": versions})
    held.install(shop.release(fashion={"champion": "2", "versions": versions}))
    path = tmp_path / "release.json"
    path.write_text("{")
    held.watch(path)
    time.sleep(0.5)
    shop.write(path, older)
    time.sleep(0.5)
    assert champion(held) == "2"
    path.unlink()
    time.sleep(0.3)
    shop.write(path, shop.release(fashion={"champion": "3", "versions": versions}))
    until(lambda: champion(held) == "3")


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
