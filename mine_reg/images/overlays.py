"""Two slices in one picture."""

import numpy as np


def grey(hu: np.ndarray, window_hu: tuple[float, float]) -> np.ndarray:
    """HU as greys: 0 at the window's lower end and below, 1 at its upper end and above."""
    low, high = window_hu
    return ((hu - low) / (high - low)).clip(0, 1)


def red_cyan(fixed: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Two slices of greys on top of each other as colours (rows, columns, 3): fixed red, the other cyan, grey where
    they agree."""
    return np.stack([fixed, other, other], axis=-1).clip(0, 1)


def checkerboard(fixed: np.ndarray, moved: np.ndarray, square: int) -> np.ndarray:
    """Squares of ``square`` pixels of two slices (rows, columns) in turn, fixed first; edges run on where the
    registration is good."""
    rows, columns = np.indices(fixed.shape) // square
    return np.where((rows + columns) % 2 == 0, fixed, moved)
