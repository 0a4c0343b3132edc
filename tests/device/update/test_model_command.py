"""What a person at the board can do by hand, with the daemon running or not."""

import json

import pytest
from board import Board
from typer.testing import CliRunner

from distillnet.device.cli import app
from distillnet.device.update import commands
from distillnet.proto.strict import ConfigError

pytestmark = pytest.mark.integration


@pytest.fixture
def invoke(board: Board, tmp_path):
    if not any(group.name == "model" for group in app.registered_groups):
        commands.register(app)
    path = tmp_path / "door.device.toml"
    path.write_text(
        f'[device]\nname = "porch"\nstate_dir = "{board.state_dir}"\n[model]\napplication = "pets"\n'
        '[[source]]\nid = "door"\nurl = "none"\n'
    )

    def run(*arguments: str) -> dict:
        done = CliRunner().invoke(app, ["model", *arguments, "--config", str(path), "--json"])
        if done.exception is not None:
            raise done.exception
        return json.loads(done.stdout)

    return run


def test_list_shows_the_slots_with_and_without_a_daemon(board, invoke):
    board.take(2)
    asked = invoke("list")
    board.stop()
    alone = invoke("list")
    for facts in (asked, alone):
        assert facts["slots"]["current"]["version"] == 2
        assert facts["slots"]["previous"]["version"] == 1
        assert [past["result"] for past in facts["history"]] == ["committed", "committed"]


def test_rollback_switches_the_running_daemon(board, invoke):
    board.take(2)
    facts = invoke("rollback", "--reason", "misses cats")
    assert facts["slots"]["current"]["version"] == 1
    assert board.running_version == 1
    assert board.payloads[-1].reason == "misses cats"


def test_rollback_without_a_daemon_holds_at_the_next_start(board, invoke):
    board.take(2)
    board.stop()
    invoke("rollback")
    board.start()
    assert board.running_version == 1


def test_pinned_board_refuses_updates_until_unpinned(cloud, board, invoke):
    invoke("pin")
    assert "pinned" in board.take(2).reason
    assert board.running_version == 1
    invoke("pin", "--off")
    assert board.take(3).reason == ""


def test_rollback_with_nothing_to_go_back_to_says_so(board, invoke):
    with pytest.raises(ConfigError, match="no previous student"):
        invoke("rollback")
