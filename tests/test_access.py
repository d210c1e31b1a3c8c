"""Who enters a Ray session: nobody without its token; and what is said about an address that is no cluster."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nas_attn.config import Resources
from nas_attn.errors import ConfigError
from nas_attn.executors.access import environment, own_token, refuse_without_loopback, users_token
from nas_attn.executors.address import refuse_other_address, refuse_without_token, token_source, wrong_token
from nas_attn.executors.tune import TuneExecutor

CLIENT = """
import sys
from ray._raylet import GcsClient
GcsClient(address=sys.argv[1])
"""

PORTS = """
import os, sys, psutil
from nas_attn.config import Resources
from nas_attn.executors.ray_session import ray_session
with ray_session(Resources(workers=1)):
    import ray
    token = os.environ["RAY_AUTH_TOKEN"]
    me = psutil.Process()
    ours = [me, *me.children(recursive=True)]
    open_to = {c.laddr.ip for p in ours for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    shown = [p.pid for p in ours if token in " ".join(p.cmdline())]
    client = sys.argv[1]
    import subprocess
    address = ray.get_runtime_context().gcs_address
    stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    refused = subprocess.run([sys.executable, "-c", client, address], env=stranger, capture_output=True, text=True)
    friend = subprocess.run([sys.executable, "-c", client, address], capture_output=True, text=True)
    session = ray._private.worker._global_node.get_session_dir_path()
    written = subprocess.run(["grep", "-rl", token, session], capture_output=True, text=True).stdout
    is_token = "AuthenticationError" in refused.stderr
    print(sorted(open_to), shown, refused.returncode, is_token, friend.returncode, written)
print({name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")})
print(os.path.exists(os.path.expanduser("~/.ray")))
"""


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that answers everybody alike."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(64)
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.nightly
def test_a_session_is_closed_to_strangers_and_leaves_nothing(run_python, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # the user's own, which comes back
    done = run_python("-c", PORTS, CLIENT)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("['127.0.0.1', '::ffff:127.0.0.1'] [] 1 True 0 "), done.stderr
    assert lines[0].endswith(" 0 "), "the token is written nowhere"
    assert lines[1:] == ["{'RAY_AUTH_MODE': 'disabled', 'RAY_AUTH_TOKEN': None, 'RAY_AUTH_TOKEN_PATH': None}", "False"]


def test_the_users_environment_is_restored(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "mine")
    with own_token():
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
        assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == "mine"
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} & os.environ.keys()
    with pytest.raises(RuntimeError, match="in the middle"), environment({"NAS_ATTN_TEST": "1"}):
        raise RuntimeError("in the middle")
    assert "NAS_ATTN_TEST" not in os.environ


def test_two_sessions_have_two_tokens():
    with own_token():
        first = os.environ["RAY_AUTH_TOKEN"]
    with own_token():
        assert os.environ["RAY_AUTH_TOKEN"] != first


@pytest.mark.parametrize(
    ("mode", "token", "joined"), [(None, "x", "token"), ("disabled", "x", "disabled"), (None, "", None)]
)
def test_a_cluster_is_joined_in_the_mode_of_the_users_token(monkeypatch, mode, token, joined):
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with users_token():
        assert os.environ.get("RAY_AUTH_MODE") == joined
        assert os.environ["RAY_AUTH_TOKEN"] == token
    assert os.environ.get("RAY_AUTH_MODE") == mode


@pytest.mark.parametrize(
    "address", ["head", "head:", ":6379", "head:0", "head:70000", "head:six", "http://head", "head:²"]
)
def test_a_malformed_address_is_refused(address):
    with pytest.raises(ConfigError, match=r"must be HOST:PORT of a running Ray cluster, or auto, but got '"):
        refuse_other_address(address)


def test_an_address_where_nothing_answers_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConfigError, match=rf"nothing answers at '127\.0\.0\.1:{port}' \(.*refused\): start one there"):
        TuneExecutor(Resources(address=f"127.0.0.1:{port}")).check()
    with pytest.raises(ConfigError, match=r"nothing answers at '[a.]+:1' \("):
        refuse_other_address("a..a:1")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", b"", b"\x00\x00"])
def test_what_is_not_ray_is_refused(answer):
    with (
        answering(answer) as address,
        pytest.raises(ConfigError, match=rf"what answers at '{address}' is not Ray: state"),
    ):
        refuse_other_address(address)


def test_a_server_that_says_nothing_is_not_ray():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConfigError, match="is not Ray"):
            refuse_other_address(address, seconds=0.2)


def test_a_server_of_grpc_is_let_pass():
    with answering(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00") as address:
        refuse_other_address(address)


def test_tokens_that_cannot_be_read_are_refused_before_ray_ends_the_process(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ConfigError, match="RAY_AUTH_MODE=token needs a token, but there is none: set RAY_AUTH_TOKEN"):
        refuse_without_token("127.0.0.1:1")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "absent"))
    with pytest.raises(
        ConfigError, match=r"must be readable, but RAY_AUTH_TOKEN_PATH \(.*absent\) is not: No such file"
    ):
        refuse_without_token("127.0.0.1:1")
    (tmp_path / "absent").write_text("\n")
    with pytest.raises(ConfigError, match=r"must hold the token, but RAY_AUTH_TOKEN_PATH \(.*absent\) is empty"):
        refuse_without_token("127.0.0.1:1")


def test_a_wrong_token_is_said_with_its_source(monkeypatch, tmp_path):
    assert "asks for its token, but there is none: set RAY_AUTH_TOKEN" in wrong_token("h:1")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")
    assert token_source() == "~/.ray/auth_token"
    assert "but that of ~/.ray/auth_token is not the cluster's" in wrong_token("h:1")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "RAY_AUTH_MODE=disabled keeps that of RAY_AUTH_TOKEN back: set RAY_AUTH_MODE=token." in wrong_token("h:1")


def test_the_lower_bound_of_ray_has_tokens(root):
    assert '"ray[tune]>=2.52"' in (root / "pyproject.toml").read_text()
    assert subprocess.run([sys.executable, "-c", "from ray._raylet import AuthenticationTokenLoader"]).returncode == 0


def test_a_machine_that_does_not_reach_itself_is_refused_before_ray_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_without_loopback()

    def unreachable(address: tuple[str, int], timeout: float) -> socket.socket:
        assert address[0] == "127.0.0.1"
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(
        ConfigError, match=r"on 127\.0\.0\.1, .*unreachable\): bring .* 'lo' up, or use --executor local"
    ):
        refuse_without_loopback()
