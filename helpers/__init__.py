"""The package behind the preference-alignment course: nine packages in the order of the data.

core -> data -> models -> training -> evaluation -> pipeline -> planning, experiments -> report    ("is used by")

`helpers.open_run(globals())` is where every notebook starts. Importing this package loads nothing heavy: each module is
imported when it is used.
"""

from typing import Any

__all__ = ["open_run"]


def __getattr__(name: str) -> Any:
    if name == "open_run":
        from helpers.pipeline.run import open_run

        return open_run
    raise AttributeError(f"module 'helpers' has no attribute {name!r}")
