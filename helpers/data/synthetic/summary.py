"""Counts and shares of a tranche (one subset and split of the embedded world), for the card of data_cache/."""

from collections import Counter
from collections.abc import Iterable

from helpers.data.synthetic.flaws import CUE


def describe(pairs: list[dict], truth: list[dict]) -> dict:
    """Counts and shares of a tranche: kinds of reply, flaws, labels that agree with the utilities, turns, lengths.

    pairs: {"chosen", "rejected"}, whole transcripts. truth: what `generate_pairs` returns beside them, in the same
    order. Clear pairs have utilities that lie more than 1 apart. Shares run from 0 to 1, lengths are in words.
    """
    chosen = [_reply(pair["chosen"]) for pair in pairs]
    rejected = [_reply(pair["rejected"]) for pair in pairs]
    # Of the pairs whose replies clearly differ in utility: whether the label names the better one.
    clear = [row["label_agrees"] for row in truth if abs(row["chosen_utility"] - row["rejected_utility"]) > 1]
    turns = Counter(pair["chosen"].count("\n\nHuman:") for pair in pairs)
    return {
        "pairs": len(pairs),
        "chosen_kinds": _counts(truth, "chosen_kind"),
        "rejected_kinds": _counts(truth, "rejected_kind"),
        "flaws": _counts(truth, "flaw"),
        "label_agreement": _mean(row["label_agrees"] for row in truth),
        "clear_share": len(clear) / max(len(truth), 1),
        "clear_label_agreement": _mean(clear),
        "annotator_agreement": _mean(row["annotator_agreement"] for row in truth),
        "longer_chosen": _longer_chosen(chosen, rejected),
        "distinct_chosen": len(set(chosen)) / max(len(pairs), 1),
        "turns": dict(sorted(turns.items())),
        "transcript_words": _mean(_words(pair["chosen"]) for pair in pairs),
        "chosen_words": _mean(map(_words, chosen)),
        "rejected_words": _mean(map(_words, rejected)),
    }


def _reply(transcript: str) -> str:
    return transcript.rsplit(CUE, 1)[1].strip()


def _words(text: str) -> int:
    return len(text.split())


def _counts(truth: list[dict], column: str) -> dict[str, int]:
    """How often each value of a column occurs, the most frequent one first; None is left out."""
    values = Counter(row[column] for row in truth if row[column])
    return dict(values.most_common())


def _longer_chosen(chosen: list[str], rejected: list[str]) -> float:
    """Share of pairs whose chosen reply has more words than the rejected one; pairs of equal length are left out."""
    longer = []
    for one, other in zip(chosen, rejected, strict=True):
        if _words(one) != _words(other):
            longer.append(_words(one) > _words(other))
    return _mean(longer)


def _mean(values: Iterable[float]) -> float:
    """The mean; NaN of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else float("nan")
