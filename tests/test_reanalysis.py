"""The paper's scores analysed again: Table 1 and every p-value, from the embedded figures."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from helpers.core import statistics
from helpers.core.errors import DataError
from helpers.core.names import METRICS
from helpers.report import sections
from helpers.report.paper import authors_files, claims, published_figures, reanalysis

ROWS = published_figures.scores()
HPR = {  # exact McNemar, before correction, to two digits; below 0.001 as 0
    ("base", "sft"): 0, ("base", "dpo"): 0.0018, ("base", "sft_dpo"): 0, ("dpo", "sft_dpo"): 0.021,
    ("sft", "dpo"): 0.30, ("sft", "sft_dpo"): 0.23,
}  # fmt: skip


def test_table_1_follows_from_the_embedded_scores_to_the_digit():
    found = reanalysis.evaluate(ROWS)
    for model, row in published_figures.table1().iterrows():
        assert [round(found.models[model][m].value, 6) for m in METRICS] == list(row[list(METRICS)])
    assert reanalysis.table1_gap(ROWS) < 1e-9


def test_mean_scores_are_those_of_figure_3():
    means = ROWS.groupby(["model", "side"])["score"].mean()
    for model, sides in published_figures.published()["figure3"]["models"].items():
        for side, value in sides.items():
            assert means[model, side] == pytest.approx(value, abs=0.0051)


def test_discordant_counts_and_p_values_follow_from_the_embedded_scores():
    tables = reanalysis.passed(ROWS)
    for row in published_figures.discordant_counts().itertuples():
        own = tables[reanalysis.SIDE_OF[row.metric]]
        assert statistics.discordant(own[row.a], own[row.b]) == (row.only_a, row.only_b)
    for c in reanalysis.evaluate(ROWS).comparisons:
        if c.metric == "hpr":
            assert (float(f"{c.p_value:.2g}") if c.p_value >= 0.001 else 0) == HPR[c.a, c.b]
    harmless = [c for c in reanalysis.evaluate(ROWS).comparisons if c.metric == "hmr"]
    least = min(harmless, key=lambda c: c.p_value)
    assert least.p_value == pytest.approx(0.21, abs=0.005) and {least.a, least.b} == {"sft", "dpo"}
    hybrid = claims.difference(reanalysis.evaluate(ROWS), "cas", "sft_dpo", "sft")
    assert [round(value, 6) for value in (hybrid.difference, hybrid.low, hybrid.high)] == [3, -7, 13]


def test_forms_and_prompts_are_as_counted_by_hand():
    block = published_figures.published()["response_form"]
    for model, row in reanalysis.forms(ROWS).iterrows():
        names = ("starts_with_assistant", "holds_human_turn", "empty")
        assert row.tolist() == [sum(block[name][model]) for name in names]
    assert list(reanalysis.prompt_faults(ROWS).values()) == [8, 2, 2]


def fake_files(folder: Path, rating: float = 1.0) -> Path:
    for side in ("harmful", "helpful"):
        prompts = [f"Human: {side} {n}" for n in range(3)]
        (folder / "data" / "prompts").mkdir(parents=True, exist_ok=True)
        (folder / "data" / "responses").mkdir(exist_ok=True)
        (folder / "data" / "prompts" / f"{side}_prompts.json").write_text(json.dumps(prompts))
        for name in authors_files.FILES.values():
            answers = [{"prompt": p, "response": "Assistant: Hm.\n\nHuman: What?", "rating": rating} for p in prompts]
            (folder / "data" / "responses" / f"{name}_{side}.json").write_text(json.dumps(answers))
    return folder


def test_artefacts_become_figures_without_text(tmp_path):
    rows = authors_files.figures(fake_files(tmp_path))
    assert list(rows.columns) == published_figures.COLUMNS and len(rows) == 2 * 4 * 3
    assert rows[["starts_with_cue", "human_turn"]].to_numpy().all() and not rows["empty"].any()
    assert not any(rows[name].dtype == object for name in published_figures.COLUMNS if name not in ("side", "model"))


def test_wrong_artefacts_are_told_in_one_line(tmp_path):
    with pytest.raises(DataError, match="holds no data/ folder"):
        authors_files.figures(tmp_path)
    folder = fake_files(tmp_path / "clone")
    with pytest.raises(DataError, match="other prompts, responses or scores"):
        sections.read(folder)
    (folder / "data" / "responses" / "2_sft_helpful.json").write_text("[{}]")
    with pytest.raises(DataError, match=r"2_sft_helpful\.json does not answer the prompts"):
        authors_files.figures(folder)
    (folder / "data" / "responses" / "2_sft_helpful.json").unlink()
    with pytest.raises(DataError, match=r"2_sft_helpful\.json cannot be read"):
        authors_files.figures(folder)


def test_verdicts_follow_the_rule():
    ledger = claims.ledger(ROWS)
    verdicts = {c.claim: c.verdict for c in ledger}
    assert sum(claims.count(ledger).values()) == len(ledger) == len(verdicts)
    assert verdicts["SFT+DPO is better than every other model in every metric"] == "contradicted"
    assert verdicts["SFT+DPO is better aligned on the whole than SFT"] == "within noise"
    assert verdicts["SFT is more helpful than Base"] == "reproduced"
    assert verdicts["DPO alone makes the model less harmless than Base"] == "within noise"


def test_verdicts_change_with_the_scores():
    """If SFT+DPO passed everywhere and the others nowhere, the headline would be reproduced."""
    best = ROWS.assign(score=np.where(ROWS["model"] == "sft_dpo", 5.0, -9.0))
    ledger = claims.ledger(best)
    assert ledger[0].verdict == "reproduced"
    assert {c.claim: c.verdict for c in ledger}[
        "The rates of Table 1 follow from the published scores"
    ] == "contradicted"
    flat = {c.claim: c.verdict for c in claims.ledger(ROWS.assign(score=0.0))}
    assert flat["SFT is more helpful than Base"] == "contradicted"


def test_grim_finds_impossible_percentages():
    rates = pd.DataFrame({"hmr": [42.0, 57.0], "cas": [55.0, 55.5]})
    assert reanalysis.grim(rates, 50).to_numpy().tolist() == [[True, True], [False, False]]


@settings(max_examples=10)
@given(st.integers(20, 60), st.floats(0.1, 0.6), st.floats(0, 1))
def test_power_is_exact(n, share, part):
    """Against the plain way: every number of discordant prompts, every number of wins."""
    gap = part * share
    total = 0.0
    for discordant in range(n + 1):
        wins = np.arange(discordant + 1)
        rejects = [statistics.mcnemar_p(w, discordant - w) < 0.05 for w in wins] if discordant else [False]
        chance = binom.pmf(wins, discordant, (1 + gap / share) / 2)
        total += binom.pmf(discordant, n, share) * (chance * rejects).sum()
    assert statistics.mcnemar_power(n, share, gap) == pytest.approx(total, abs=1e-9)


def test_the_prompts_needed_are_enough_and_no_more_than_enough():
    table = reanalysis.power_table(ROWS).loc["HmR"]
    needed, share = int(table["needed_5"]), table["discordant"]
    assert statistics.mcnemar_power(needed, share, 0.05) >= 0.8 > statistics.mcnemar_power(needed - 40, share, 0.05)
    assert table["needed_3"] > table["needed_5"] > table["needed_10"] > 50


def test_the_threshold_map_holds_the_papers_lead():
    lead = reanalysis.threshold_map(ROWS, [-3.0], [-2.0])
    assert lead.iloc[0, 0] == pytest.approx(3.0)  # Table 1: 55 against 52
