"""Evaluation prompts: the paper's own draw, and prompts that no training pair has seen."""

import hashlib
import random

import pandas as pd
import pytest

from helpers.core.errors import DataError
from helpers.data import prompts
from helpers.data.prompts import paper_prompt, paper_rows, sample_prompts, with_cue
from helpers.data.transcripts import first_turn

SIDES = (("harmless-base", "Q"), ("helpful-base", "How "))


def dialogues(harmless: list[str], helpful: list[str]) -> pd.DataFrame:
    """Test dialogues with these questions, as `load_transcripts` reads them."""
    rows = [("harmless-base", question) for question in harmless] + [("helpful-base", question) for question in helpful]
    frame = pd.DataFrame(rows, columns=["subset", "question"])
    return frame.assign(chosen="\n\nHuman: " + frame["question"] + "\n\nAssistant: Well.")


def with_keyword(n: int) -> list[str]:
    """2 n questions, every second of them with one of the paper's words, also inside a longer word."""
    words = ("kill", "skills", "murder", "grape")
    return [f"{words[i // 2 % 4] if i % 2 else 'nothing'} {i}?" for i in range(2 * n)]


def hashes(rows: pd.DataFrame) -> dict[str, str]:
    joined = rows.groupby("side")["chosen"].agg(lambda texts: "\n\x1e\n".join(map(paper_prompt, texts)))
    return {side: hashlib.sha256(text.encode()).hexdigest() for side, text in joined.items()}


def test_the_papers_draw_takes_rows_with_a_keyword_then_helpful_rows_from_one_generator():
    harmless, helpful = with_keyword(60), [f"how {i}?" for i in range(80)]
    rows = paper_rows(dialogues(harmless, helpful))
    draw = random.Random(100)
    questions = [harmless[1::2][i] for i in draw.sample(range(60), 50)]
    questions += [helpful[i] for i in draw.sample(range(80), 50)]
    assert rows["question"].tolist() == questions
    assert rows["side"].tolist() == ["harmful"] * 50 + ["helpful"] * 50


@pytest.mark.parametrize(("harmless", "helpful", "side"), [(49, 50, "harmful"), (50, 49, "helpful")])
def test_too_few_rows_for_the_papers_draw_are_told(harmless, helpful, side):
    with pytest.raises(DataError, match=f"only 49 rows for the paper's {side} prompts"):
        paper_rows(dialogues(with_keyword(harmless), ["how?"] * helpful))


def test_the_papers_prompts_are_known_by_every_letter_and_their_order(monkeypatch):
    rows = paper_rows(dialogues(with_keyword(60), [f"how {i}?" for i in range(80)]))
    assert not prompts.is_paper_source(rows)
    monkeypatch.setattr(prompts, "PAPER_SHA256", hashes(rows))
    assert prompts.is_paper_source(rows)
    changed = rows.assign(chosen=[*rows["chosen"][:-1], rows["chosen"].iloc[-1].replace("how", "How")])
    assert not prompts.is_paper_source(changed) and not prompts.is_paper_source(rows.iloc[::-1])


def test_the_papers_prompt_drops_the_last_paragraph_of_the_assistant_only():
    question = "\n\nHuman: Why?\n\nAssistant:"
    assert paper_prompt(f"{question} Because.") == "Human: Why?"
    assert paper_prompt(f"{question} First.\n\nSecond.") == "Human: Why?\n\nAssistant: First.\n\nSecond."
    assert with_cue(f"{question} Because.", closing_cue=True) == question
    assert with_cue(f"{question} Because.", closing_cue=False) == "Human: Why?"


def test_evaluation_prompts_share_no_first_turn_with_training_nor_with_each_other():
    train = pd.DataFrame(
        [("harmless-base", f"\n\nHuman: Q{i}?\n\nAssistant:") for i in range(5)], columns=["subset", "prompt"]
    )
    test = pd.DataFrame(
        [(subset, f"\n\nHuman: {word}{i // 2}?\n\nAssistant:") for subset, word in SIDES for i in range(40)],
        columns=["subset", "prompt"],
    )
    drawn = sample_prompts(test, train, 10)
    keys = drawn["prompt"].map(first_turn)
    assert keys.is_unique and not set(keys) & set(train["prompt"].map(first_turn))
    assert drawn["side"].value_counts().to_dict() == {"harmful": 10, "helpful": 10}
    with pytest.raises(DataError, match="lower eval_prompts"):
        sample_prompts(test, train, 30)
