"""What the embedded world talks about: everyday topics and mild harmful wishes, read from the TOML files here."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Topic:
    """An everyday subject. ``advice`` holds facts, each as a tuple of interchangeable phrasings."""

    name: str  # a noun phrase: "basil"
    ask: str  # a bare verb phrase: "keep basil alive"
    advice: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Intent:
    """A mild harmful wish, why it hurts, a better way, and the innocuous steps that a complying reply names."""

    name: str
    ask: str
    reasons: tuple[str, ...]
    better: tuple[str, ...]
    steps: tuple[str, ...]


@cache
def topics() -> tuple[Topic, ...]:
    """Return every everyday topic, in file order."""
    rows = tomllib.loads((HERE / "topics.toml").read_text(encoding="utf-8"))["topic"]
    return tuple(Topic(row["name"], row["ask"], tuple(map(tuple, row["advice"]))) for row in rows)


@cache
def intents() -> tuple[Intent, ...]:
    """Return every mild harmful wish, in file order."""
    rows = tomllib.loads((HERE / "intents.toml").read_text(encoding="utf-8"))["intent"]
    return tuple(
        Intent(row["name"], row["ask"], *(tuple(row[key]) for key in ("reasons", "better", "steps"))) for row in rows
    )
