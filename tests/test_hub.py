"""Files of the Hugging Face Hub: its real client, in a process of its own, against a hub on this machine."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server import COMMIT, Page, Server, serving

from backbones.weights import hub

BODY = bytes(range(256)) * 300
CONFIG = b'{"architecture": "resnet50"}'
CLIENT = """
import json, sys
from backbones.weights import hub
try:
    repo = hub.parse(sys.argv[1])
    found = hub.fetch(repo)
    told = {"path": str(found.path), "repo": str(found.repo), "sha256": found.sha256, "config": hub.config(found.repo)}
except Exception as error:
    told = {"error": type(error).__name__, "says": str(error)}
assert "torch" not in sys.modules
print(json.dumps(told))
"""


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


class Client:
    """A process with this hub and an empty cache."""

    def __init__(self, server: Server, home: Path) -> None:
        self.home = home
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        timeouts = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self.environment = plain | timeouts | {"HF_ENDPOINT": server.url, "HF_HOME": str(home)}

    def start(self, repo: str, **environment: str) -> "subprocess.Popen[str]":
        command, told = [sys.executable, "-c", CLIENT, repo], self.environment | environment
        return subprocess.Popen(command, env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __call__(self, repo: str, **environment: str) -> dict[str, Any]:
        return ended(self.start(repo, **environment))

    def files(self) -> list[Path]:
        """Everything in the cache that could be taken for weights."""
        return [p for p in self.home.rglob("blobs/*") if p.stat().st_size >= 1000]


def ended(process: "subprocess.Popen[str]") -> dict[str, Any]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return json.loads(out)


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Client:
    return Client(server, tmp_path)


def test_a_file_is_fetched_once_and_pinned(server: Server, client: Client) -> None:
    server.add_repo("me/net", {hub.WEIGHTS: Page(BODY), hub.CONFIG: Page(CONFIG)})
    told = client("hf:me/net")
    assert Path(told["path"]).read_bytes() == BODY
    assert told["repo"] == f"hf:me/net@{COMMIT}"
    assert told["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert told["config"] == {"architecture": "resnet50"}
    gets = [seen for seen in server.seen if seen[0] == "GET"]
    assert client("hf:me/net") == told
    assert [seen for seen in server.seen if seen[0] == "GET"] == gets
    asked = len(server.seen)
    assert client(f"hf:me/net@{COMMIT}") == told
    assert len(server.seen) == asked, "a commit that is here needs no network"
    assert client("hf:me/net", HF_HUB_OFFLINE="1") == told
    assert client("hf:me/net", HF_ENDPOINT="http://127.0.0.1:9") == told


def test_a_connection_that_is_cut_goes_on(server: Server, client: Client) -> None:
    body = BODY * 160  # the client keeps whole blocks of 10 MiB
    server.add_repo("me/net", {hub.WEIGHTS: Page(body, cuts=[1000, 11 << 20]), hub.CONFIG: Page(CONFIG)})
    assert Path(client("me/net")["path"]).read_bytes() == body
    assert [asked for method, _, asked in server.seen if method == "GET"] == ["", "", "bytes=10485760-", ""]


def test_an_altered_file_is_refused_and_not_kept(server: Server, client: Client) -> None:
    etag = {"ETag": f'"{hashlib.sha256(BODY).hexdigest()}"'}
    server.add_repo("me/net", {hub.WEIGHTS: Page(BODY[:-1] + b"!", etag)})
    told = client("me/net")
    assert (told["error"], "came altered" in told["says"]) == ("ValueError", True)
    assert client.files() == []
    server.add_repo("me/net", {hub.WEIGHTS: Page(BODY)})
    assert Path(client("me/net")["path"]).read_bytes() == BODY
    (blob,) = client.files()
    blob.write_bytes(BODY[:-1] + b"?")
    told = client("me/net")
    assert told["error"] == "ValueError"
    assert "delete it and try again" in told["says"]
    assert blob.exists()


def test_a_file_of_another_size_is_refused(server: Server, client: Client) -> None:
    server.add_repo("me/net", {hub.WEIGHTS: Page(BODY, {"X-Linked-Size": str(len(BODY) + 5)})})
    told = client("me/net")
    assert (told["error"], "cut short, or longer" in told["says"]) == ("ConnectionError", True)
    assert client.files() == []


@pytest.mark.parametrize(
    ("status", "code", "error", "says"),
    [
        (401, "RepoNotFound", "LookupError", "check the name"),
        (404, "RepoNotFound", "LookupError", "check the name"),
        (404, "RevisionNotFound", "LookupError", "has no revision 'main'"),
        (404, "EntryNotFound", "_NoFile", "a pickle can run anybody's code"),
        (403, "GatedRepo", "PermissionError", "is gated: accept its terms at"),
        (403, "", "PermissionError", "check your token"),
        (503, "", "ConnectionError", "answered 503 for hf:me/net; try again later"),
    ],
)
def test_refusals_are_one_sentence(
    server: Server, client: Client, status: int, code: str, error: str, says: str
) -> None:
    server.add_repo("me/net", {hub.WEIGHTS: Page(status=status, headers={"X-Error-Code": code})})
    told = client("hf:me/net")
    assert told["error"] == error
    assert says in told["says"]
    assert "hf:me/net" in told["says"] or "me/net has" in told["says"]
    assert "\n" not in told["says"]


def test_no_hub(server: Server, client: Client) -> None:
    told = client("me/net", HF_ENDPOINT="http://127.0.0.1:9")
    assert (told["error"], told["says"].startswith("cannot reach 127.0.0.1:9")) == ("ConnectionError", True)
    told = client("me/net", HF_HUB_OFFLINE="1")
    assert told["error"] == "ConnectionError"
    assert told["says"] == "HF_HUB_OFFLINE is set, and model.safetensors of hf:me/net is not on this machine"
    assert server.seen == []


def test_a_silent_hub_is_given_up(server: Server, client: Client) -> None:
    server.add_repo("me/silent", {hub.WEIGHTS: Page(BODY, stall_at_once=True)})
    server.add_repo("me/stalls", {hub.WEIGHTS: Page(BODY, stall=0)})
    for told in [ended(process) for process in [client.start("me/silent"), client.start("me/stalls")]]:
        assert (told["error"], "timed out" in told["says"]) == ("ConnectionError", True)
    assert client.files() == []


def test_two_processes_fetch_one_file(server: Server, client: Client) -> None:
    server.add_repo("me/net", {hub.WEIGHTS: Page(BODY, pause=0.05), hub.CONFIG: Page(CONFIG)})
    one, two = (ended(process) for process in [client.start("me/net"), client.start("me/net")])
    assert one == two
    assert Path(one["path"]).read_bytes() == BODY


@pytest.mark.parametrize("body", [b"[1]", b"not json", b"[" * 100_000, b" " * (hub.CONFIG_BYTES + 1)])
def test_a_strange_config_is_refused(server: Server, client: Client, body: bytes) -> None:
    server.add_repo("me/net", {hub.WEIGHTS: Page(BODY), hub.CONFIG: Page(body)})
    told = client("me/net")
    assert (told["error"], "config.json of hf:me/net" in told["says"]) == ("ValueError", True)


def test_no_config_is_none(server: Server, client: Client) -> None:
    server.add_repo("me/net", {hub.WEIGHTS: Page(BODY)})
    told = client("me/net")
    assert told["config"] == {}
    assert client("me/net", HF_HUB_OFFLINE="1") == told


def test_names_of_repositories() -> None:
    assert hub.parse("hf:timm/resnet50.a1_in1k") == hub.Repo("timm/resnet50.a1_in1k")
    assert hub.parse("hf:timm/resnet50.a1_in1k@refs/pr/1").revision == "refs/pr/1"
    for text in ("hf:", "hf:me", "hf:me/net@", "hf:me/../net", "hf:a/b/c", "hf:me/net@../main", "hf:me/net@/etc"):
        with pytest.raises(ValueError, match="give hf:OWNER/REPO"):
            hub.parse(text)
