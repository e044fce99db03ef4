import pytest
import tiny
import torch

from helpers.core.errors import SettingsError
from helpers.models import ctranslate2
from helpers.models.generation import generate

PROMPTS = ["\n\nHuman: dog?\n\nAssistant:", *tiny.made_up(9)["prompt"], "", "\n\nHuman: dog?\n\nAssistant:"]


def run(prompts=PROMPTS, policy=None, batch_size=4, max_new_tokens=12, **more):
    return generate(
        policy or tiny.policy(), prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, device="cpu", **more
    )


@pytest.fixture(params=["inference engine", "transformers"], autouse=True)
def way(request, monkeypatch):
    """Every test of this file runs through both ways to decode."""
    if request.param == "transformers":
        monkeypatch.setattr(ctranslate2, "takes", lambda model: False)


def test_batches_give_what_one_prompt_at_a_time_gives():
    alone = run(batch_size=1)
    for batch_size in (3, 50):
        assert run(batch_size=batch_size).equals(alone)
    assert list(alone.columns) == ["response", "tokens", "ended"]
    assert alone["response"].nunique() > 5 and alone.iloc[0].equals(alone.iloc[-1])


def test_tokens_are_the_argmax_of_a_plain_forward_pass():
    model, tokenizer = tiny.policy()
    ids = tokenizer(PROMPTS[1], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        for _ in range(12):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    new = ids[0, -12:].tolist()
    assert run([PROMPTS[1]])["response"][0] == tokenizer.decode(new, clean_up_tokenization_spaces=False)


def ending_with(word_id):
    """The shared policy with a tokenizer that calls another token EOS."""
    from helpers.models.loading import load_tokenizer

    tokenizer = load_tokenizer(tiny.policy_folder())
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(word_id)
    return tiny.policy()[0], tokenizer


def greedy_ids(prompt, n):
    model, tokenizer = tiny.policy()
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        for _ in range(n):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, -n:].tolist()


def test_eos_at_once_is_an_empty_response_of_one_token():
    policy = ending_with(greedy_ids(PROMPTS[0], 1)[0])
    row = run([PROMPTS[0]], policy).iloc[0]
    assert (row["response"], row["tokens"], row["ended"]) == ("", 1, True)


def test_what_follows_eos_is_left_out_and_rows_end_on_their_own():
    ids = greedy_ids(PROMPTS[2], 12)
    at = next(i for i in range(2, 12) if ids[i] not in ids[:i])
    policy = ending_with(ids[at])
    together, alone = run(policy=policy, batch_size=50), run(policy=policy, batch_size=1)
    assert together.equals(alone)
    row = together.iloc[2]
    assert row["ended"] and row["tokens"] == at + 1
    assert row["response"] == tiny.policy()[1].decode(ids[:at], clean_up_tokenization_spaces=False)
    assert (together.loc[~together["ended"], "tokens"] == 12).all()


def test_a_prompt_that_is_too_long_loses_its_beginning():
    long = "\n\nHuman: " + "dog cat house river " * 60 + "?\n\nAssistant:"
    model, tokenizer = tiny.policy()
    assert len(tokenizer(long)["input_ids"]) > model.config.max_position_embeddings
    assert 1 <= run([long], batch_size=1)["tokens"][0] <= 12
    with pytest.raises(SettingsError, match="no room"):
        run([long], max_new_tokens=128)


def test_nothing_else_changes():
    model = tiny.policy()[0].train()
    state = torch.get_rng_state()
    heard = []
    try:
        run(progress=lambda done, total: heard.append((done, total)))
        assert model.training
    finally:
        model.eval()
    assert torch.equal(torch.get_rng_state(), state)
    assert heard == [(4, 12), (8, 12), (12, 12)]
    assert run([]).empty


def test_a_folder_is_loaded():
    assert run(policy=tiny.policy_folder()).equals(run())


def test_samples_are_the_seeds_and_leave_the_generator_alone():
    state = torch.get_rng_state()
    first = run(sample_seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert run(sample_seed=1).equals(first)
    assert not run(sample_seed=2)["response"].equals(first["response"])
    assert not run()["response"].equals(first["response"])


def test_samples_follow_the_whole_distribution():
    """The first token, drawn often, comes as often as the softmax says: no top-k, no temperature."""
    model, tokenizer = tiny.policy()
    ids = tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        chances = model(input_ids=ids).logits[0, -1].softmax(-1)
    drawn = run([PROMPTS[0]] * 600, batch_size=600, max_new_tokens=1, sample_seed=0)
    outside = chances.topk(50).indices
    rare = {tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in range(len(chances)) if i not in outside}
    share = drawn["response"].isin(rare).mean()
    expected = 1 - float(chances.topk(50).values.sum())
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 600) ** 0.5 + 0.05
