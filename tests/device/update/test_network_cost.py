"""A download waits while the way out costs by the byte, and for nothing else."""

from pathlib import Path

import pytest

from distillnet.device.update.network import metered_by

HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
LAN = "eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n"
ETHERNET = "eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
MODEM = "wwan0\t00000000\t0100000A\t0003\t0\t0\t700\t00000000\t0\t0\t0\n"
MODEM_6 = f"{'0' * 32} 00 {'0' * 32} 00 {'f' * 32} 00000400 00000001 00000000 00000003    wwan0\n"
REJECT_6 = f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 00000001 00000000 00200200       lo\n"


@pytest.mark.parametrize(
    ("routes", "routes_6", "patterns", "found"),
    [
        (HEAD + LAN + ETHERNET + MODEM, "", ["wwan*"], ""),
        (HEAD + LAN + MODEM, "", ["wwan*"], "wwan0"),
        (HEAD + LAN + MODEM, "", ["usb0", "wwan0"], "wwan0"),
        (HEAD + LAN + MODEM, "", [], ""),
        (HEAD + LAN, REJECT_6 + MODEM_6, ["wwan*"], "wwan0"),
        (HEAD + LAN, REJECT_6, ["*"], ""),
        (HEAD, "", ["*"], ""),
    ],
)
def test_best_default_route_decides(tmp_path: Path, routes, routes_6, patterns, found):
    (tmp_path / "route").write_text(routes)
    (tmp_path / "ipv6_route").write_text(routes_6)
    assert metered_by(patterns, tmp_path) == found


def test_kernel_without_ipv6_is_read_too(tmp_path: Path):
    (tmp_path / "route").write_text(HEAD + MODEM)
    assert metered_by(["wwan0"], tmp_path) == "wwan0"
    assert metered_by(["*"], tmp_path / "nothing") == ""
