import json

import pytest
import tiny
import torch

from helpers.core.errors import DataError
from helpers.models import loading, small_models

TEXT = "\n\nHuman: Where… is\u00a0the dog?\n\nAssistant: Over there, 3 km! \u00e9\u4e2d"


def test_policy_tokenizer_follows_opt():
    tokenizer = tiny.policy()[1]
    assert [tokenizer.convert_tokens_to_ids(t) for t in ("<s>", "<pad>", "</s>", "<unk>")] == [0, 1, 2, 3]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2, 1)
    ids = tokenizer(TEXT)["input_ids"]
    assert ids[0] == 2 and ids[-1] != 2 and 3 not in ids
    assert tokenizer.decode(ids[1:], clean_up_tokenization_spaces=False) == TEXT
    assert len(tokenizer) <= 400


def test_reward_tokenizer_follows_deberta():
    tokenizer = tiny.reward_model()[1]
    names = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
    assert [tokenizer.convert_tokens_to_ids(t) for t in names] == [0, 1, 2, 3, 4]
    encoded = tokenizer(TEXT, " Yes.")
    assert set(encoded) == {"input_ids", "attention_mask"}
    ids = encoded["input_ids"]
    assert ids[0] == 1 and ids.count(2) == 2 and ids[-1] == 2 and 3 not in ids
    assert tokenizer.truncation_side == "left"


def test_tokenizers_survive_a_round_trip_beside_their_models(tmp_path):
    for name, (model, tokenizer) in {"policy": tiny.policy(), "reward_model": tiny.reward_model()}.items():
        loading.save_model(model, tokenizer, tmp_path / name)
        folder = tmp_path / name
        again = loading.load_tokenizer(folder) if name == "policy" else loading.load_reward_model(folder, "cpu")[1]
        assert again(TEXT, " Yes.")["input_ids"] == tokenizer(TEXT, " Yes.")["input_ids"]
        assert again.pad_token_id == tokenizer.pad_token_id and again.eos_token_id == tokenizer.eos_token_id
    assert loading.load_reward_model(tmp_path / "reward_model", "cpu")[1].truncation_side == "left"


def test_policy_has_the_shape_of_opt_350m():
    model = tiny.policy()[0]
    config = model.config
    assert not config.do_layer_norm_before and config.word_embed_proj_dim < config.hidden_size
    assert model.model.decoder.final_layer_norm is None and model.model.decoder.project_in is not None
    assert model.lm_head.weight is model.model.decoder.embed_tokens.weight
    default = small_models.new_policy(tiny.policy()[1], seed=0)
    assert default.config.dropout == 0.1 and default.config.max_position_embeddings == 512


def test_seeds_decide_the_weights():
    tokenizer = tiny.policy()[1]
    first, again, other = (
        small_models.new_policy(tokenizer, seed=s, hidden=64, layers=1).state_dict() for s in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_dropout_is_what_the_caller_says():
    for dropout in (0.0, 0.3):
        model = loading.load_policy(tiny.policy_folder(), dropout=dropout, device="cpu")
        assert {layer.dropout for layer in model.model.decoder.layers} == {dropout}
        assert not model.training
    inputs = {"input_ids": torch.tensor([[2, 20, 21, 22]])}
    with torch.no_grad():
        model.train()
        assert not torch.equal(model(**inputs).logits, model(**inputs).logits)


def test_float16_files_are_loaded_as_float32(tmp_path):
    tokenizer = tiny.policy()[1]
    loading.save_model(
        small_models.new_policy(tokenizer, seed=0, hidden=64, layers=2), tokenizer, tmp_path, dtype=torch.float16
    )
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == ["model.safetensors"]
    model = loading.load_policy(tmp_path, dropout=0.0, device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.model.decoder.embed_tokens.weight


def test_merged_adapter_answers_like_policy_and_adapter(tmp_path):
    from peft import LoraConfig, get_peft_model

    policy = loading.load_policy(tiny.policy_folder(), dropout=0.0, device="cpu")
    torch.manual_seed(0)
    lora = get_peft_model(policy, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)).eval()
    lora.save_pretrained(tmp_path / "adapter")
    loading.merge_adapter(tiny.policy_folder(), tmp_path / "adapter", tmp_path / "model")
    merged = loading.load_policy(tmp_path / "model", dropout=0.0, device="cpu")
    ids = torch.tensor([[2, 20, 21, 22, 40]])
    with torch.no_grad():
        expected = lora(input_ids=ids).logits
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
        assert (tiny.policy()[0](input_ids=ids).logits - expected).abs().max() > 0.1


def test_count_parameters():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    model[0].requires_grad_(False)
    assert loading.count_parameters(model) == (3, 11)


@pytest.mark.parametrize("source", ["no-such-folder", "nobody/no-such-model", "empty"])
def test_a_missing_model_is_one_line(source, tmp_path):
    if source == "empty":
        source = tmp_path
    for load in (loading.load_tokenizer, loading.load_policy, loading.load_reward_model):
        with pytest.raises(DataError) as caught:
            load(source)
        assert "\n" not in str(caught.value) and str(source) in str(caught.value)


def test_loading_is_silent(capfd):
    loading.load_policy(tiny.policy_folder(), device="cpu")
    assert capfd.readouterr() == ("", "")
