"""Transcripts: what is split must join again, and truncation never touches the question that is answered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.core.errors import DataError
from helpers.data import transcripts

# No blank line inside a turn: HH has none that begins with a role marker, and a marker always begins a turn.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=60)
TRANSCRIPT = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4).map(
    lambda exchanges: "".join(f"\n\nHuman:{question}\n\nAssistant:{answer}" for question, answer in exchanges)
)


def words(text: str) -> int:
    return len(text.split())


@given(TRANSCRIPT)
def test_parse_and_join_are_inverse(transcript):
    assert transcripts.join(transcripts.parse(transcript)) == transcript


@given(TRANSCRIPT)
def test_split_reply_keeps_every_character_and_cuts_at_the_last_cue(transcript):
    prompt, reply = transcripts.split_reply(transcript)
    assert prompt + reply == transcript
    assert prompt.endswith(transcripts.ASSISTANT)
    assert transcripts.ASSISTANT not in reply


@given(TRANSCRIPT, st.integers(2, 40))
def test_left_truncation_keeps_the_end_and_says_so(transcript, limit):
    prompt, _ = transcripts.split_reply(transcript)
    short, cut = transcripts.left_truncate(prompt, words, limit)
    assert cut == (words(prompt) > limit)
    assert words(short) <= limit
    assert short.startswith(transcripts.HUMAN) and short.endswith(transcripts.ASSISTANT)
    tail = short.removeprefix(transcripts.HUMAN).lstrip()
    assert prompt.endswith(tail)


def test_left_truncation_forgets_whole_turns_first():
    prompt = "\n\nHuman: one two\n\nAssistant: three\n\nHuman: four five\n\nAssistant:"
    assert transcripts.left_truncate(prompt, words, 5) == ("\n\nHuman: four five\n\nAssistant:", True)
    assert transcripts.left_truncate(prompt, words, 3) == ("\n\nHuman: five\n\nAssistant:", True)


def test_first_turn_is_the_key_of_a_dialogue():
    long = "\n\nHuman:  Hello  There \n\nAssistant: Hi\n\nHuman: Bye\n\nAssistant:"
    assert transcripts.first_turn(long) == "hello there"
    assert transcripts.first_turn("Human: Hello there") == "human: hello there"  # the stripped form is another thing


@pytest.mark.parametrize("text", ["", "Hello", "\n\nAssistant: first", "Human: no blank line"])
def test_what_is_no_transcript_is_refused(text):
    with pytest.raises(DataError, match="must begin with"):
        transcripts.parse(text)


def test_a_dialogue_without_a_reply_is_refused():
    with pytest.raises(DataError, match="no reply"):
        transcripts.split_reply("\n\nHuman: anybody there?")
