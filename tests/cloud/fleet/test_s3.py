"""A repository in S3 would be broken if a board could not fetch from it what a directory would have given it."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.integration
BUCKET = "fleet-objects"


@pytest.fixture
def s3(tmp_path, monkeypatch) -> Iterator[str]:
    """A real S3-compatible server (moto's) with an empty bucket; the environment names it, as for any AWS tool."""
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
        pytest.skip("moto's server is not installed: would have shown the repository in S3")
    with (tmp_path / "s3.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], stdout=log, stderr=log
        )
    address = _address(process, tmp_path / "s3.log")
    urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"), timeout=15)
    environment = {"AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    for name, value in (environment | {"AWS_ACCESS_KEY_ID": "fleet", "AWS_SECRET_ACCESS_KEY": "fleet"}).items():
        monkeypatch.setenv(name, value)
    yield address
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def _address(process, log) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        for word in log.read_text().split():
            if word.startswith("http://127.0.0.1:"):
                return word
        time.sleep(0.1)
    raise RuntimeError(log.read_text())


def _listed(address: str) -> str:
    return urllib.request.urlopen(f"{address}/{BUCKET}?list-type=2", timeout=15).read().decode()


def test_a_board_fetches_from_s3_what_was_published_around_a_restart(s3, serve, board, tiny_student, tmp_path):
    (tmp_path / "serve.toml").write_text(f'[storage]\nobjects = "s3://{BUCKET}/of/ours"\n')
    server = serve("--config", str(tmp_path / "serve.toml"))
    first = server.publish(tiny_student("pets", 1))
    server.stop()
    server = serve("--config", str(tmp_path / "serve.toml"))
    second = server.publish(tiny_student("pets", 2))
    assert (first.version, second.version) == (1, 2)
    one = board(server, server.token(), "one")
    for published in (first, second):
        path = f"targets/pets/{published.version}/{published.digest.removeprefix('sha256:')}.student.tflite"
        whole, _ = one.fetch(path)
        middle, _ = one.fetch(path, offset=1000, length=500)
        assert len(whole) == published.size_bytes
        assert middle == whole[1000:1500], "a fetch that broke must go on where it was"
    assert json.loads(one.fetch("metadata/timestamp.json")[0])["signed"]["_type"] == "timestamp"
    names = _listed(s3)
    assert "of/ours/metadata/timestamp.json" in names
    assert not list((server.data).glob("objects/**/*.tflite")), "nothing of it may lie in the data directory"


def test_a_store_that_does_not_answer_is_said_at_the_start(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    (tmp_path / "serve.toml").write_text('[storage]\nobjects = "s3://nowhere"\n')
    with pytest.raises(RuntimeError, match="object store"):
        serve("--config", str(tmp_path / "serve.toml"))
