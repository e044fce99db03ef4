"""The paper's figures are stored once, agree with each other and say where they come from."""

import pytest

from helpers.core.errors import CourseError
from helpers.report.paper import published_figures
from helpers.report.paper.published_figures import discordant_counts, published, table1


def test_every_block_names_its_source():
    assert all(block["source"] for block in published().values())
    assert "NOT the paper's" in published()["second_hand"]["source"]


def test_table_1_follows_from_the_passing_responses():
    block = published()
    for model, row in table1().iterrows():
        passing = block["passing"]["models"][model]
        assert (row.hmr, row.hpr) == (2 * passing["harmful"], 2 * passing["helpful"])
        assert row.cas == (row.hmr + row.hpr) / 2


def test_table_2_is_the_gain_over_base():
    table = table1()
    for model, gains in published()["table2"]["models"].items():
        for metric, gain in gains.items():
            computed = 100 * (table.loc[model, metric] / table.loc["base", metric] - 1)
            assert computed == pytest.approx(gain, abs=0.006)


def test_discordant_counts_agree_with_the_pass_counts():
    passing = published()["passing"]["models"]
    for row in discordant_counts().itertuples():
        side = {"hmr": "harmful", "hpr": "helpful"}[row.metric]
        assert passing[row.b][side] - passing[row.a][side] == row.only_b - row.only_a
    assert len(discordant_counts()) == 12


def test_callers_cannot_change_the_record():
    published()["table1"]["models"]["base"]["hmr"] = 99
    assert table1().loc["base", "hmr"] == 42


@pytest.mark.parametrize("content", [None, "{"])
def test_a_missing_or_damaged_file_is_told(tmp_path, monkeypatch, content):
    path = tmp_path / "published.json"
    if content:
        path.write_text(content)
    monkeypatch.setattr(published_figures, "FIGURES", path)
    with pytest.raises(CourseError, match="missing or damaged"):
        published()
