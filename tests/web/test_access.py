import pytest
from typer.testing import CliRunner

from lymphinfer.cli import gate
from lymphinfer.errors import DataError
from lymphinfer.panel import TCELL_PANEL
from lymphinfer.web import serve

testclient = pytest.importorskip(
    "starlette.testclient", reason="starlette needs httpx to be tested"
)
TOKEN = "secret-token"
GOOD = {"X-LymphInfer-Token": TOKEN}


@pytest.fixture
def client(session):
    from lymphinfer.web.access import allowed_names
    from lymphinfer.web.app import make_app

    app = make_app(session, TOKEN, allowed_names("127.0.0.1"))
    return testclient.TestClient(app, base_url="http://127.0.0.1:8765")


def test_the_token_opens_everything_and_nothing_opens_without_it(client):
    for path in ("/", "/api/cohort", "/api/slides/CRC01", "/api/slides/CRC01/cells/0/he.jpg"):
        assert client.get(path).status_code == 403
        assert client.get(f"{path}?token=wrong").status_code == 403
        assert client.get(f"{path}?token={TOKEN}").status_code == 200
        assert client.get(path, headers=GOOD).status_code == 200
    assert client.post("/api/undo", json={}).status_code == 403
    assert "gate serve" in client.get("/").text


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:8765"},
        {"Host": ""},
        {"Host": "127.0.0.1.evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_hosts_and_origins_are_refused_even_with_the_token(client, headers):
    assert client.get("/api/cohort", headers=GOOD | headers).status_code == 403


def test_its_own_origin_and_a_forwarded_port_are_served(client):
    for host in ("127.0.0.1:8765", "localhost:9999", "[::1]:8765"):
        own = GOOD | {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        assert client.get("/api/cohort", headers=own).status_code == 200


def test_answers_carry_a_strict_policy_and_no_permission_for_others(client):
    for answer in (client.get("/", headers=GOOD), client.get("/static/app.js"), client.get("/")):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_a_form_of_another_site_cannot_change_anything(client):
    answer = client.post("/api/undo", data={"a": "b"}, headers=GOOD)
    assert answer.status_code == 415


def test_errors_are_json_with_their_kind(client):
    base = "/api/slides/CRC01/CD45"
    assert client.get("/api/slides/CRC99", headers=GOOD).status_code == 404
    answer = client.post(f"{base}/accept", json={"revision": "old"}, headers=GOOD)
    assert answer.status_code == 409 and "Nothing was written" in answer.json()["error"]
    answer = client.post(f"{base}/preview", json={"positive_min": "x"}, headers=GOOD)
    assert answer.status_code == 422 and "no number" in answer.json()["error"]
    content = b"[1]"
    answer = client.post(f"{base}/preview", content=content, headers=GOOD | {
        "Content-Type": "application/json"})  # fmt: skip
    assert answer.status_code == 422
    assert client.get("/static/%2e%2e/store.py").status_code == 404


def test_a_missing_extra_names_its_fix(cohort, gates_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(DataError, match=r"pip install 'lymphinfer\[web\]'"):
        serve.serve_gates(cohort, gates_path, TCELL_PANEL)


def test_the_command_names_a_missing_gates_file_and_a_taken_port(cohort, gates_path, tmp_path):
    import socket

    def call(*more):
        arguments = ["serve", "--cohort", str(cohort.root), "--no-open", *map(str, more)]
        return CliRunner().invoke(gate.app, arguments).exception

    assert "gate propose" in str(call("--gates", tmp_path / "none.toml"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        error = call("--gates", gates_path, "--port", taken.getsockname()[1])
    assert "--port" in str(error)
