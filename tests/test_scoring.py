from itertools import accumulate

import numpy as np
import pytest
import tiny
import torch

from helpers.models import loading
from helpers.models.batching import by_length
from helpers.models.scoring import STRETCH, encode_pairs, pair_scores, score

PAIRS = tiny.made_up(11)
PROMPTS, RESPONSES = list(PAIRS["prompt"]), [*PAIRS["chosen"][:-1], ""]


def run(prompts=PROMPTS, responses=RESPONSES, model=None, batch_size=4, **more):
    return score(model or tiny.reward_model(), prompts, responses, batch_size=batch_size, device="cpu", **more)


def test_batches_give_what_one_row_at_a_time_gives():
    alone = run(batch_size=1)
    assert alone.dtype == np.float64 and alone.shape == (11,) and alone.std() > 0.01
    for batch_size in (3, 50):
        np.testing.assert_allclose(run(batch_size=batch_size), alone, atol=1e-5)


def test_a_score_is_the_raw_logit_of_question_and_answer():
    model, tokenizer = tiny.reward_model()
    encoded = tokenizer(PROMPTS[0], RESPONSES[0], return_tensors="pt")
    with torch.no_grad():
        logit = model(**encoded).logits[0, 0].item()
    assert run()[0] == pytest.approx(logit, abs=1e-3)


def test_a_row_is_two_segments():
    tokenizer = tiny.reward_model()[1]
    (row,) = encode_pairs(tokenizer, ["dog?"], [" Yes."])["input_ids"]
    question, answer = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("dog?", " Yes."))
    assert row == [1, *question, 2, *answer, 2]


def test_too_long_a_question_loses_its_beginning_and_too_long_an_answer_its_end():
    tokenizer = tiny.reward_model()[1]
    question, answer = "dog " * 40, " cat" * 3
    plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (question, answer)]
    (row,) = encode_pairs(tokenizer, [question], [answer], max_length=32)["input_ids"]
    assert len(row) == 32 and row[-len(plain[1]) - 1 :] == [*plain[1], 2]
    kept = row[1 : -len(plain[1]) - 2]
    assert kept == plain[0][-len(kept) :]
    (row,) = encode_pairs(tokenizer, [question], [answer * 20], max_length=32)["input_ids"]
    assert len(row) == 32 and row[:3] == [1, plain[0][-1], 2] and row[-1] == 2
    assert run([question], [answer * 200], max_length=32).shape == (1,)


def test_nothing_to_score():
    assert run([], []).shape == (0,)


def test_progress_and_order():
    heard = []
    backwards = run(PROMPTS[::-1], RESPONSES[::-1], progress=lambda done, total: heard.append((done, total)))
    np.testing.assert_allclose(backwards[::-1], run(), atol=1e-3)
    lengths = [len(ids) for ids in encode_pairs(tiny.reward_model()[1], PROMPTS, RESPONSES)["input_ids"]]
    batches = by_length(lengths, lambda rows, shortest, longest: rows <= 4 and longest <= STRETCH * shortest)
    told = [(done, 11) for done in accumulate(map(len, batches))]
    assert heard == told and heard[-1] == (11, 11)


def test_rows_of_unlike_length_do_not_share_a_batch(monkeypatch):
    model = tiny.reward_model()[0]
    widths, forward = [], model.forward

    def seen(**batch):
        widths.append(batch["attention_mask"].sum(dim=1).tolist())
        return forward(**batch)

    monkeypatch.setattr(model, "forward", seen)
    run(batch_size=50)
    assert sum(map(len, widths)) == len(PROMPTS) and len(widths) > 1
    assert all(max(batch) <= STRETCH * min(batch) for batch in widths)


def test_pair_scores_keep_the_index():
    rows = PAIRS.iloc[5:2:-1]
    scores = pair_scores(tiny.reward_model(), rows, batch_size=4, device="cpu")
    assert list(scores.index) == [5, 4, 3] and list(scores.columns) == ["chosen_score", "rejected_score"]
    np.testing.assert_allclose(scores["rejected_score"], run(list(rows["prompt"]), list(rows["rejected"])), atol=1e-3)


def test_a_folder_is_loaded_in_float32(tmp_path):
    loading.save_model(*tiny.reward_model(), tmp_path)
    np.testing.assert_allclose(run(model=tmp_path), run(), atol=1e-3)
