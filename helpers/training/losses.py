"""The losses of the course in plain torch, for reading; training uses TRL's, and the tests hold the two together."""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # a label with this value takes no part in a loss


def _token_log_probs(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """log pi(y_t | y_<t) of every counted label, 0 elsewhere, and the mask of counted labels: both (batch, length-1).

    Position t of the logits predicts token t+1, so the last logit and the first label have no partner.
    """
    logits, labels = logits[:, :-1].float(), labels[:, 1:]
    counted = labels != IGNORED
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
    """log pi(y|x) / |y|: the mean log-probability of the tokens of each row's completion. Shapes as above."""
    log_probs, counted = _token_log_probs(logits, labels)
    return log_probs.sum(dim=1) / counted.sum(dim=1)


def sft_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy per counted token of the batch, in nats: maximum likelihood. Shapes as above; a scalar."""
    log_probs, counted = _token_log_probs(logits, labels)
    return -log_probs.sum() / counted.sum()


def dpo_loss(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Direct preference optimisation: Rafailov et al. 2023 (arXiv 2305.18290), equation 7.

    All four inputs are log pi(y|x), shape (pairs,). The implicit reward of a completion is
    beta * (log pi(y|x) - log pi_ref(y|x)); the loss is -log sigmoid(chosen reward - rejected reward), ln 2 where
    policy and reference agree. Returns (loss per pair, chosen reward, rejected reward), each (pairs,).
    """
    chosen_reward = beta * (policy_chosen - ref_chosen)
    rejected_reward = beta * (policy_rejected - ref_rejected)
    return -F.logsigmoid(chosen_reward - rejected_reward), chosen_reward, rejected_reward


def ipo_loss(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Tensor:
    """Identity preference optimisation: Azar et al. 2023 (arXiv 2310.12036), equation 17, where beta is called tau.

    All four inputs are log pi(y|x) / |y|, means over the tokens of a completion as in TRL, shape (pairs,). The loss is
    the squared distance of the margin from 1 / (2 beta), so (1 / (2 beta))² where policy and reference agree: a margin
    that is too large costs as much as one that is too small. Returns the loss per pair.
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

    Inputs as in `dpo_loss`; label_smoothing is the share of swapped labels, below 1/2. The loss of a pair counts with
    1 - share, that of the swapped pair is taken off with the share: ln 2 where policy and reference agree, and below
    zero for a large margin. Returns the loss per pair.
    """
    margin = beta * ((policy_chosen - ref_chosen) - (policy_rejected - ref_rejected))
    as_labelled, swapped = -F.logsigmoid(margin), -F.logsigmoid(-margin)
    return ((1 - label_smoothing) * as_labelled - label_smoothing * swapped) / (1 - 2 * label_smoothing)


def simpo_loss(policy_chosen: Tensor, policy_rejected: Tensor, beta: float, gamma: float) -> Tensor:
    """Simple preference optimisation: Meng et al. 2024 (arXiv 2405.14734). No reference model.

    Inputs are log pi(y|x) / |y|, means over the tokens of a completion, shape (pairs,). The reward is beta times that
    mean; the chosen one must be ahead by gamma before the loss falls below ln 2. Returns the loss per pair.
    """
    return -F.logsigmoid(beta * (policy_chosen - policy_rejected) - gamma)


def orpo_loss(sft: Tensor, policy_chosen: Tensor, policy_rejected: Tensor, weight: float) -> Tensor:
    """Odds ratio preference optimisation: Hong et al. 2024 (arXiv 2403.07691), where weight is called lambda.

    sft: the `sft_loss` of prompts with chosen completions, a scalar. The others are log pi(y|x) / |y|, means over the
    tokens of a completion, shape (pairs,). odds = p / (1 - p). No reference model. Returns the loss per pair.
    """
    log_odds = [log_prob - torch.log(-torch.expm1(log_prob)) for log_prob in (policy_chosen, policy_rejected)]
    return sft - weight * F.logsigmoid(log_odds[0] - log_odds[1])


def unreferenced_loss(policy_chosen: Tensor, policy_rejected: Tensor, beta: float) -> Tensor:
    """The loss as printed in arXiv 2509.09055: no reference model. The authors' code did not use it; see `dpo_loss`.

    Inputs log pi(y|x), shape (pairs,); returns the loss per pair.
    """
    return -F.logsigmoid(beta * (policy_chosen - policy_rejected))


def bradley_terry_loss(chosen_score: Tensor, rejected_score: Tensor) -> Tensor:
    """How a reward model learns: -log P(chosen beats rejected), Bradley and Terry 1952. Scores (pairs,) -> (pairs,)."""
    return -F.logsigmoid(chosen_score - rejected_score)


def labels_of_completion(input_ids: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """Labels for right-padded rows: the ids of the completion, -100 on prompt and padding. (batch, length) -> same."""
    place = torch.arange(input_ids.shape[1], device=input_ids.device)
    inside = (place >= prompt_lengths[:, None]) & (place < lengths[:, None])
    return input_ids.masked_fill(~inside, IGNORED)
