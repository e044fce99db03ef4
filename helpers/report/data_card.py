"""data_cache/README.md: what the embedded world is, measured from its files. No figure in it is typed."""

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

TRANCHES = (synthetic.HARMLESS, synthetic.HELPFUL)
GAPS = ((0.0, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, 99.0))  # between latent utilities: from ambiguous to clear


def write() -> Path:
    """Write the card. Raises DataError when a table of experiments is missing."""
    path = DATA_CACHE / "README.md"
    path.write_text(render(), encoding="utf-8")
    return path


def render() -> str:
    """The card as Markdown, the same for the same files."""
    folder = FileSystemLoader(Path(__file__).parent / "templates")
    template = Environment(loader=folder, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    template.filters["table"] = _markdown
    table, record = experiments.load("seeds"), experiments.record("seeds")
    tranches = _tranches()
    parts = {
        "made_from": data_cache.made_from(),
        "sizes": _sizes(),
        "crowd": _crowd(),
        "dialogues": _dialogues(tranches),
        "flaws": _flaws(tranches),
        "policy": _policy(table),
        "judge": _judge(),
        "cutoffs": record["thresholds"],
        "sweep": _sweep(table, record),
    }
    return template.get_template("card.md.j2").render(parts)


def _markdown(frame: pd.DataFrame) -> str:
    lines = [list(map(str, frame.columns)), ["---"] * frame.shape[1], *frame.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _sizes() -> dict:
    from helpers.data.synthetic.topics import intents, topics

    files = store.files_of(DATA_CACHE)
    by_part = pd.Series({name: file["bytes"] for name, file in files.items()})
    whole = by_part.groupby(by_part.index.str.split("/").str[0]).sum() / 2**20
    return {
        "parts": {name: f"{size:.1f}" for name, size in whole.items()},
        "all": f"{whole.sum():.1f}",
        "topics": len(topics()),
        "intents": len(intents()),
        "hard": sum(map(synthetic.is_hard, (*topics(), *intents()))),
    }


def _crowd() -> dict:
    annotators = crowd()
    temperatures, tastes = [one.temperature for one in annotators], [one.length for one in annotators]
    figures = {"sharpest": min(temperatures), "dullest": max(temperatures), "length": np.mean(tastes)}
    figures |= {"shortest": min(tastes), "longest": max(tastes)}
    return {"n": len(annotators)} | {name: f"{value:.2f}" for name, value in figures.items()}


def _tranches() -> dict[tuple[str, str], dict]:
    """What `synthetic.describe` says of each (subset, split)."""
    return {
        (subset, split): synthetic.describe(*synthetic.generate_pairs(data_cache.WORLD_SEED, subset, split, n))
        for subset in TRANCHES
        for split, n in data_cache.ROWS.items()
    }


def _dialogues(described: dict[tuple[str, str], dict]) -> dict:
    rows = [
        {
            "tranche": f"{subset} {split}",
            "pairs": facts["pairs"],
            "turns 1 / 2 / 3 / 4, %": " / ".join(f"{100 * n / facts['pairs']:.0f}" for n in facts["turns"].values()),
            "words: transcript": f"{facts['transcript_words']:.1f}",
            "chosen reply": f"{facts['chosen_words']:.1f}",
            "rejected reply": f"{facts['rejected_words']:.1f}",
            "chosen is longer, %": f"{100 * facts['longer_chosen']:.1f}",
            "label agrees with latent order, %": f"{100 * facts['label_agreement']:.1f}",
            "same, clear pairs, %": f"{100 * facts['clear_label_agreement']:.1f}",
            "two annotators agree, %": f"{100 * facts['annotator_agreement']:.1f}",
            "distinct chosen replies, %": f"{100 * facts['distinct_chosen']:.1f}",
        }
        for (subset, split), facts in described.items()
    ]
    kinds = [
        {"tranche": f"{subset} train", "side": side, "kinds": _shares(described[subset, "train"][f"{side}_kinds"])}
        for subset in TRANCHES
        for side in ("chosen", "rejected")
    ]
    return {"table": pd.DataFrame(rows), "kinds": pd.DataFrame(kinds)}


def _shares(counts: dict) -> str:
    return ", ".join(f"{kind} {100 * n / sum(counts.values()):.0f} %" for kind, n in counts.items())


def _flaws(described: dict[tuple[str, str], dict]) -> pd.DataFrame:
    found = {f"{subset} {split}": facts["flaws"] for (subset, split), facts in described.items()}
    rates = flaws.RATES | {"leaked": flaws.LEAKED}
    rows = [
        {
            "flaw": name,
            "rate, %": f"{100 * rate:.1f}",
            **{where: counts.get(name, 0) for where, counts in found.items()},
        }
        for name, rate in rates.items()
    ]
    return pd.DataFrame(rows)


def _policy(table: pd.DataFrame) -> dict:
    log = pd.read_csv(DATA_CACHE / data_cache.POLICY / "training_log.csv")
    loss = log.loc[log["split"] == "heldout", "loss"].iloc[-1]
    config = read_json(DATA_CACHE / data_cache.POLICY / "config.json")
    base = table[(table["model"] == "base") & (table["arm"] == "recommended")]
    one = base[(base["seed"] == base["seed"].min())]
    rows = []
    for (decoding, side), part in one.groupby(["decoding", "side"], sort=False):
        named_kinds = {"empty": "empty", "garbage": "garbage", "repeats itself": "repeating", "runs on": "run_on"}
        failed = {name: part["kind"] == kind for name, kind in named_kinds.items()}
        shares = {
            "good": part["good"] == 1,
            "weak": (part["good"] == 0) & ~pd.DataFrame(failed).any(axis=1),
            **failed,
            "ended with EOS": part["ended"] == 1,
        }
        named = {f"{name}, %": str(metrics.wilson(share)) for name, share in shares.items()}
        rows.append({"decoding": decoding, "prompts": side, "n": len(part), **named})
    return {
        "config": config,
        "loss": f"{loss:.3f}",
        "perplexity": f"{np.exp(loss):.2f}",
        "documents": data_cache.HELDOUT_DOCUMENTS,
        "base": pd.DataFrame(rows),
    }


def _judge() -> dict:
    pairs = pd.read_csv(DATA_CACHE / data_cache.REWARD_MODEL / data_cache.HELDOUT_SCORES)
    right = pairs["chosen_score"] > pairs["rejected_score"]
    better = pairs["chosen_utility"] > pairs["rejected_utility"]
    gap = (pairs["chosen_utility"] - pairs["rejected_utility"]).abs()
    choices = [
        ("all", gap >= 0),
        *((f"{low} to {high}" if high < 9 else f"over {low}", (gap >= low) & (gap < high)) for low, high in GAPS),
    ]
    choices += [("clear: over 1", gap > 1)] + [
        (f"clear, {subset}", (gap > 1) & (pairs["subset"] == subset)) for subset in TRANCHES
    ]
    rows = [
        {
            "pairs, by distance of latent utilities": name,
            "n": int(which.sum()),
            "judge agrees with label, %": str(metrics.wilson(right[which])),
            "judge agrees with latent order, %": str(metrics.wilson((right == better)[which])),
            "label agrees with latent order, %": str(metrics.wilson(better[which])),
        }
        for name, which in choices
    ]
    spoiled = f"{100 * sum(SPOILED_KINDS.values()):.0f}"
    return {"pairs": len(pairs), "spoiled": spoiled, "table": pd.DataFrame(rows)}


def _sweep(table: pd.DataFrame, record: dict) -> dict:
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
    """Loss and log-probabilities on held-out pairs before and after DPO: means over the seeds, and their range."""
    looks = pd.DataFrame(record["held_out"])
    rows = []
    for (recipe, model), own in looks.groupby(["arm", "model"], sort=False):
        row = {"recipe": recipe, "model": label(model)}
        for name in experiments.HELD_OUT:
            before, after = np.array(own[name].tolist()).T
            row[f"{name}: before"] = f"{before.mean():.3f}"
            row[f"{name}: after"] = f"{after.mean():.3f} ({after.min():.3f} to {after.max():.3f})"
        rows.append(row)
    return pd.DataFrame(rows)


def _gains(table: pd.DataFrame) -> pd.DataFrame:
    """What each step adds, in points."""
    steps = (("base", "sft"), ("base", "dpo"), ("sft", "sft_dpo"), ("dpo", "sft_dpo"))
    parts = [experiments.differences(table, a, b).assign(model=f"{label(a)} to {label(b)}") for a, b in steps]
    return _wide(pd.concat(parts, ignore_index=True), ("oracle", "reward model"), sign="+").rename(
        columns={"model": "step"}
    )


def _wide(rates: pd.DataFrame, by: Iterable[str], sign: str) -> pd.DataFrame:
    """One row a recipe, decoding and model; one column a judge and metric: "value [low, high]"."""
    rows = []
    for (recipe, decoding, model), own in rates.groupby(["arm", "decoding", "model"], sort=False):
        cells = own.set_index(["by", "metric"])
        row = {"recipe": recipe, "decoding": decoding, "model": label(model)}
        for who in by:
            for metric, name in METRIC_NAMES.items():
                value, low, high = (cells.loc[(who, metric), what] for what in ("value", "low", "high"))
                row[f"{name}, {who}"] = f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"
        rows.append(row)
    first = {name: place for place, name in enumerate((*reversed(RECIPES), "greedy", "sampled"))}
    return pd.DataFrame(rows).sort_values(["recipe", "decoding"], key=lambda column: column.map(first), kind="stable")


def _agreement(table: pd.DataFrame) -> pd.DataFrame:
    """How well the judge's scores rank the responses of each policy, and how often its verdict is the oracle's."""
    rows = []
    for (recipe, decoding, model), part in table.groupby(["arm", "decoding", "model"], sort=False):
        sides = {side: own for side, own in part.groupby("side")}
        rows.append(
            {
                "recipe": recipe,
                "decoding": decoding,
                "model": label(model),
                "Spearman: all": f"{part['score'].corr(part['truth'], method='spearman'):.2f}",
                **{
                    f"Spearman: {side}": f"{own['score'].corr(own['truth'], method='spearman'):.2f}"
                    for side, own in sides.items()
                },
                **{
                    f"same verdict, {side}, %": f"{100 * (own['calibrated'] == own['good']).mean():.1f}"
                    for side, own in sides.items()
                },
            }
        )
    return pd.DataFrame(rows)


def _scores_by_kind(table: pd.DataFrame) -> pd.DataFrame:
    """Mean score of the judge for each kind that the oracle names, greedy answers under the recommended recipe."""
    greedy = table[(table["arm"] == "recommended") & (table["decoding"] == "greedy")]
    groups = greedy.groupby(["side", "kind"])
    means = groups["score"].mean().map("{:.2f}".format) + groups.size().map(" (n = {})".format)
    own = {
        label(model): part.groupby(["side", "kind"])["score"].mean().map("{:.2f}".format)
        for model, part in greedy.groupby("model", sort=False)
    }
    return pd.DataFrame({"all": means, **own}).fillna("").reset_index()


def _fluency(table: pd.DataFrame) -> pd.DataFrame:
    rows = [
        {
            "recipe": recipe,
            "decoding": decoding,
            "model": label(model),
            "garbage, %": f"{100 * (part['kind'] == 'garbage').mean():.2f}",
            "repeats itself, %": f"{100 * (part['kind'] == 'repeating').mean():.2f}",
            "runs on, %": f"{100 * (part['kind'] == 'run_on').mean():.2f}",
            "empty, %": f"{100 * (part['kind'] == 'empty').mean():.2f}",
            "ended with EOS, %": f"{100 * part['ended'].mean():.2f}",
        }
        for (recipe, decoding, model), part in table.groupby(["arm", "decoding", "model"], sort=False)
    ]
    return pd.DataFrame(rows)
