"""No attack on the repository, the transport or the student's bytes gets past the board or stops it."""

import pytest
from attacks import ATTACKS, Attack, run
from board import Board
from cryptography.hazmat.primitives.asymmetric import ec
from simulated_cloud import DAY, SimulatedCloud, utc

from distillnet.device.update import admission, effects
from distillnet.device.update.fetcher import FetchLimits
from distillnet.device.update.identity import DeviceIdentity, key_pem, load_identity, save_identity

pytestmark = pytest.mark.integration


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow is after a third of a second, and two fruitless attempts are enough."""
    limits = FetchLimits(stall_s=0.3, grace_s=0.3, minimum_rate_bytes_per_s=20_000)
    monkeypatch.setattr(effects, "FetchLimits", lambda **_: limits)
    monkeypatch.setattr(effects, "MAX_FRUITLESS", 2)
    monkeypatch.setattr(effects, "MAX_BUSY_S", 1.0)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_is_refused_and_the_board_recovers(attack: Attack, cloud, impatient, board, monkeypatch):
    if attack.trial:
        monkeypatch.setattr(admission, "try_apart", REAL_TRIAL)
    print(run(attack, cloud, board))  # noqa: T201 -- shown by pytest -rP


REAL_TRIAL = admission.try_apart


def stranger(identity: DeviceIdentity, cloud: SimulatedCloud, start, end) -> DeviceIdentity:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = cloud.authority.device(key.public_key(), identity.device, start=start, end=end)
    return DeviceIdentity(
        device=identity.device,
        key_pem=key_pem(key),
        certificate_pem=certificate,
        ca_pem=identity.ca_pem,
        tuf_root=identity.tuf_root,
        fleet_address=identity.fleet_address,
    )


def test_expired_foreign_and_revoked_certificates_open_nothing_and_stop_nothing(cloud, make_board):
    board: Board = make_board().enroll().start()
    board.take(1)
    board.stop()
    honest = load_identity(board.state_dir)
    with SimulatedCloud() as foreign:
        bad = {
            "foreign": stranger(honest, foreign, None, None),
            "expired": stranger(honest, cloud, utc() - 2 * DAY, utc() - DAY),
            "not yet valid": stranger(honest, cloud, utc() + DAY, utc() + 2 * DAY),
        }
    for name, identity in bad.items():
        save_identity(board.state_dir, identity)
        hellos = len(cloud.served.hellos)
        board.start(wait=False)
        until_quiet(board)
        assert len(cloud.served.hellos) == hellos, name
        assert board.running_version == 1
        board.stop()
    save_identity(board.state_dir, honest)
    cloud.revoked.add(board.name)
    board.start(wait=False)
    until_quiet(board)
    assert board.running_version == 1 and not board.service._link.connected
    cloud.revoked.clear()
    cloud.wait_connected(board.name)
    assert board.take(2).reason == ""


def until_quiet(board: Board) -> None:
    """Several attempts' time."""
    board.service._stop.wait(1.0)
