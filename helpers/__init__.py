"""Helpers of the preference-alignment course. `helpers.open_run(globals())` is where every notebook starts.

Importing this package loads nothing heavy and changes nothing: each helper module is imported when it is used.
"""

from typing import Any

__all__ = ["open_run"]


def __getattr__(name: str) -> Any:
    if name == "open_run":
        from helpers.runs import open_run

        return open_run
    raise AttributeError(f"module 'helpers' has no attribute {name!r}")
