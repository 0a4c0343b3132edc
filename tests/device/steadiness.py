"""Does what was measured for an hour grow? For `soak_daemon.py`."""

import numpy as np

_BLOCKS = 20
_T_95 = 2.101
"""Student's t for eighteen degrees of freedom, two-sided 95 %."""


def slope(seconds: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Slope per hour and the half width of its 95 % interval.

    Neighbouring samples say the same: the line goes through the means of 20 blocks, and the interval is as much wider
    as an AR(1) process asks for that is correlated from block to block as what is left of the means. Residuals of a
    line look less correlated than they are, on average by (2 + 4 r) / n (Kendall, Biometrika 1954): that is put right.
    """
    x = np.array([block.mean() for block in np.array_split(seconds, _BLOCKS)]) / 3600.0
    y = np.array([block.mean() for block in np.array_split(values, _BLOCKS)])
    centred = x - x.mean()
    rise = float((centred * y).sum() / (centred**2).sum())
    residual = y - y.mean() - rise * centred
    squares = float((residual**2).sum())
    if squares == 0:
        return rise, 0.0
    seen = float((residual[1:] * residual[:-1]).sum()) / squares
    alike = float(np.clip((_BLOCKS * seen + 2) / (_BLOCKS - 4), 0.0, 0.9))
    error = np.sqrt(squares / (_BLOCKS - 2) / (centred**2).sum() * (1 + alike) / (1 - alike))
    return rise, float(_T_95 * error)
