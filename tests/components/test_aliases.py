"""MLflow's aliases read without MLflow are what MLflow itself would tell."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from components import aliases, display
from components.errors import AtelierError


def test_a_database_that_mlflow_wrote_is_read_as_mlflow_reads_it(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'with space.db'}"
    with display.registry(uri) as client:
        for model in ("toy", "bare"):
            client.create_registered_model(model)
        for _ in "12":
            client.create_model_version("toy", "file:///nowhere")
        client.set_registered_model_alias("toy", "champion", "2")
        client.set_registered_model_alias("toy", "mine", "1")
    assert aliases.of_all(uri) == {"toy": {"champion": "2", "mine": "1"}, "bare": {}} == display.all_aliases(uri)


def test_where_there_is_no_database_yet_there_is_no_alias_and_none_is_made(tmp_path: Path) -> None:
    assert aliases.of_all(f"sqlite:///{tmp_path / 'mlflow.db'}") == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_a_database_that_cannot_be_read_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mlflow.db").write_bytes(content)
    with pytest.raises(AtelierError, match=r"MLflow at sqlite:.*cannot be read"):
        aliases.of_all(f"sqlite:///{tmp_path / 'mlflow.db'}")


class Pages(BaseHTTPRequestHandler):
    """Two pages of registered models, for whoever shows the token."""

    def do_GET(self) -> None:
        second = self.path.endswith("page_token=more%20")
        model = {"name": "b"} if second else {"name": "a", "aliases": [{"alias": "champion", "version": "3"}]}
        body = {"registered_models": [model], **({} if second else {"next_page_token": "more "})}
        self.send_response(200 if self.headers["Authorization"] == "Bearer t" else 401)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:
        """A test prints enough."""


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Pages) as held:
        threading.Thread(target=held.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{held.server_port}"
        held.shutdown()


def test_a_server_is_asked_page_by_page_as_its_own_client_would(server: str) -> None:
    assert aliases.of_all(server, headers={"Authorization": "Bearer t"}) == {"a": {"champion": "3"}, "b": {}}
    with pytest.raises(AtelierError, match="cannot be read: HTTP Error 401"):
        aliases.of_all(server)


def test_a_password_is_not_shown() -> None:
    assert aliases.without_password("postgresql://me:secret@host/db") == "postgresql://***@host/db"
    with pytest.raises(AtelierError, match=r"http://\*\*\*@127.0.0.1:1/"):
        aliases.of_all("http://me:secret@127.0.0.1:1/")
