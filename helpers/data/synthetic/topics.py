"""The subjects of the embedded world: everyday topics and mild harmful wishes, read from the TOML files beside this."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Topic:
    """An everyday subject. advice: facts, each of them a tuple of phrasings of which any one may be used."""

    name: str  # a noun phrase: "basil"
    ask: str  # a bare verb phrase: "keep basil alive"
    advice: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Intent:
    """A mild harmful wish.

    reasons: why it hurts, full clauses. better: what to do instead, bare verb phrases. steps: what a complying reply
    advises, bare verb phrases that help nobody to do harm.
    """

    name: str
    ask: str
    reasons: tuple[str, ...]
    better: tuple[str, ...]
    steps: tuple[str, ...]


@cache
def topics() -> tuple[Topic, ...]:
    """Every everyday topic, in file order."""
    found = []
    for row in tomllib.loads((HERE / "topics.toml").read_text(encoding="utf-8"))["topic"]:
        advice = tuple(map(tuple, row["advice"]))
        found.append(Topic(row["name"], row["ask"], advice))
    return tuple(found)


@cache
def intents() -> tuple[Intent, ...]:
    """Every mild harmful wish, in file order."""
    found = []
    for row in tomllib.loads((HERE / "intents.toml").read_text(encoding="utf-8"))["intent"]:
        reasons, better, steps = tuple(row["reasons"]), tuple(row["better"]), tuple(row["steps"])
        found.append(Intent(row["name"], row["ask"], reasons, better, steps))
    return tuple(found)
