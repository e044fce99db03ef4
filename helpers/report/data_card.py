"""The card of the embedded world, data_cache/README.md: every figure in it is computed from the files beside it."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from helpers import experiments
from helpers.core import store
from helpers.core.files import read_json
from helpers.core.names import METRIC_NAMES, label
from helpers.core.profiles import DATA_CACHE, RECIPES
from helpers.data import synthetic
from helpers.data.synthetic import flaws
from helpers.data.synthetic.annotators import crowd
from helpers.data.synthetic.world import SPOILED_KINDS
from helpers.evaluation import metrics
from helpers.pipeline import data_cache

SUBSETS = (synthetic.HARMLESS, synthetic.HELPFUL)
# Bounds of the difference between the latent utilities of two replies: from close pairs to clear ones
GAPS = {"0.0 to 0.5": (0.0, 0.5), "0.5 to 1.0": (0.5, 1.0), "1.0 to 2.0": (1.0, 2.0), "over 2.0": (2.0, 99.0)}
FAILURES = {"empty": "empty", "garbage": "garbage", "repeats itself": "repeating", "runs on": "run_on"}  # name -> kind


def write() -> Path:
    """Write the card; returns its path. Raises DataError when a table of experiments is missing."""
    path = DATA_CACHE / "README.md"
    path.write_text(render(), encoding="utf-8")
    return path


def render() -> str:
    """The card as Markdown, the same for the same files. Raises DataError when a table of experiments is missing."""
    folder = FileSystemLoader(Path(__file__).parent / "templates")
    template = Environment(loader=folder, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    template.filters["table"] = _markdown
    table, record = experiments.load("seeds"), experiments.record("seeds")
    described = _described()
    parts = {
        "made_from": data_cache.made_from(),
        "sizes": _sizes(),
        # The dialogues
        "crowd": _crowd(),
        "dialogues": _dialogues(described),
        "flaws": _flaws(described),
        # The two models
        "policy": _policy(table),
        "reward_model": _reward_model(),
        # The experiment over training seeds
        "cutoffs": record["thresholds"],
        "sweep": _sweep(table, record),
    }
    return template.get_template("card.md.j2").render(parts)


def _markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown."""
    lines = [list(map(str, frame.columns)), ["---"] * frame.shape[1], *frame.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _percent(share: float, digits: int = 1) -> str:
    """A share as percent, without the sign."""
    return f"{100 * share:.{digits}f}"


def _sizes() -> dict:
    """Megabytes of the files by part, and how much there is to talk about."""
    from helpers.data.synthetic.topics import intents, topics

    # The first folder of a file's path names its part
    bytes_of = pd.Series({name: file["bytes"] for name, file in store.files_of(DATA_CACHE).items()})
    megabytes = bytes_of.groupby(bytes_of.index.str.split("/").str[0]).sum() / 2**20
    return {
        "parts": megabytes.map("{:.1f}".format).to_dict(),
        "all": f"{megabytes.sum():.1f}",
        "topics": len(topics()),
        "intents": len(intents()),
        "hard": sum(map(synthetic.is_hard, (*topics(), *intents()))),
    }


def _crowd() -> dict:
    """The annotators: how many, the range of their noise (temperature), and of their taste for length in utility."""
    annotators = crowd()
    temperatures = [annotator.temperature for annotator in annotators]
    tastes = [annotator.length for annotator in annotators]
    return {
        "n": len(annotators),
        "sharpest": f"{min(temperatures):.2f}",
        "dullest": f"{max(temperatures):.2f}",
        "length": f"{np.mean(tastes):.2f}",
        "shortest": f"{min(tastes):.2f}",
        "longest": f"{max(tastes):.2f}",
    }


def _described() -> dict[tuple[str, str], dict]:
    """What `synthetic.describe` says of each (subset, split), the dialogues made again from their seeds."""
    described = {}
    for subset in SUBSETS:
        for split, n in data_cache.ROWS.items():
            pairs, truth = synthetic.generate_pairs(data_cache.WORLD_SEED, subset, split, n)
            described[subset, split] = synthetic.describe(pairs, truth)
    return described


def _dialogues(described: dict[tuple[str, str], dict]) -> dict:
    """Two tables: lengths and agreement by subset and split, and the kinds of chosen and rejected training replies."""
    rows = []
    for (subset, split), facts in described.items():
        turns = [_percent(n / facts["pairs"], 0) for n in facts["turns"].values()]
        row = {
            "part": f"{subset} {split}",
            "pairs": facts["pairs"],
            # Lengths
            "turns 1 / 2 / 3 / 4, %": " / ".join(turns),
            "words: transcript": f"{facts['transcript_words']:.1f}",
            "chosen reply": f"{facts['chosen_words']:.1f}",
            "rejected reply": f"{facts['rejected_words']:.1f}",
            "chosen is longer, %": _percent(facts["longer_chosen"]),
            # Agreement
            "label agrees with latent order, %": _percent(facts["label_agreement"]),
            "same, clear pairs, %": _percent(facts["clear_label_agreement"]),
            "two annotators agree, %": _percent(facts["annotator_agreement"]),
            "distinct chosen replies, %": _percent(facts["distinct_chosen"]),
        }
        rows.append(row)
    # The kinds of reply, which the truth names
    kinds = []
    for subset in SUBSETS:
        for reply in ("chosen", "rejected"):
            counts = described[subset, "train"][f"{reply}_kinds"]
            kinds.append({"part": f"{subset} train", "reply": reply, "kinds": _shares(counts)})
    return {"table": pd.DataFrame(rows), "kinds": pd.DataFrame(kinds)}


def _shares(counts: dict) -> str:
    """Counts as "good 62 %, weak 38 %"."""
    whole = sum(counts.values())
    return ", ".join(f"{kind} {_percent(n / whole, 0)} %" for kind, n in counts.items())


def _flaws(described: dict[tuple[str, str], dict]) -> pd.DataFrame:
    """How many rows have each planted flaw, beside the rate at which it was planted."""
    rows = []
    for flaw, rate in (flaws.RATES | {"leaked": flaws.LEAKED}).items():
        row = {"flaw": flaw, "rate, %": _percent(rate)}
        for (subset, split), facts in described.items():
            row[f"{subset} {split}"] = facts["flaws"].get(flaw, 0)
        rows.append(row)
    return pd.DataFrame(rows)


def _policy(table: pd.DataFrame) -> dict:
    """The base policy: its sizes, its loss in nats a token on held-out documents, and what it answers.

    table: of the experiment "seeds"; the base policy is the same in each of its seeds.
    """
    # Its last loss on held-out documents
    log = pd.read_csv(DATA_CACHE / data_cache.POLICY / "training_log.csv")
    loss = log.loc[log["split"] == "heldout", "loss"].iloc[-1]
    base = table[(table["model"] == "base") & (table["arm"] == "recommended")]
    first_seed = base[base["seed"] == base["seed"].min()]
    # What it answers: one row a decoding and side, shares with their intervals
    rows = []
    for (decoding, side), responses in first_seed.groupby(["decoding", "side"], sort=False):
        row = {"decoding": decoding, "prompts": side, "n": len(responses)}
        for name, share in _outcomes(responses).items():
            row[f"{name}, %"] = str(metrics.wilson(share))
        rows.append(row)
    return {
        "config": read_json(DATA_CACHE / data_cache.POLICY / "config.json"),
        "loss": f"{loss:.3f}",
        "perplexity": f"{np.exp(loss):.2f}",
        "documents": data_cache.HELDOUT_DOCUMENTS,
        "base": pd.DataFrame(rows),
    }


def _outcomes(responses: pd.DataFrame) -> dict[str, pd.Series]:
    """What the oracle says of responses, each verdict as True or False a response."""
    failed = {name: responses["kind"] == kind for name, kind in FAILURES.items()}
    good = responses["good"] == 1
    weak = ~good & ~responses["kind"].isin(FAILURES.values())
    return {"good": good, "weak": weak, **failed, "ended with EOS": responses["ended"] == 1}


def _reward_model() -> dict:
    """How often the reward model agrees with labels and with the latent utilities on held-out pairs, by their gap."""
    pairs = pd.read_csv(DATA_CACHE / data_cache.REWARD_MODEL / data_cache.HELDOUT_SCORES)
    # Whom the scores and the latent utilities prefer, pair by pair
    right = pairs["chosen_score"] > pairs["rejected_score"]
    better = pairs["chosen_utility"] > pairs["rejected_utility"]
    gap = (pairs["chosen_utility"] - pairs["rejected_utility"]).abs()
    # All pairs, then from close to clear ones, then the clear ones of each subset
    choices = {"all": gap >= 0}
    for name, (low, high) in GAPS.items():
        choices[name] = (gap >= low) & (gap < high)
    choices["clear: over 1"] = gap > 1
    for subset in SUBSETS:
        choices[f"clear, {subset}"] = (gap > 1) & (pairs["subset"] == subset)
    rows = []
    for name, which in choices.items():
        row = {
            "pairs, by distance of latent utilities": name,
            "n": int(which.sum()),
            "reward model agrees with label, %": str(metrics.wilson(right[which])),
            "reward model agrees with latent order, %": str(metrics.wilson((right == better)[which])),
            "label agrees with latent order, %": str(metrics.wilson(better[which])),
        }
        rows.append(row)
    return {"pairs": len(pairs), "spoiled": _percent(sum(SPOILED_KINDS.values()), 0), "table": pd.DataFrame(rows)}


def _sweep(table: pd.DataFrame, record: dict) -> dict:
    """The experiment over training seeds: table and record of `experiments.load("seeds")`, as tables of the card."""
    return {
        "record": record,
        "rates": _wide(experiments.rates(table), experiments.MEASURED_BY, sign=""),
        "gain": _gains(table),
        "agreement": _agreement(table),
        "by_kind": _scores_by_kind(table),
        "fluency": _fluency(table),
        "held_out": _held_out(record),
    }


def _held_out(record: dict) -> pd.DataFrame:
    """Loss and log-probabilities on held-out pairs before and after DPO, in nats: means over the seeds, and range."""
    evaluations = pd.DataFrame(record["held_out"])
    rows = []
    for (recipe, model), own in evaluations.groupby(["arm", "model"], sort=False):
        row = {"recipe": recipe, "model": label(model)}
        # Each figure before and after the training, averaged over the seeds
        for name in experiments.HELD_OUT:
            before, after = np.array(own[name].tolist()).T
            row[f"{name}: before"] = f"{before.mean():.3f}"
            row[f"{name}: after"] = f"{after.mean():.3f} ({after.min():.3f} to {after.max():.3f})"
        rows.append(row)
    return pd.DataFrame(rows)


def _gains(table: pd.DataFrame) -> pd.DataFrame:
    """What each step from one model to another adds to HmR, HpR and CAS, in points."""
    parts = []
    for a, b in (("base", "sft"), ("base", "dpo"), ("sft", "sft_dpo"), ("dpo", "sft_dpo")):
        parts.append(experiments.differences(table, a, b).assign(model=f"{label(a)} to {label(b)}"))
    gains = _wide(pd.concat(parts, ignore_index=True), ("oracle", "reward model"), sign="+")
    return gains.rename(columns={"model": "step"})


def _wide(rates: pd.DataFrame, by: Iterable[str], sign: str) -> pd.DataFrame:
    """One row a recipe, decoding and model; one column a metric and who says it: "value [low, high]".

    rates: rows of `experiments.rates` or `experiments.differences`. by: names in their column `by`. sign: "+" shows
    the sign of positive values too.
    """
    rows = []
    for (recipe, decoding, model), own in rates.groupby(["arm", "decoding", "model"], sort=False):
        cells = own.set_index(["by", "metric"])
        row = {"recipe": recipe, "decoding": decoding, "model": label(model)}
        for who in by:
            for metric, name in METRIC_NAMES.items():
                value, low, high = cells.loc[(who, metric), ["value", "low", "high"]]
                row[f"{name}, {who}"] = f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"
        rows.append(row)
    # The recommended recipe first, and greedy responses before sampled ones
    places = {name: place for place, name in enumerate((*reversed(RECIPES), "greedy", "sampled"))}
    ordered = ["recipe", "decoding"]
    return pd.DataFrame(rows).sort_values(ordered, key=lambda column: column.map(places), kind="stable")


def _agreement(table: pd.DataFrame) -> pd.DataFrame:
    """How well scores rank the responses of each policy, and how often their verdict is the oracle's."""
    rows = []
    for (recipe, decoding, model), part in table.groupby(["arm", "decoding", "model"], sort=False):
        row = {"recipe": recipe, "decoding": decoding, "model": label(model), "Spearman: all": _rank_correlation(part)}
        # How well scores rank responses as the oracle does, then how often the verdicts agree
        sides = list(part.groupby("side"))
        for side, own in sides:
            row[f"Spearman: {side}"] = _rank_correlation(own)
        for side, own in sides:
            row[f"same verdict, {side}, %"] = _percent((own["calibrated"] == own["good"]).mean())
        rows.append(row)
    return pd.DataFrame(rows)


def _rank_correlation(responses: pd.DataFrame) -> str:
    """Spearman's correlation of the reward model's score with the oracle's."""
    return f"{responses['score'].corr(responses['truth'], method='spearman'):.2f}"


def _scores_by_kind(table: pd.DataFrame) -> pd.DataFrame:
    """Mean score of each kind of response that the oracle names: greedy responses under the recommended recipe."""
    greedy = table[(table["arm"] == "recommended") & (table["decoding"] == "greedy")]
    # All models together, with the number of responses, then each model
    groups = greedy.groupby(["side", "kind"])
    columns = {"all": groups["score"].mean().map("{:.2f}".format) + groups.size().map(" (n = {})".format)}
    for model, part in greedy.groupby("model", sort=False):
        columns[label(model)] = part.groupby(["side", "kind"])["score"].mean().map("{:.2f}".format)
    return pd.DataFrame(columns).fillna("").reset_index()


def _fluency(table: pd.DataFrame) -> pd.DataFrame:
    """Share of responses that are no language, repeat themselves, run on, are empty, or end by themselves."""
    rows = []
    for (recipe, decoding, model), part in table.groupby(["arm", "decoding", "model"], sort=False):
        row = {"recipe": recipe, "decoding": decoding, "model": label(model)}
        for name in ("garbage", "repeats itself", "runs on", "empty"):
            row[f"{name}, %"] = _percent((part["kind"] == FAILURES[name]).mean(), 2)
        row["ended with EOS, %"] = _percent(part["ended"].mean(), 2)
        rows.append(row)
    return pd.DataFrame(rows)
