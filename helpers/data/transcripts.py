"""HH-RLHF transcripts as text: parse them, find the prompt and the reply, cut long ones from the left."""

import re
from collections.abc import Callable
from typing import NamedTuple

from helpers.core.errors import DataError

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"
MARKER = re.compile(r"\n\n(Human|Assistant):")


class Turn(NamedTuple):
    """One turn of a dialogue. role: "Human" or "Assistant". text: with the space that follows the role marker."""

    role: str
    text: str


def parse(transcript: str) -> list[Turn]:
    """Split a transcript into its turns; `join` puts them together again, without a difference.

    Raises DataError when the text does not begin with a human turn.
    """
    if not transcript.startswith(HUMAN):
        raise DataError(f"a transcript must begin with {HUMAN!r}, this one begins with {transcript[:20]!r}")
    pieces = MARKER.split(transcript)[1:]  # role, text, role, text ...
    return [Turn(role, text) for role, text in zip(pieces[::2], pieces[1::2], strict=True)]


def join(turns: list[Turn]) -> str:
    """Write turns back as one transcript."""
    return "".join(f"\n\n{turn.role}:{turn.text}" for turn in turns)


def split_reply(transcript: str) -> tuple[str, str]:
    """Split a transcript at its last "\\n\\nAssistant:" into (prompt, reply).

    The prompt ends with the marker, the reply begins with the space after it. The preference labels compare what comes
    after this boundary. TRL's own extraction looks for the longest common prefix of two strings instead, and cuts about
    one HH-RLHF pair in five at another place. Raises DataError for a text without an assistant turn.
    """
    position = transcript.rfind(ASSISTANT)
    if position < 0:
        raise DataError(f"no {ASSISTANT!r} in the transcript, so there is no reply to split off")
    position += len(ASSISTANT)
    return transcript[:position], transcript[position:]


def first_turn(transcript: str) -> str:
    """The first human turn, in lower case with single spaces: dialogues that share it count as the same dialogue."""
    text = transcript.removeprefix(HUMAN)
    end = MARKER.search(text)
    return " ".join(text[: end.start() if end else None].lower().split())


def left_truncate(prompt: str, count_tokens: Callable[[str], int], max_tokens: int) -> tuple[str, bool]:
    """Shorten a prompt by leaving out its oldest turns; the last human turn, which is to be answered, stays.

    prompt: ends with "\\n\\nAssistant:". count_tokens: text -> its number of tokens. When the last human turn alone is
    too long, its beginning is cut at a word boundary, so that the text still begins with "\\n\\nHuman:" and ends with
    "\\n\\nAssistant:". Returns (prompt, whether it was shortened).
    """
    if count_tokens(prompt) <= max_tokens:
        return prompt, False
    turns = parse(prompt)
    # Begin at the earliest human turn from which on the rest has few enough tokens.
    starts = [i for i, turn in enumerate(turns) if turn.role == "Human"]
    for start in starts[1:]:
        shorter = join(turns[start:])
        if count_tokens(shorter) <= max_tokens:
            return shorter, True
    # Or keep as many of the last words of the last human turn as fit.
    question, *rest = turns[starts[-1] :]
    words = question.text.split(" ")

    def with_last_words(n: int) -> str:
        text = " " + " ".join(words[len(words) - n :]) if n else ""
        return join([Turn("Human", text), *rest])

    # By bisection: `fitting` words fit, `too_many` do not.
    fitting, too_many = 0, len(words)
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if count_tokens(with_last_words(middle)) <= max_tokens:
            fitting = middle
        else:
            too_many = middle
    return with_last_words(fitting), True
