"""Any causal language model is a policy: load, SFT, DPO, batched answers and scores, for each family of models."""

import itertools
import json
import math

import pytest
import tiny
import torch
from transformers import AutoModelForSequenceClassification, PretrainedConfig

from helpers.core import quiet
from helpers.core.errors import CourseError, SettingsError
from helpers.core.methods import METHODS
from helpers.models import families, generation, loading, sizes
from helpers.pipeline import stages, train
from helpers.pipeline.run import open_run
from helpers.training import dpo, memory, sft
from helpers.training.dpo import _dpo_rows
from helpers.training.rows import dataset
from helpers.training.sft import _sft_rows

PAIRS = tiny.made_up(8, seed=3)
TRAIN, HELDOUT = PAIRS[:4].reset_index(drop=True), PAIRS[4:].reset_index(drop=True)
PROMPTS = ["\n\nHuman: dog?\n\nAssistant:", *tiny.made_up(6)["prompt"], ""]
QUICK = {"sft_batch_size": 2, "dpo_batch_size": 2, "sft_epochs": 1.0, "dpo_epochs": 1.0, "max_new_tokens": 3}


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def policy(request, tmp_path_factory):
    """The folder of a random policy of a family, as the hub would have it."""
    row, folder = tiny.FAMILIES[request.param], tmp_path_factory.mktemp("policy")
    tokenizer = tiny.TOKENIZERS[row.tokenizer]()
    model = tiny.family_model(request.param, tokenizer)
    if "float" in row.files:
        model = model.to(getattr(torch, row.files))
    model.save_pretrained(folder, max_shard_size="40KB" if row.files == "shards" else "1GB")
    tokenizer.save_pretrained(folder)
    assert (len([*folder.glob("*.safetensors")]) > 1) == (row.files == "shards")
    return folder


def answers(policy, batch_size, prompts=PROMPTS, **more):
    return generation.generate(policy, prompts, max_new_tokens=10, batch_size=batch_size, device="cpu", **more)


def test_a_policy_is_loaded_in_float32_with_the_dropout_that_was_asked_for(policy):
    for dropout in (0.2, 0.0):
        model = loading.load_policy(policy, dropout=dropout, device="cpu")
        assert {p.dtype for p in model.parameters()} == {torch.float32} and not model.training
        assert {getattr(model.config, name) for name in families.dropout_fields(model.config)} == {dropout}
        ids = torch.arange(4, 40)[None]
        with torch.no_grad():
            model.train()
            same = torch.equal(model(ids).logits, model(ids).logits)
        assert same == (dropout == 0)


def test_batched_answers_equal_answers_one_by_one(policy):
    alone, together = answers(policy, 1), answers(policy, 8)
    assert together.equals(alone)
    assert alone["response"].nunique() > 3, "answers that hardly vary prove nothing"


def test_answers_are_those_of_a_plain_forward_pass(policy):
    model, tokenizer = loading.load_policy(policy, device="cpu"), loading.load_tokenizer(policy)
    found = answers((model, tokenizer), 8)
    for prompt, tokens in zip(PROMPTS[:-1], found["tokens"], strict=False):
        start = tokenizer(prompt)["input_ids"]
        ids = torch.tensor([start])
        with torch.no_grad():
            for _ in range(tokens):
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
        new = ids[0, len(start) :].tolist()
        whole = prompt + found["response"][PROMPTS.index(prompt)]
        plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        if "\ufffd" not in whole:
            assert tokenizer.decode([*start, *new], **plain) == tokenizer.decode(start, **plain) + whole[len(prompt) :]


def test_samples_do_not_see_the_padding(policy):
    """With logits so far apart that the likeliest token is certain, samples are the likeliest tokens."""
    model, tokenizer = loading.load_policy(policy, device="cpu"), loading.load_tokenizer(policy)
    head = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    head.weight.data *= 1e4
    assert answers((model, tokenizer), 8, sample_seed=0)["response"].equals(answers((model, tokenizer), 1)["response"])


def test_sft_then_dpo(policy, tmp_path):
    tokenizer = loading.load_tokenizer(policy)
    sft.train_sft(policy, TRAIN, HELDOUT, tiny.settings(**QUICK), tmp_path / "sft")
    summary = json.loads((tmp_path / "sft" / "summary.json").read_text())
    assert summary["steps"] == 2 and summary["rows_used"] == 4
    assert summary["example"]["last_ids"][-1] == tokenizer.eos_token_id
    for kind, given in (("all-linear", {}), ("q_v", {"lora_targets": "q_v", "dpo_reference": "precomputed"})):
        out = tmp_path / kind
        dpo.train_preferences(tmp_path / "sft" / "model", TRAIN, HELDOUT, tiny.settings(**QUICK, **given), out)
        summary = json.loads((out / "summary.json").read_text())
        assert summary["first_loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert summary["heldout_first_loss"] == pytest.approx(math.log(2), abs=1e-5)
        model = loading.load_policy(tmp_path / "sft" / "model", device="cpu")
        expected = sizes.shape_of_model(model).adapter(4, kind)
        assert summary["trainable_parameters"] == expected > 0
    assert answers(out / "model", 8).equals(answers(out / "model", 1))


@pytest.mark.parametrize("kind", tiny.TOKENIZERS)
def test_labels_hold_eos_whatever_pads(kind, tmp_path):
    """TRL masks padding by place, not by id: EOS stays a label even where it pads."""
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    tokenizer = tiny.TOKENIZERS[kind]()
    loading.save_model(tiny.family_model("gpt2", tokenizer), tokenizer, tmp_path)
    tokenizer, model = loading.load_tokenizer(tmp_path), loading.load_policy(tmp_path, device="cpu")
    eos = tokenizer.eos_token_id
    assert (tokenizer.pad_token_id == eos) == ("no pad" in kind)
    plain = {"output_dir": str(tmp_path / "out"), "use_cpu": True, "bf16": False, "report_to": "none"}
    with quiet.quiet():
        rows = dataset(_sft_rows(TRAIN, True))
        sft = SFTTrainer(model, SFTConfig(**plain), train_dataset=rows, processing_class=tokenizer)
        batch = sft.data_collator([*sft.train_dataset])
        rows = dataset(_dpo_rows(TRAIN, True))
        dpo = DPOTrainer(model, args=DPOConfig(**plain), train_dataset=rows, processing_class=tokenizer)
        pairs = dpo.data_collator([*dpo.train_dataset])
    assert (batch["attention_mask"] == 0).any() and ((batch["labels"] == eos).sum(dim=1) == 1).all()
    assert ((pairs["completion_mask"] * (pairs["input_ids"] == eos)).sum(dim=1) == 1).all()


def test_positions_that_count_the_padding_would_be_seen(monkeypatch):
    tokenizer = tiny.TOKENIZERS["bos, pad"]()
    loaded = tiny.family_model("gpt2", tokenizer), tokenizer
    alone = answers(loaded, 1)
    assert answers(loaded, 8).equals(alone)
    monkeypatch.setattr(generation, "takes_position_ids", lambda model: False)
    assert (answers(loaded, 8)["response"] != alone["response"]).sum() > 2


@pytest.mark.parametrize(
    ("family", "sees"), [("opt", 128), ("gpt2", 128), ("gpt_neo", 128), ("gpt_neox", 128), ("bloom", None)]
)
def test_positions_are_asked_of_the_config(family, sees):
    model = tiny.family_model(family, tiny.policy()[1])
    assert families.positions(model.config) == sees
    long = "\n\nHuman: " + "dog cat house river " * 60 + "?\n\nAssistant:"
    assert len(answers((model, tiny.policy()[1]), 4, [long, long])) == 2
    settings = tiny.settings(sft_max_length=1024, policy="mine")
    if sees is None:
        assert memory.rows_for_this_device(settings, METHODS["sft"], model)
    else:
        with pytest.raises(SettingsError, match="sees 128 tokens: lower it to 128"):
            memory.rows_for_this_device(settings, METHODS["sft"], model)


@pytest.mark.parametrize(
    ("family", "remark"),
    [("llama", "attention weights only: the family llama"), ("gpt2", None), ("opt", None)],
)
def test_what_dropout_does_not_do_is_said(family, remark, tmp_path, capsys):
    tokenizer = tiny.policy()[1]
    loading._say.cache_clear()
    loading.save_model(tiny.family_model(family, tokenizer), tokenizer, tmp_path)
    for dropout in (0.0, 0.3, 0.3):
        loading.load_policy(tmp_path, dropout=dropout, device="cpu")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == (remark is not None) and (remark is None or remark in said[0])


def test_a_family_without_dropout_says_so():
    config = PretrainedConfig()
    config.model_type = "plain"
    assert families.dropout_fields(config) == ()
    assert families.dropout_remark(config, 0.1) == "dropout = 0.1 changes nothing: the family plain has no dropout"
    assert families.dropout_remark(config, 0.0) is None


def test_q_v_that_nobody_knows_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    model.config = tiny.family_model("mistral", tiny.policy()[1]).config
    with pytest.raises(SettingsError, match=r"'q_v': nobody knows.*'all-linear'"):
        dpo.lora_targets(model, "q_v")


# ------------------------------------------------------------------------------------------------------ what is refused


def test_a_tokenizer_without_eos(tmp_path):
    folder = tiny.folder_of(tiny.byte_tokenizer(pad_token="<|pad|>"), tmp_path)
    assert "names no end-of-sequence token" in tiny.refused(loading.load_tokenizer, folder)


def test_a_tokenizer_that_closes_prompts(tmp_path):
    from tokenizers import processors

    tokenizer = tiny.byte_tokenizer(eos_token="<|end|>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|end|>", special_tokens=[("<|end|>", tokenizer.eos_token_id)]
    )
    assert "closes every text with '<|end|>'" in tiny.refused(
        loading.load_tokenizer, tiny.folder_of(tokenizer, tmp_path)
    )


@pytest.mark.parametrize("token", ["pad", "other"])
def test_a_tokenizer_larger_than_the_embedding(token, tmp_path):
    tokenizer = tiny.TOKENIZERS["bos, no pad"]()
    folder = tiny.folder_of(tokenizer, tmp_path)
    tokenizer.add_tokens([f"<new{i}>" for i in range(4)])
    loading.load_tokenizer(folder)
    if token == "pad":
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    else:
        tokenizer.add_tokens(["<one more>"])
    tokenizer.save_pretrained(folder)
    text = tiny.refused(loading.load_tokenizer, folder)
    assert "belongs to the model" in text and ("its padding token '<pad>'" in text) == (token == "pad")


def test_another_kind_of_model_is_no_policy(tmp_path):
    tokenizer = tiny.policy()[1]
    model = tiny.family_model("llama", tokenizer, AutoModelForSequenceClassification, num_labels=1)
    loading.save_model(model, tokenizer, tmp_path)
    assert "no causal language model" in tiny.refused(loading.load_policy, tmp_path)


def test_pieces_across_the_border_of_a_prompt_are_refused_with_a_way_out(tmp_path):
    tokenizer = tiny.sentence_tokenizer(across=True)
    folder = tiny.folder_of(tokenizer, tmp_path)
    with pytest.raises(CourseError, match=r"prompts change.*joins the colon.*completion_only=False"):
        sft.train_sft(folder, TRAIN, HELDOUT, tiny.settings(**QUICK), tmp_path / "out")


# ------------------------------------------------------------------------------------------------ a run from end to end


def dialogues(folder):
    """A few made-up pairs in HH-RLHF's layout."""
    for seed, (subset, split) in enumerate(itertools.product(("harmless-base", "helpful-base"), ("train", "test"))):
        rows = tiny.made_up(20, seed=seed + 10)
        texts = [{side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for _, row in rows.iterrows()]
        (folder / subset).mkdir(parents=True, exist_ok=True)
        (folder / subset / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    return folder


def test_profile_local_trains_its_own_base_policy_and_reward_model(tmp_path, results):
    sizes = {"eval_prompts": 2, "heldout_pairs": 4, "reward_pairs": 16, "pretrain_epochs": 0.1, "reward_epochs": 1.0}
    run = open_run(profile="local", dataset=str(dialogues(tmp_path / "data")), **sizes)
    base, scorer = stages.base_policy(run), stages.reward_model(run)
    assert loading.load_policy(base).config.model_type == "opt" and len(stages.training_log(run, "base"))
    assert loading.load_reward_model(scorer)[0].config.num_labels == 1
    assert stages.training_summary(run, "reward_model")["steps"] > 0


def test_profile_local_with_a_llama_as_policy_and_a_llama_as_reward_model(tmp_path, results):
    tokenizer = tiny.TOKENIZERS["bos, no pad"]()
    sizes = {"train_pairs": 12, "heldout_pairs": 4, "eval_prompts": 2, "sft_max_length": 96, "dpo_max_length": 96}
    sizes |= {"max_prompt_length": 64, "max_new_tokens": 4, "sft_epochs": 1.0}
    own = tiny.family_model("llama", tokenizer, AutoModelForSequenceClassification, num_labels=2)
    loading.save_model(own, tokenizer, tmp_path / "reward_model")
    places = {"dataset": dialogues(tmp_path / "data"), "policy": tiny.folder_of(tokenizer, tmp_path / "policy")}
    places["reward_model"] = tmp_path / "reward_model"
    run = train.train({"profile": "local", **{name: str(place) for name, place in places.items()}, **sizes})
    assert stages.training_summary(run, "dpo")["first_loss"] == pytest.approx(math.log(2), abs=1e-4)
    scores = stages.scores(run, "sft_dpo")
    assert len(scores) == 4 and scores["score"].notna().all()
