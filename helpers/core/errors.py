"""Errors for the person who runs the course: each is one line that says what is wrong, where, and what to do."""


class CourseError(Exception):
    """A mistake that the person who runs the course can mend.

    message: joined to one line; a notebook shows that line without a traceback, because IPython (and so papermill and
    nbval) calls `_render_traceback_` where an exception has it.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(" ".join(str(message).split()))

    def _render_traceback_(self, *_: object) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class SettingsError(CourseError):
    """A parameter is unknown, has the wrong type or contradicts another one."""


class DataError(CourseError):
    """A data file, folder or model is missing or damaged."""


class StageError(CourseError):
    """A step of a run cannot be built, stored or read back."""
