"""An adapter's folder is a policy: merged once with the model that it names."""

import json

import pytest
import tiny
import torch

from helpers.core import quiet
from helpers.models import loading, sizes


@pytest.fixture
def adapter(tmp_path, results):
    """An adapter on a random GPT-2 whose folder it names, and that base."""
    from peft import LoraConfig, get_peft_model

    tokenizer = tiny.TOKENIZERS["no bos, no pad"]()
    base = tiny.folder_of(tokenizer, tmp_path / "base", "gpt2")
    with quiet.quiet():
        lora = get_peft_model(
            loading.load_policy(base, device="cpu"),
            LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False),
        )
        lora.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", base, lora.eval()


def test_an_adapter_folder_is_merged_once(adapter, capsys):
    folder, base, lora = adapter
    model, tokenizer = loading.load_policy(folder, device="cpu"), loading.load_tokenizer(folder)
    loading.load_policy(folder, device="cpu")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and "merging the adapter into its base model" in said[0]
    assert not hasattr(model, "peft_config") and tokenizer("dog")["input_ids"]
    ids = torch.arange(4, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, lora(input_ids=ids).logits, atol=1e-3, rtol=1e-3)
        assert (model(ids).logits - loading.load_policy(base, device="cpu")(ids).logits).abs().max() > 0.1
    assert sizes.shape_of(folder) == sizes.shape_of(base)


def test_a_changed_base_is_merged_again(adapter, capsys):
    folder, base, _ = adapter
    loading.load_policy(folder, device="cpu")
    model = loading.load_policy(base, device="cpu")
    model.transformer.wte.weight.data += 1
    model.save_pretrained(base)
    capsys.readouterr()
    loading.load_policy(folder, device="cpu")
    assert "merging" in capsys.readouterr().out


def test_an_adapter_without_its_base_is_refused(adapter):
    folder, _, _ = adapter
    config = json.loads((folder / "adapter_config.json").read_text())
    for name, reason in (
        ("no-such-folder", "needs its base model 'no-such-folder'"),
        (None, "does not say which model"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": name}))
        assert reason in tiny.refused(loading.load_policy, folder)
    other = tiny.policy_folder()
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(other)}))
    assert "does not fit its base model" in tiny.refused(loading.load_policy, folder)


def test_an_adapter_beside_a_whole_model_is_refused(adapter):
    folder, base, _ = adapter
    (folder / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    assert "holds both an adapter" in tiny.refused(loading.load_policy, folder)
