"""The table of what layers cost: what was measured comes back, between lies between, a real one predicts."""

import json

import pytest

from distillnet.engine.profile import Layer, MeasuredLayer, Profile, read
from distillnet.engine.profile_measure import fit, measure, write
from distillnet.engine.profile_networks import CHECKS, one_layer, whole
from distillnet.proto.strict import ConfigError


def pointwise(positions: int, into: int, out: int) -> Layer:
    return Layer("pointwise", 1, 1, positions, into, out)


def table(*rows: tuple[Layer, float], factor: float = 1.0) -> Profile:
    return Profile(
        board="test",
        how="estimated",
        machine="none",
        kernels="none",
        created="2026-01-01T00:00:00+00:00",
        network_factor=factor,
        error=0.0,
        checks=[],
        layers=[MeasuredLayer(**layer._asdict(), ms=ms) for layer, ms in rows],
    )


THREE = Layer("depthwise", 3, 1, 144, 32, 32)
OTHERS = [(THREE, 0.01), (Layer("full", 3, 2, 144, 3, 16), 0.02)]

GRID = [(pointwise(p, i, o), p * i * o * (1e-6 + 1e-4 / (p * i))) for p in (9, 144) for i in (16, 64) for o in (16, 64)]
TABLE = [*GRID, *OTHERS]


def test_a_measured_layer_comes_back_as_measured():
    profile = table(*TABLE)
    for layer, ms in GRID:
        assert profile.layer_ms(layer) == pytest.approx(ms)


def test_a_layer_between_measured_ones_costs_something_between():
    profile = table(*TABLE)
    assert profile.layer_ms(pointwise(9, 16, 16)) < profile.layer_ms(pointwise(20, 24, 40))
    assert profile.layer_ms(pointwise(20, 24, 40)) < profile.layer_ms(pointwise(144, 64, 64))


def test_outside_the_table_a_layer_costs_its_macs_at_the_edge():
    profile = table(*TABLE)
    assert profile.layer_ms(pointwise(144, 64, 640)) == pytest.approx(10 * profile.layer_ms(pointwise(144, 64, 64)))
    assert profile.layer_ms(pointwise(144, 0, 64)) == 0


def test_a_hole_in_the_grid_takes_its_neighbour():
    profile = table(*GRID[:-1], *OTHERS)
    assert profile.layer_ms(GRID[-1][0]) > 0


def test_a_kernel_nobody_measured_takes_the_closest_of_its_kind():
    profile = table(*TABLE)
    assert profile.layer_ms(Layer("depthwise", 7, 1, 144, 32, 32)) == pytest.approx(0.01 * 49 / 9)


def test_networks_cost_their_layers_times_the_factor():
    layers = [layer for layer, _ in GRID]
    assert table(*TABLE, factor=1.5).network_ms(layers) == pytest.approx(1.5 * table(*TABLE).network_ms(layers))
    assert fit([(1.0, 1.2), (2.0, 2.6), (4.0, 4.4)]) == (pytest.approx(1.2), pytest.approx(0.0909, abs=1e-3))


def test_the_networks_have_the_layers_they_claim():
    from distillnet.engine.native import NativeModel

    for network in CHECKS[1:]:
        data, layers = whole(network)
        model = NativeModel(data)
        assert model.info["output"]["shape"] == (1, network.outputs)
        convolutions = [part for part in model.profile() if part["macs"] > 0 and "CONV" in part["op"]]
        assert len(convolutions) == len(layers) - 1
    single = NativeModel(one_layer(Layer("depthwise", 5, 2, 36, 24, 24)))
    assert single.info["output"]["shape"] == (1, 6, 6, 24)


def test_this_machine_can_be_measured_and_read_back(tmp_path):
    wanted = [pointwise(p, c, c) for p in (36, 576) for c in (16, 128)] + [layer for layer, _ in OTHERS]
    profile = measure("here", layers=wanted)
    assert {check.network for check in profile.checks} == {network.name for network in CHECKS}
    assert all(check.measured_ms > 0 and check.litert_ms for check in profile.checks)
    assert profile.layer_ms(pointwise(576, 128, 128)) > profile.layer_ms(pointwise(36, 16, 16))
    write(tmp_path / "here.json", profile)
    assert read(tmp_path / "here.json") == profile


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "is not JSON"), ("[]", "expected an object"), ('{"format": 1, "bord": "x"}', "did you mean 'board'")],
)
def test_what_is_no_profile_is_refused_with_the_reason(tmp_path, content, said):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ConfigError, match=said):
        read(tmp_path / "bad.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "missing.json")


def test_the_rows_are_lines_so_that_two_profiles_can_be_compared(tmp_path):
    write(tmp_path / "t.json", table(*TABLE))
    lines = (tmp_path / "t.json").read_text().splitlines()
    assert len(lines) == len(TABLE) + 1
    json.loads("".join(lines))
