import importlib.util

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import OPTConfig, OPTForCausalLM

from helpers.core.profiles import DATA_CACHE
from helpers.models import ctranslate2, loading
from helpers.models.generation import _left_pad, _likeliest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ctranslate2") is None, reason="asked for on Linux only")
SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 48}
EOS, MOST = 5, 7


def random_opt(**more):
    torch.manual_seed(0)
    model = OPTForCausalLM(OPTConfig(**SIZES | {"word_embed_proj_dim": 32, "max_position_embeddings": 64} | more))
    for weights in model.parameters():  # large ones: answers vary, and no two tokens are likeliest but for rounding
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.3)
    return model.eval()


MODELS = {
    "350m: norm after, projections": random_opt(do_layer_norm_before=False, word_embed_proj_dim=16),
    "125m: norm before": random_opt(),
}
ROWS = st.lists(st.integers(0, 59), min_size=1, max_size=40)


class Words:
    """As much of a tokenizer as decoding needs."""

    pad_token_id = 1

    def __init__(self, eos_token_id):
        self.eos_token_id = eos_token_id


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=25)
@given(batches=st.lists(st.lists(ROWS, min_size=1, max_size=12), min_size=1, max_size=3))
def test_the_tokens_are_those_of_transformers(name, batches):
    model = MODELS[name]
    batches = [sorted(rows, key=len) for rows in batches]
    assert ctranslate2.takes(model)
    ours = list(ctranslate2.likeliest(model, batches, EOS, MOST))
    theirs = [_likeliest(model, Words(EOS), _left_pad(rows, Words.pad_token_id, "cpu"), MOST) for rows in batches]
    assert ours == theirs


def test_an_answer_ends_with_eos_or_when_it_is_long_enough():
    model, batch = MODELS["125m: norm before"], sorted(([i] * (1 + i % 9) for i in range(60)), key=len)
    endless = _likeliest(model, Words(-1), _left_pad(batch, Words.pad_token_id, "cpu"), MOST)
    eos = endless[0][3]
    (answers,) = ctranslate2.likeliest(model, [batch], eos, MOST)
    assert answers == [row[: row.index(eos) + 1] if eos in row else row for row in endless]
    assert 0 < sum(row[-1] == eos for row in answers) < len(answers)


def test_torch_keeps_its_threads_and_its_random_numbers():
    before, state = torch.get_num_threads(), torch.get_rng_state()
    try:
        torch.set_num_threads(2)
        list(ctranslate2.likeliest(MODELS["125m: norm before"], [[[2, 7]]], EOS, MOST))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.get_rng_state(), state)


def with_adapter():
    from peft import LoraConfig, inject_adapter_in_model

    return inject_adapter_in_model(LoraConfig(target_modules=["q_proj"], r=2), random_opt())


@pytest.mark.parametrize(
    "other",
    [
        with_adapter,
        lambda: random_opt().bfloat16(),
        lambda: random_opt(activation_function="gelu"),
        lambda: random_opt(enable_bias=False),
        lambda: random_opt(layer_norm_elementwise_affine=False),
        lambda: random_opt(_remove_final_layer_norm=True),
        lambda: tiny.reward_model()[0],
        lambda: random_opt().to("meta"),
    ],
    ids=["adapter", "bfloat16", "gelu", "no bias", "plain norms", "no last norm", "no policy", "elsewhere"],
)
def test_what_it_would_get_wrong_it_leaves_to_transformers(other):
    assert not ctranslate2.takes(other())


def test_a_large_policy_is_left_to_transformers_and_so_are_all_where_the_engine_is_missing(monkeypatch):
    model = random_opt()
    with monkeypatch.context() as patch:
        patch.setattr(ctranslate2, "LARGEST", model.num_parameters() - 1)
        assert not ctranslate2.takes(model)
    monkeypatch.setattr(ctranslate2.importlib.util, "find_spec", lambda name: None)
    assert not ctranslate2.takes(model)


def test_the_shipped_policy_answers_through_it():
    assert ctranslate2.takes(loading.load_policy(DATA_CACHE / "policy", device="cpu"))
