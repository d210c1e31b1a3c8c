"""Who the dashboard answers: no page of another site, and no name that somebody else can point at this machine."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
from collections.abc import Iterator

import pytest

from nas_attn.cli import dashboard
from nas_attn.cli.dashboard import make_dashboard, serve
from nas_attn.cli.dashboard_guard import is_loopback, refusal
from nas_attn.errors import Interrupted


@pytest.fixture(scope="module")
def port(root, tmp_path_factory) -> Iterator[int]:
    run = shutil.copytree(root / "tests" / "old_runs" / "finished", tmp_path_factory.mktemp("dashboard") / "run")
    with make_dashboard(run, host="127.0.0.1", port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def ask(port: int, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST", "[::1]:{port}", "192.0.2.7"])
def test_its_own_names_are_answered(port, host):
    assert ask(port, "GET", "/report", Host=host.format(port=port))[0] == 200


@pytest.mark.parametrize("host", ["evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", "[", ""])
@pytest.mark.parametrize("path", ["/report", "/api/studies", "/dashboard"])
def test_a_name_of_somebody_else_is_refused(port, host, path):
    status, body = ask(port, "GET", path, Host=host.format(port=port))
    assert status == 403
    assert "was asked as" in json.loads(body)["reason"]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://[", ""])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_a_page_of_another_site_is_refused(port, origin, method):
    status, body = ask(port, method, "/api/studies", Host=f"127.0.0.1:{port}", Origin=origin)
    assert status == 403
    assert "was asked by a page of" in json.loads(body)["reason"]


def test_its_own_page_is_answered(port):
    own = f"127.0.0.1:{port}"
    assert ask(port, "GET", "/api/studies", Host=own, Origin=f"http://{own}")[0] == 200


def test_the_host_that_it_listens_on_is_its_own():
    assert refusal({"HTTP_HOST": "gpu-box.lab:8080"}, ("gpu-box.lab",)) is None
    assert refusal({"HTTP_HOST": "gpu-box.lab:8080"}) is not None
    assert refusal({}) is None


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_it_warns_where_others_can_read_it(monkeypatch, tmp_path, host, warned):
    class Ended:
        server_port = 1

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def serve_forever(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(dashboard, "make_dashboard", lambda run, *, host, port: Ended())
    said: list[str] = []
    with pytest.raises(Interrupted, match="The dashboard has stopped; the run is not affected") as ended:
        serve(tmp_path, host=host, port=0, announce=said.append)
    assert ended.value.exit_code == 130
    assert any("can read this run" in line for line in said) is warned
    assert is_loopback(host) is not warned
