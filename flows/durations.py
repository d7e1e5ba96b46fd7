"""Durations as recipes write them, such as 90s, 30m, 6h and 30d, for what must not import torch with a recipe."""

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(duration: str) -> float:
    """The seconds of a duration that is one, as `components.recipe` has them."""
    return float(int(duration[:-1]) * UNITS[duration[-1]])
