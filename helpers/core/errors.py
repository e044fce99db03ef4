"""Errors meant for the person at the keyboard: one line that says what, where and what to do next."""


class CourseError(Exception):
    """A mistake the reader can mend. The message is always one line, and a notebook shows that line alone.

    IPython (and so papermill and nbval) asks an exception for `_render_traceback_` before it builds a traceback.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(" ".join(str(message).split()))

    def _render_traceback_(self, *_: object) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class SettingsError(CourseError):
    """A parameter is unknown, has the wrong type or does not fit the others."""


class DataError(CourseError):
    """A data file, folder or model is missing or damaged."""


class StageError(CourseError):
    """A step of a run cannot be built, stored or read back."""
