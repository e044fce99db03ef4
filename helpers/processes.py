"""Several processes that train one model together: how many there are, and which one writes."""

import os


def count() -> int:
    """The number of processes, as `accelerate launch` says it in the environment; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))
