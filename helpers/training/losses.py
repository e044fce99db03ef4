"""The losses of the course in plain torch, to read; trainings use TRL's, and tests check that both are equal."""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # a label with this value takes no part in a loss


def _token_log_probs(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """log pi(y_t | y_<t) of each counted label, 0 elsewhere, and the mask of counted labels: both (batch, length-1)."""
    # The logits at position t predict token t+1: leave out the last logits and the first label.
    logits, labels = logits[:, :-1].float(), labels[:, 1:]
    counted = labels != IGNORED
    # Softmax over the vocabulary; take the log-probability of the token that follows.
    wanted = labels.masked_fill(~counted, 0).unsqueeze(-1)
    log_probs = logits.log_softmax(dim=-1).gather(-1, wanted).squeeze(-1)
    return log_probs.masked_fill(~counted, 0.0), counted


def completion_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """log pi(y|x): the summed log-probability of each row's completion.

    logits (batch, length, vocabulary), labels (batch, length) aligned with the input ids and -100 outside the
    completion. Returns (batch,), in nats.
    """
    return _token_log_probs(logits, labels)[0].sum(dim=1)


def mean_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """log pi(y|x) / |y|: the mean log-probability of the tokens of each row's completion.

    logits, labels: as for `completion_log_probs`. Returns (batch,), in nats a token.
    """
    log_probs, counted = _token_log_probs(logits, labels)
    return log_probs.sum(dim=1) / counted.sum(dim=1)


def sft_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The SFT loss: mean cross-entropy per counted token of the batch (maximum likelihood).

    logits, labels: as for `completion_log_probs`. Returns a scalar, in nats a token.
    """
    log_probs, counted = _token_log_probs(logits, labels)
    return -log_probs.sum() / counted.sum()


def dpo_loss(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Direct preference optimisation: Rafailov et al. 2023 (arXiv 2305.18290), equation 7.

    policy_chosen, policy_rejected, ref_chosen, ref_rejected: log pi(y|x) of both completions under the policy and under
    the reference model, shape (pairs,), in nats. beta: the larger, the nearer the policy stays to the reference model.
    The implicit reward of a completion is beta * (log pi(y|x) - log pi_ref(y|x)); the loss is
    -log sigmoid(chosen reward - rejected reward), ln 2 where policy and reference model agree.
    Returns (loss per pair, chosen reward, rejected reward), each (pairs,).
    """
    chosen_reward = beta * (policy_chosen - ref_chosen)
    rejected_reward = beta * (policy_rejected - ref_rejected)
    return -F.logsigmoid(chosen_reward - rejected_reward), chosen_reward, rejected_reward


def ipo_loss(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Tensor:
    """Identity preference optimisation: Azar et al. 2023 (arXiv 2310.12036), equation 17, where beta is called tau.

    policy_chosen, policy_rejected, ref_chosen, ref_rejected: log pi(y|x) / |y|, means over the tokens of a completion
    as in TRL, shape (pairs,). beta: 1 / (2 beta) is the margin that is aimed at. The loss is the squared distance of
    the margin from it, so (1 / (2 beta))² where policy and reference model agree: a margin that is too large costs as
    much as one that is too small. Returns the loss per pair.
    """
    margin = (policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)
    return (margin - 1 / (2 * beta)) ** 2


def robust_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float,
    label_smoothing: float,
) -> Tensor:
    """Robust DPO: Chowdhury et al. 2024 (arXiv 2403.00409), unbiased where a share of the labels is swapped.

    policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta: as for `dpo_loss`. label_smoothing: the share of
    pairs with swapped labels, below 1/2. The loss of a pair is weighted with 1 - share, that of the swapped pair with
    -share, and the sum divided by 1 - 2 share: ln 2 where policy and reference model agree, and below zero for a large
    margin. Returns the loss per pair.
    """
    margin = beta * ((policy_chosen - ref_chosen) - (policy_rejected - ref_rejected))
    as_labelled, swapped = -F.logsigmoid(margin), -F.logsigmoid(-margin)
    return ((1 - label_smoothing) * as_labelled - label_smoothing * swapped) / (1 - 2 * label_smoothing)


def simpo_loss(policy_chosen: Tensor, policy_rejected: Tensor, beta: float, gamma: float) -> Tensor:
    """Simple preference optimisation: Meng et al. 2024 (arXiv 2405.14734). No reference model.

    policy_chosen, policy_rejected: log pi(y|x) / |y|, means over the tokens of a completion, shape (pairs,). The reward
    is beta times that mean. gamma: the margin by which the chosen reward must be larger before the loss falls below
    ln 2. Returns the loss per pair.
    """
    return -F.logsigmoid(beta * (policy_chosen - policy_rejected) - gamma)


def orpo_loss(sft: Tensor, policy_chosen: Tensor, policy_rejected: Tensor, weight: float) -> Tensor:
    """Odds ratio preference optimisation: Hong et al. 2024 (arXiv 2403.07691), where weight is called lambda.

    sft: the `sft_loss` of prompts with chosen completions, a scalar. policy_chosen, policy_rejected: log pi(y|x) / |y|,
    means over the tokens of a completion, shape (pairs,). weight: of the term that compares the odds p / (1 - p) of
    both completions. No reference model. Returns the loss per pair.
    """
    return sft - weight * F.logsigmoid(_log_odds(policy_chosen) - _log_odds(policy_rejected))


def _log_odds(log_prob: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p."""
    return log_prob - torch.log(-torch.expm1(log_prob))


def unreferenced_loss(policy_chosen: Tensor, policy_rejected: Tensor, beta: float) -> Tensor:
    """The loss as printed in arXiv 2509.09055: no reference model. The authors' code did not use it; see `dpo_loss`.

    policy_chosen, policy_rejected: log pi(y|x), shape (pairs,). beta: as for `dpo_loss`. Returns the loss per pair.
    """
    return -F.logsigmoid(beta * (policy_chosen - policy_rejected))


def bradley_terry_loss(chosen_score: Tensor, rejected_score: Tensor) -> Tensor:
    """The loss of a reward model: -log P(chosen is preferred to rejected), Bradley and Terry 1952.

    chosen_score, rejected_score: the reward model's scores, shape (pairs,). Returns the loss per pair, (pairs,).
    """
    return -F.logsigmoid(chosen_score - rejected_score)


def labels_of_completion(input_ids: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """Labels for right-padded rows: the token ids of the completion, -100 on prompt and padding.

    input_ids (batch, length). prompt_lengths, lengths: tokens of the prompt, and of prompt and completion together,
    both (batch,). Returns (batch, length).
    """
    place = torch.arange(input_ids.shape[1], device=input_ids.device)
    inside = (place >= prompt_lengths[:, None]) & (place < lengths[:, None])
    return input_ids.masked_fill(~inside, IGNORED)
