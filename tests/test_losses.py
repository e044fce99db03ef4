import math

import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from helpers.core.methods import BY_LOSS
from helpers.training import arguments, losses, rows

LOG_PROBS = st.lists(st.floats(-200, 0), min_size=3, max_size=3).map(lambda x: torch.tensor(x, dtype=torch.float64))
BETAS = st.floats(0.01, 2)


def test_completion_log_probs_by_hand():
    # Two tokens; every position gives probability 0.8 to token 0 and 0.2 to token 1.
    logits = torch.log(torch.tensor([0.8, 0.2])).expand(1, 4, 2)
    labels = torch.tensor([[losses.IGNORED, losses.IGNORED, 0, 1]])
    assert losses.completion_log_probs(logits, labels).item() == pytest.approx(math.log(0.8) + math.log(0.2))
    assert losses.sft_loss(logits, labels).item() == pytest.approx(-(math.log(0.8) + math.log(0.2)) / 2)


def test_each_logit_is_compared_with_the_next_token():
    logits = torch.full((1, 3, 2), -20.0)
    logits[0, 0, 1] = logits[0, 1, 0] = 20.0  # predicts 1, then 0; the last logit predicts nothing
    assert losses.completion_log_probs(logits, torch.tensor([[0, 1, 0]])).item() == pytest.approx(0, abs=1e-6)
    assert losses.completion_log_probs(logits, torch.tensor([[1, 0, 1]])).item() == pytest.approx(-80)


def test_dpo_loss_by_hand():
    values = [torch.tensor([x]) for x in (-10.0, -12.0, -11.0, -11.5)]
    loss, chosen, rejected = losses.dpo_loss(*values, beta=0.1)
    assert chosen.item() == pytest.approx(0.1) and rejected.item() == pytest.approx(-0.05)
    assert loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(-0.15))))
    assert losses.unreferenced_loss(*values[:2], beta=0.1).item() == pytest.approx(math.log(1 + math.exp(-0.2)))
    assert losses.bradley_terry_loss(*values[:2]).item() == pytest.approx(math.log(1 + math.exp(-2.0)))


@given(LOG_PROBS, LOG_PROBS, BETAS)
def test_dpo_loss_is_ln_2_where_policy_and_reference_agree(chosen, rejected, beta):
    loss, chosen_reward, rejected_reward = losses.dpo_loss(chosen, rejected, chosen, rejected, beta)
    assert torch.allclose(loss, torch.full_like(loss, math.log(2)))
    assert not chosen_reward.any() and not rejected_reward.any()


@given(LOG_PROBS, LOG_PROBS, LOG_PROBS, LOG_PROBS, BETAS, st.floats(-50, 50))
def test_dpo_loss_does_not_see_a_common_shift(pc, pr, rc, rr, beta, shift):
    plain = losses.dpo_loss(pc, pr, rc, rr, beta)[0]
    assert torch.allclose(losses.dpo_loss(pc + shift, pr + shift, rc, rr, beta)[0], plain)
    assert torch.allclose(losses.dpo_loss(pc + shift, pr, rc + shift, rr, beta)[0], plain)


@given(LOG_PROBS, LOG_PROBS, LOG_PROBS, LOG_PROBS, BETAS)
def test_dpo_loss_is_bradley_terry_on_implicit_rewards(pc, pr, rc, rr, beta):
    loss, chosen, rejected = losses.dpo_loss(pc, pr, rc, rr, beta)
    assert torch.allclose(loss, losses.bradley_terry_loss(chosen, rejected))
    flat = torch.zeros_like(rc)  # a reference without preference gives the loss printed in the paper
    assert torch.allclose(losses.unreferenced_loss(pc, pr, beta), losses.dpo_loss(pc, pr, flat, flat, beta)[0])
    # The gradient pushes each side with the same weight, beta * sigmoid(rejected - chosen reward): equation 7's.
    assert (loss >= 0).all()


def test_labels_of_completion():
    ids = torch.tensor([[5, 6, 7, 1], [5, 6, 7, 8]])
    labels = losses.labels_of_completion(ids, torch.tensor([1, 3]), torch.tensor([3, 4]))
    assert labels.tolist() == [[-100, 6, 7, -100], [-100, -100, -100, 8]]


def moved(method, settings, out):
    """TRL's trainer of a method whose adapter has left its reference, a batch, and TRL's loss of it."""
    from helpers.core.quiet import quiet
    from helpers.training.dpo import preference_trainer

    rows = tiny.made_up(6)
    with quiet():
        trainer = preference_trainer(tiny.policy_folder(), rows, rows, settings, out, method)
        model = trainer.model.eval()
        torch.manual_seed(0)
        for name, weight in model.named_parameters():
            if "lora_B" in name:  # zero at first, and then policy and reference are one
                weight.data.normal_(std=0.05)
        batch = next(iter(trainer.get_eval_dataloader(trainer.train_dataset)))
        with torch.no_grad():
            expected = trainer.compute_loss(model, batch).item()
    return trainer, model, batch, expected


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "robust"])
def test_losses_with_a_reference_equal_trl(loss, tmp_path):
    method = BY_LOSS[loss]
    settings = tiny.settings(preference_loss=loss, beta=0.3, dpo_batch_size=6)
    _, model, batch, expected = moved(method, settings, tmp_path)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, losses.IGNORED)
    log_probs = losses.mean_log_probs if loss == "ipo" else losses.completion_log_probs
    with torch.no_grad():
        policy = log_probs(model(**inputs).logits, labels).chunk(2)
        with model.disable_adapter():
            reference = log_probs(model(**inputs).logits, labels).chunk(2)
    values = {"beta": settings.beta} | ({"label_smoothing": settings.label_smoothing} if loss == "robust" else {})
    found = getattr(losses, method.formula)(*policy, *reference, **values)
    found = (found[0] if isinstance(found, tuple) else found).mean().item()
    assert found == pytest.approx(expected, rel=1e-5)
    assert abs(found - method.expected_first_loss(settings)) > 1e-3


@pytest.mark.parametrize("loss", ["simpo", "orpo"])
def test_losses_without_a_reference_equal_trl(loss, tmp_path):
    settings = tiny.settings(preference_loss=loss, dpo_batch_size=6)
    trainer, model, batch, expected = moved(BY_LOSS[loss], settings, tmp_path)
    both = trainer.concatenated_inputs(batch, padding_value=trainer.processing_class.pad_token_id)
    ids, mask = both["concatenated_input_ids"], both["concatenated_attention_mask"]
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
    chosen, rejected = losses.mean_log_probs(logits, both["concatenated_labels"]).chunk(2)
    if loss == "simpo":
        found = losses.simpo_loss(chosen, rejected, settings.simpo_beta, settings.simpo_gamma)
    else:
        whole = ids.masked_fill(mask == 0, losses.IGNORED).chunk(2)[0]  # the prompt's tokens count too
        found = losses.orpo_loss(losses.sft_loss(logits.chunk(2)[0], whole), chosen, rejected, settings.orpo_weight)
    assert found.mean().item() == pytest.approx(expected, rel=1e-5)


@given(LOG_PROBS, LOG_PROBS, LOG_PROBS, LOG_PROBS, BETAS)
def test_robust_loss_without_swapped_labels_is_dpo(pc, pr, rc, rr, beta):
    assert torch.allclose(losses.robust_loss(pc, pr, rc, rr, beta, 0.0), losses.dpo_loss(pc, pr, rc, rr, beta)[0])


@given(LOG_PROBS, LOG_PROBS, LOG_PROBS, LOG_PROBS, BETAS, st.floats(0, 0.45))
def test_robust_loss_is_right_on_average_whoever_swaps_the_labels(pc, pr, rc, rr, beta, share):
    as_labelled = losses.robust_loss(pc, pr, rc, rr, beta, share)
    swapped = losses.robust_loss(pr, pc, rr, rc, beta, share)
    clean = losses.dpo_loss(pc, pr, rc, rr, beta)[0]
    assert torch.allclose((1 - share) * as_labelled + share * swapped, clean, atol=1e-9, rtol=1e-9)


@given(LOG_PROBS, LOG_PROBS, BETAS)
def test_ipo_loss_is_least_at_its_margin(chosen, rejected, beta):
    zero = torch.zeros_like(chosen)
    at_rest = losses.ipo_loss(chosen, rejected, chosen, rejected, beta)
    assert torch.allclose(at_rest, torch.full_like(at_rest, (1 / (2 * beta)) ** 2))
    assert torch.allclose(losses.ipo_loss(zero + 1 / (2 * beta), zero, zero, zero, beta), zero)


@given(st.floats(-5, -0.01), st.floats(0.01, 5))
def test_orpo_loss_by_hand(log_prob, nll):
    p, q = math.exp(log_prob), 0.5
    ratio = (p / (1 - p)) / (q / (1 - q))
    found = losses.orpo_loss(*(torch.tensor([x], dtype=torch.float64) for x in (nll, log_prob, math.log(q))), 0.1)
    assert found.item() == pytest.approx(nll - 0.1 * math.log(ratio / (1 + ratio)))


@pytest.mark.parametrize("completion_only", [True, False])
def test_sft_loss_equals_trl(tmp_path, completion_only):
    from trl import SFTConfig, SFTTrainer

    from helpers.core.quiet import quiet
    from helpers.models.loading import load_policy
    from helpers.training.sft import _sft_rows

    tokenizer = tiny.policy()[1]
    plan = arguments.training_arguments(
        SFTConfig, tiny.settings(), tmp_path, epochs=1, rate=1e-4, batch=6, max_length=96
    )
    with quiet():
        trainer = SFTTrainer(
            load_policy(tiny.policy_folder(), dropout=0.0, device="cpu"),
            plan,
            train_dataset=rows.dataset(_sft_rows(tiny.made_up(6), completion_only)),
            processing_class=tokenizer,
        )
        batch = next(iter(trainer.get_eval_dataloader(trainer.train_dataset)))
        with torch.no_grad():
            expected = trainer.compute_loss(trainer.model.eval(), batch).item()
    model = load_policy(tiny.policy_folder(), dropout=0.0, device="cpu")
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert losses.sft_loss(logits, batch["labels"]).item() == pytest.approx(expected, rel=1e-5)
    counted = (batch["labels"] != losses.IGNORED).sum().item()
    whole = batch["attention_mask"].sum().item()
    assert counted < 0.7 * whole if completion_only else counted == whole


def test_reward_loss_equals_trl():
    scores = torch.tensor([[1.5, -0.5, 2.0], [0.0, 0.5, -3.0]])
    assert torch.equal(losses.bradley_terry_loss(*scores), -F.logsigmoid(scores[0] - scores[1]))
