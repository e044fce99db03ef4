"""A tranche in figures: what the card of data_cache/ says about it."""

from collections import Counter


def describe(pairs: list[dict], truth: list[dict]) -> dict:
    """Return counts and shares of a tranche: kinds, flaws, labels that agree with the latent order, turns, lengths.

    Clear pairs have latent utilities that lie more than 1 apart.
    """
    clear = [row["label_agrees"] for row in truth if abs(row["chosen_utility"] - row["rejected_utility"]) > 1]
    replies = {
        side: [pair[side].rsplit("\n\nAssistant:", 1)[1].strip() for pair in pairs] for side in ("chosen", "rejected")
    }
    return {
        "pairs": len(pairs),
        "chosen_kinds": dict(Counter(row["chosen_kind"] for row in truth).most_common()),
        "rejected_kinds": dict(Counter(row["rejected_kind"] for row in truth).most_common()),
        "flaws": dict(Counter(row["flaw"] for row in truth if row["flaw"]).most_common()),
        "label_agreement": _mean(row["label_agrees"] for row in truth),
        "clear_share": len(clear) / max(len(truth), 1),
        "clear_label_agreement": _mean(clear),
        "annotator_agreement": _mean(row["annotator_agreement"] for row in truth),
        "longer_chosen": _mean(
            len(a.split()) > len(b.split())
            for a, b in zip(replies["chosen"], replies["rejected"], strict=True)
            if len(a.split()) != len(b.split())
        ),
        "distinct_chosen": len(set(replies["chosen"])) / max(len(pairs), 1),
        "turns": dict(sorted(Counter(pair["chosen"].count("\n\nHuman:") for pair in pairs).items())),
        "transcript_words": _mean(len(pair["chosen"].split()) for pair in pairs),
        "chosen_words": _mean(len(reply.split()) for reply in replies["chosen"]),
        "rejected_words": _mean(len(reply.split()) for reply in replies["rejected"]),
    }


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values) if values else float("nan")
