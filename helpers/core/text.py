"""Numbers, bytes and seconds as text for readers."""

from __future__ import annotations

GB = 10**9


def number(value: float, digits: int = 2) -> str:
    """A number with `digits` decimals, without a single final 0, with a minus sign instead of a hyphen, never "−0"."""
    return f"{round(value, digits) + 0.0:.{digits}f}".removesuffix(".0").replace("-", "−")


def size(number: float) -> str:
    """Bytes for reading: "11.4 GB" or "120 MB"."""
    return f"{number / GB:.1f} GB" if number >= GB / 10 else f"{number / 1e6:.0f} MB"


def duration(seconds: float | None) -> str:
    """Seconds for reading: "42 s", "12 min", "3.5 h"; "unknown" for None or NaN."""
    if seconds is None or seconds != seconds:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 100 * 3600 else f"{seconds / 86400:.1f} days"
