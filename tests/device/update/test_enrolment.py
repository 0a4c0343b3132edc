"""A board becomes a member once, with a key that never leaves it, and only of the fleet its token names."""

import datetime
import json
import stat
import time
from types import SimpleNamespace

import pytest
from board import Board, until
from simulated_cloud import DAY, SimulatedCloud, utc
from typer.testing import CliRunner

from distillnet.device.cli import app
from distillnet.device.update import commands, link
from distillnet.device.update.effects import believed_time
from distillnet.device.update.enroll import enroll
from distillnet.device.update.errors import TransientError, UpdateError
from distillnet.device.update.identity import IdentityFileError, load_identity, pending_key, save_identity

pytestmark = pytest.mark.integration


def test_identity_is_stored_for_its_owner_only(cloud, tmp_path):
    identity = enroll(tmp_path, cloud.enroll_address, cloud.token(), device="porch")
    path = tmp_path / "identity/identity.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_identity(tmp_path) == identity
    assert identity.fleet_address == cloud.address
    assert not (tmp_path / "identity/pending.key").exists()


def test_token_of_another_fleet_is_not_sent_anywhere(cloud, tmp_path):
    with SimulatedCloud() as stranger:
        token = stranger.token()
        with pytest.raises(UpdateError, match="is not the server this token is for"):
            enroll(tmp_path, cloud.enroll_address, token)
    assert load_identity(tmp_path) is None


def test_stolen_token_that_was_used_is_refused(cloud, tmp_path):
    token = cloud.token()
    enroll(tmp_path / "first", cloud.enroll_address, token)
    with pytest.raises(UpdateError, match="unauthenticated: the token is not valid, or was used"):
        enroll(tmp_path / "second", cloud.enroll_address, token)


def test_power_cut_between_the_answer_and_the_disk_does_not_waste_the_token(cloud, tmp_path):
    token = cloud.token()
    key = pending_key(tmp_path)
    enroll(tmp_path, cloud.enroll_address, token)
    (tmp_path / "identity/identity.json").unlink()
    save_key = tmp_path / "identity/pending.key"
    from distillnet.device.update.identity import key_pem

    save_key.write_bytes(key_pem(key))
    assert enroll(tmp_path, cloud.enroll_address, token).key_pem == key_pem(key)


@pytest.mark.parametrize("token", ["", "dn1_", "dn1_short", "hello", "dn1_" + "!" * 75])
def test_token_that_is_none_says_so(tmp_path, token):
    with pytest.raises(UpdateError, match="token"):
        enroll(tmp_path, "127.0.0.1:1", token)


def test_server_that_is_away_can_be_asked_again(cloud, tmp_path):
    with pytest.raises(TransientError, match="no TLS server answers"):
        enroll(tmp_path, "127.0.0.1:1", cloud.token(), timeout_s=1)


def test_damaged_identity_says_what_to_do(cloud, tmp_path):
    enroll(tmp_path, cloud.enroll_address, cloud.token())
    (tmp_path / "identity/identity.json").write_text("{")
    with pytest.raises(IdentityFileError, match="enrol this board again"):
        load_identity(tmp_path)


def test_certificate_is_renewed_before_it_ends_with_a_new_key(cloud, make_board):
    cloud.certificate_life = datetime.timedelta(minutes=5)  # it began a day ago: nearly all of its life is over
    board: Board = make_board().enroll()
    old = load_identity(board.state_dir)
    cloud.certificate_life = 10 * DAY
    board.start()
    until(lambda: cloud.served.renewals == 1)
    fresh = load_identity(board.state_dir)
    assert fresh.key_pem != old.key_pem
    assert fresh.valid_until > old.valid_until + DAY
    assert board.take(1).reason == ""


def test_board_whose_clock_stands_in_the_past_renews_by_the_clouds(cloud, make_board, monkeypatch):
    board: Board = make_board().enroll()
    old, ahead = load_identity(board.state_dir), datetime.timedelta()
    monkeypatch.setattr(link, "time", SimpleNamespace(time=lambda: 0.0, monotonic=time.monotonic))
    cloud.clock = lambda: (utc() + ahead).timestamp()
    cloud.heartbeat_s = 0.2
    board.start()
    time.sleep(0.5)
    assert cloud.served.renewals == 0
    ahead = 8 * DAY
    cloud.drop_stream(board.name)
    until(lambda: load_identity(board.state_dir).key_pem != old.key_pem)
    assert cloud.served.renewals == 1


def test_clock_before_the_certificate_is_not_believed(cloud, tmp_path):
    identity = enroll(tmp_path, cloud.enroll_address, cloud.token())
    assert believed_time(identity, 0.0, None) >= utc() - 2 * DAY
    assert believed_time(identity, utc().timestamp() + 500, None) > utc()
    assert believed_time(identity, 0.0, utc().timestamp() + 500) > utc()
    assert believed_time(identity, utc().timestamp() + 500, 1e9) > utc()  # the cloud cannot turn time back
    assert not identity.renewal_due(0.0)


def test_enroll_command_prints_facts_and_refuses_with_status_two(cloud, tmp_path):
    if not any(command.name == "enroll" for command in app.registered_commands):
        commands.register(app)
    arguments = [
        "enroll",
        "--server",
        cloud.enroll_address,
        "--state-dir",
        str(tmp_path),
        "--device",
        "porch",
        "--json",
    ]
    done = CliRunner().invoke(app, [*arguments, "--token", cloud.token()])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["device"] == "porch" and facts["fleet_address"] == cloud.address
    again = CliRunner().invoke(app, [*arguments, "--token", "dn1_nothing"])
    assert again.exit_code != 0 and "token" in str(again.exception)


def test_renewed_identity_replaces_the_old_in_one_step(cloud, tmp_path):
    identity = enroll(tmp_path, cloud.enroll_address, cloud.token())
    path = save_identity(tmp_path, identity)
    assert json.loads(path.read_bytes())["device"] == identity.device
    assert [p.name for p in path.parent.iterdir()] == ["identity.json"]
