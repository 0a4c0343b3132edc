"""Where things lie: data paths of an application file, and the cache."""

import importlib.util
import os
from pathlib import Path

from distillnet.proto.strict import ConfigError

PACKAGE = "package:"


def locate(path: Path | str, base: Path) -> Path:
    """Return where a data path points: relative to `base`, or inside an installed package with `package:NAME/…`.

    Raises:
        ConfigError: there is nothing, or the package is not installed.

    """
    text = str(path)
    if text.startswith(PACKAGE):
        name, _, inside = text.removeprefix(PACKAGE).partition("/")
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or spec.origin is None:
            raise ConfigError(f"data {text!r}: package {name!r} is not installed: pip install 'distillnet[demo]'")
        found = Path(spec.origin).parent / inside
    else:
        found = base / Path(text).expanduser()
    if not found.exists():
        raise ConfigError(f"data {text!r}: there is no {found}")
    return found


def cache_directory() -> Path:
    """Return the folder for what can be computed again: `$DISTILLNET_CACHE`, else the user's cache."""
    chosen = os.environ.get("DISTILLNET_CACHE")
    if chosen:
        directory = Path(chosen)
    else:
        directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distillnet"
    directory.mkdir(parents=True, exist_ok=True)
    return directory
