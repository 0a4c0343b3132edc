"""Boards a budget may name: profiles that come with the package, or a file made on the board itself.

Called by the pipeline, which turns `[budget]` into milliseconds and a network's layers into milliseconds.
"""

from pathlib import Path

from distillnet.cloud.surgery import Layer
from distillnet.engine import profile
from distillnet.engine.profile import Kind, Profile
from distillnet.proto.strict import ConfigError, nearest

SHIPPED = Path(__file__).with_name("board_profiles")


def names() -> list[str]:
    """Return the boards the package knows."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


def find(board: str, base: Path) -> Profile:
    """Return the profile of a board.

    Args:
        board: a name, or the path of a file written by `distillnet bench --profile`, relative to `base`.
        base: the application file's folder.

    Raises:
        ConfigError: an unknown board, or a file that is no profile.

    """
    if board.endswith(".json"):
        return profile.read(base / Path(board).expanduser())
    if board not in names():
        raise ConfigError(
            f"[budget] board: {board!r} is unknown{nearest(board, names())}; "
            "or measure it there with `distillnet bench --profile FILE.json` and name the file"
        )
    return profile.read(SHIPPED / f"{board}.json")


def layer_ms(board: Profile, layer: Layer, into: int, out: int) -> float:
    """Return the time of a network's layer with so many channels: a cost for `surgery.choose`, milliseconds."""
    kind: Kind = "depthwise" if layer.depthwise else "pointwise" if layer.kernel == 1 else "full"
    return board.layer_ms(profile.Layer(kind, layer.kernel, layer.stride, layer.positions, into, out))
