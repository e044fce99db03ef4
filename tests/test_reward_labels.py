"""Any sequence classifier with one or two labels is a reward model."""

import pytest
import tiny
import torch
from transformers import AutoModelForSequenceClassification

from helpers.core.errors import CourseError
from helpers.models import loading, scoring
from helpers.training.reward_model import train_reward_model

PAIRS = tiny.made_up(8, seed=3)
PROMPT = "\n\nHuman: dog?\n\nAssistant:"


def reward_model(tmp_path, family, kind, labels, **more):
    tokenizer = tiny.TOKENIZERS[kind]()
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    model = tiny.family_model(family, tokenizer, AutoModelForSequenceClassification, **names, **more)
    loading.save_model(model, tokenizer, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("family", "kind"),
    [("gpt2", "no bos, no pad"), ("llama", "bos, no pad"), ("llama", "bos, pad"), ("gpt_neox", "no bos, pad")],
)
def test_a_decoder_scores_batches_as_it_scores_single_rows(family, kind, tmp_path):
    loaded = loading.load_reward_model(reward_model(tmp_path, family, kind, ["only"]), "cpu")
    assert loaded[0].config.pad_token_id == loaded[1].pad_token_id is not None
    alone, together = (
        scoring.score(loaded, list(PAIRS["prompt"]), list(PAIRS["chosen"]), batch_size=size) for size in (1, 8)
    )
    assert together == pytest.approx(alone, abs=1e-4) and alone.std() > 0.01
    ids = torch.tensor([loaded[1](PAIRS["prompt"][0] + PAIRS["chosen"][0])["input_ids"]])
    with torch.no_grad():
        assert alone[0] == pytest.approx(loaded[0](ids).logits[0, 0].item(), abs=1e-4)


def test_a_classifier_that_sees_less_gets_shorter_rows(tmp_path):
    loaded = loading.load_reward_model(reward_model(tmp_path, "gpt2", "bos, pad", ["only"]), "cpu")
    long, end = "dog cat " * 200, " the happy house."
    plain, doubled = (scoring.score(loaded, [text], [end], batch_size=1)[0] for text in (long, long + long))
    assert plain == pytest.approx(doubled, abs=1e-5), "the newest 128 tokens are the same"
    [ids] = scoring.encode_pairs(loaded[1], [long], [end], 128)["input_ids"]
    assert len(ids) == 128 and ids[0] == loaded[1].bos_token_id and loaded[1].decode(ids).endswith(end)


@pytest.mark.parametrize(
    ("labels", "good"),
    [(["LABEL_0", "LABEL_1"], 1), (["negative", "positive"], 1), (["chosen", "rejected"], 0), (["Safe", "Toxic"], 0)],
)
def test_two_labels_make_one_score(labels, good, tmp_path, capsys):
    loading._say.cache_clear()
    folder = reward_model(tmp_path, "llama", "bos, pad", labels)
    loaded = loading.load_reward_model(folder, "cpu")
    loading.load_reward_model(folder, "cpu")
    (said,) = capsys.readouterr().out.splitlines()
    assert said.endswith(f"the logit of '{labels[good]}' minus that of '{labels[1 - good]}'")
    score = scoring.score(loaded, [PROMPT], [" Yes."], batch_size=1)[0]
    with torch.no_grad():
        logits = loaded[0](torch.tensor([loaded[1](PROMPT + " Yes.")["input_ids"]])).logits[0]
    assert score == pytest.approx((logits[good] - logits[1 - good]).item(), abs=1e-5)
    with pytest.raises(CourseError, match="two labels can score but not be trained"):
        train_reward_model(folder, None, PAIRS, PAIRS, tiny.settings(), tmp_path / "out")


def test_more_labels_are_refused(tmp_path):
    folder = reward_model(tmp_path, "llama", "bos, pad", ["bad", "middling", "good"])
    assert "has 3 labels" in tiny.refused(lambda source: loading.load_reward_model(source, "cpu"), folder)
