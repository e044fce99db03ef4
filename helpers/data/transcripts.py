"""HH-RLHF transcripts as text: parse them, find the prompt and the reply, cut long ones from the left."""

import re
from collections.abc import Callable
from typing import NamedTuple

from helpers.core.errors import DataError

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"
MARKER = re.compile(r"\n\n(Human|Assistant):")


class Turn(NamedTuple):
    """One turn of a dialogue; ``text`` keeps the space that follows the role marker."""

    role: str
    text: str


def parse(transcript: str) -> list[Turn]:
    """Split a transcript into its turns. ``join(parse(t)) == t`` for every transcript that parses.

    Raises DataError when the text does not begin with a human turn.
    """
    if not transcript.startswith(HUMAN):
        raise DataError(f"a transcript must begin with {HUMAN!r}, this one begins with {transcript[:20]!r}")
    pieces = MARKER.split(transcript)[1:]
    return [Turn(role, text) for role, text in zip(pieces[::2], pieces[1::2], strict=True)]


def join(turns: list[Turn]) -> str:
    """Write turns back as one transcript."""
    return "".join(f"\n\n{turn.role}:{turn.text}" for turn in turns)


def split_reply(transcript: str) -> tuple[str, str]:
    """Split at the last ``"\\n\\nAssistant:"`` into (prompt, reply); the prompt keeps the marker, the reply its space.

    This is the boundary that the preference labels are about. TRL's own extraction looks for the longest common
    prefix of two strings instead, and cuts about one HH pair in five at another place.
    """
    position = transcript.rfind(ASSISTANT)
    if position < 0:
        raise DataError(f"no {ASSISTANT!r} in the transcript, so there is no reply to split off")
    position += len(ASSISTANT)
    return transcript[:position], transcript[position:]


def first_turn(transcript: str) -> str:
    """The first human turn, in lower case with single spaces: the key by which dialogues count as the same one."""
    text = transcript.removeprefix(HUMAN)
    end = MARKER.search(text)
    return " ".join(text[: end.start() if end else None].lower().split())


def left_truncate(prompt: str, count_tokens: Callable[[str], int], max_tokens: int) -> tuple[str, bool]:
    """Shorten a prompt to ``max_tokens`` by forgetting its oldest turns; the question that is answered stays.

    When even the last exchange is too long, the beginning of its human turn is cut at a word boundary, so that
    the text still begins with ``"\\n\\nHuman:"`` and ends with ``"\\n\\nAssistant:"``.
    Returns (prompt, whether it was shortened).
    """
    if count_tokens(prompt) <= max_tokens:
        return prompt, False
    turns = parse(prompt)
    starts = [i for i, turn in enumerate(turns) if turn.role == "Human"]
    for start in starts[1:]:
        if count_tokens(join(turns[start:])) <= max_tokens:
            return join(turns[start:]), True
    question, *rest = turns[starts[-1] :]
    words = question.text.split(" ")
    kept, dropped = 0, len(words)  # the longest suffix of words that fits, by bisection
    while dropped - kept > 1:
        middle = (kept + dropped) // 2
        suffix = " " + " ".join(words[len(words) - middle :])
        fits = count_tokens(join([Turn("Human", suffix), *rest])) <= max_tokens
        kept, dropped = (middle, dropped) if fits else (kept, middle)
    suffix = " " + " ".join(words[len(words) - kept :]) if kept else ""
    return join([Turn("Human", suffix), *rest]), True
