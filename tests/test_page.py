"""The report is one self-contained, accessible page, and its sentences follow from the run's numbers."""

import functools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from urllib.parse import urlsplit

import numpy as np
import pytest
from test_plots import made_up, made_up_log

from helpers import experiments
from helpers.core.errors import CourseError
from helpers.core.settings import resolve
from helpers.core.text import number
from helpers.evaluation.metrics import Comparison, evaluate
from helpers.evaluation.thresholds import PUBLISHED, Thresholds
from helpers.experiments import tables
from helpers.report import sections
from helpers.report.page import (
    build_report,
    changes,
    command,
    headline,
    p_value,
    reading,
    standing,
    unseen,
    write_report,
)
from helpers.report.paper import claims

PAPER = functools.cache(sections.gather)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CALIBRATED = Thresholds(-2.5, -2.4, "calibrated")
NBSP = "\N{NO-BREAK SPACE}"


def inputs(thresholds=CALIBRATED, scores=None, **given) -> dict:
    scores = scores or made_up(20)
    return {
        "settings_table": resolve(**given).table(),
        "evaluation": evaluate(scores, thresholds),
        "scores": scores,
        "logs": {"sft": made_up_log()[["step", "split", "loss"]], "dpo": made_up_log(), "sft_dpo": made_up_log()},
        "versions": {"torch": "2.0", "trl": None},
        "paper": PAPER(),
    }


class Outline(HTMLParser):
    """Collects tags with their attributes and checks that every element is closed in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, name: str) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def page() -> str:
    return build_report(**inputs())


def test_page_is_well_formed_and_needs_nothing_else(page):
    outline = Outline(page)
    assert not outline.all("script") and not outline.all("link")
    assert not re.search(r"https?://|url\(|@import", re.sub(r"base64,[\w+/=]+", "", page))
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in outline.all("img"))
    assert outline.all("html")[0]["lang"] == "en" and len(outline.all("h1")) == 1


def test_every_figure_has_alt_text_with_figures(page):
    images = Outline(page).all("img")
    about_the_paper = 6 + sum(map(experiments.there, ("puzzle", "faults", "cleaning")))
    assert len(images) == 5 + 3 + about_the_paper
    assert all(len(image["alt"]) > 40 and re.search(r"\d", image["alt"]) for image in images)


def test_every_link_leads_to_a_place_on_the_page(page):
    outline = Outline(page)
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    targets = {link["href"].removeprefix("#") for link in outline.all("a")}
    assert len(ids) == len(set(ids)) and targets <= set(ids)
    assert {claim.evidence for claim in PAPER()["ledger"]} <= targets


def test_the_first_screen_says_what_was_claimed_what_holds_what_not_and_what_is_added(page):
    first = page[: page.index('id="ledger"')]
    assert all(
        f"<h2>{title}</h2>" in first for title in ("What was claimed", "What holds", "What does not", "What we add")
    )
    assert f"{len(PAPER()['ledger'])} claims" in first and re.search(r"−7 to 13", first)


def test_a_page_without_experiments_says_how_to_make_them(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "TABLES", tmp_path)
    page = build_report(**inputs() | {"paper": sections.gather()})
    Outline(page)
    for name in ("puzzle", "printed", "faults", "cleaning", "seeds"):
        assert f"helpers sweep {name}" in page


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_a_browser_opens_the_page_without_errors_and_without_requests(page, tmp_path):
    path, log = tmp_path / "report.html", tmp_path / "net.json"
    path.write_text(page, encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    flags += " --disable-component-update --enable-logging=stderr --virtual-time-budget=2000 --dump-dom"
    places = [f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", f"{path.as_uri()}#tests"]
    done = subprocess.run([CHROMIUM, *flags.split(), *places], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0 and done.stdout.count("<h2 ") == page.count("<h2 ")
    assert "CONSOLE" not in done.stderr
    asked = set(re.findall(r'"url":"([^"]+)"', log.read_text(encoding="utf-8", errors="replace")))
    from_page = {url for url in asked if not url.startswith(("file:", "data:", "chrome"))}
    assert not any("report" in url or "font" in url for url in from_page), from_page
    # The browser itself calls home; nobody else may be asked for anything.
    hosts = {urlsplit(url).hostname or "" for url in from_page}
    assert all(host.endswith((".google.com", ".googleapis.com")) for host in hosts), hosts


def test_first_table_gives_rates_with_intervals_beside_the_papers(page):
    rates = inputs()["evaluation"].models["sft_dpo"]
    own = page[page.index('id="run"') :]
    first_table = own[: own.index("</table>")]
    for metric, theirs in (("hmr", 44), ("hpr", 66), ("cas", 55)):
        rate = rates[metric]
        assert f"{rate.value:.1f}{NBSP}%" in first_table and f"{rate.low:.1f} to {rate.high:.1f}" in first_table
        assert f"paper: {theirs}{NBSP}%" in first_table
    assert "Table 1" in first_table


def test_page_is_readable_in_the_dark_on_a_phone_and_on_paper(page):
    assert "prefers-color-scheme: dark" in page and "@media print" in page and 'name="viewport"' in page


def test_same_inputs_give_the_same_bytes(page):
    assert build_report(**inputs()) == page


def test_text_from_settings_is_escaped():
    page = build_report(**inputs(dataset="<b>&folder</b>"))
    assert "<b>&folder" not in page and "&lt;b&gt;&amp;folder" in page


def test_published_rule_gets_no_second_table():
    assert "under the paper’s cut-offs</h4>" not in build_report(**inputs(PUBLISHED))


def test_where_the_truth_is_known_it_stands_beside_the_reward_model(page):
    assert 'id="truth"' not in page
    given = inputs()
    opinion = given["evaluation"].models
    known = {model: {"hmr": rates["hpr"], "hpr": rates["hpr"]} for model, rates in opinion.items()}
    told = build_report(**given, truth=known)
    assert {"href": "#truth"} in Outline(told).all("a") and 'id="truth"' in told
    best = max(opinion, key=lambda model: opinion[model]["cas"].value)
    harmful, helpful = unseen(given["evaluation"], known)
    first = next(iter(opinion))
    gains = {m: number(opinion[best][m].value - opinion[first][m].value, 1) for m in ("hmr", "hpr")}
    assert f"{gains['hmr']} points from" in harmful and f"{gains['hpr']} points in truth" in harmful
    assert helpful.count(f"{gains['hpr']} points") == 2


def test_settings_and_versions_are_listed(page):
    for row in resolve().table().itertuples():
        assert f"<code>{row.setting}</code>" in page
    assert "torch 2.0" in page and "trl None" not in page


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"profile": "mini", "recipe": "recommended"}, "policy, data and reward model and its recipe differ from"),
        ({"profile": "paper", "recipe": "recommended"}, "not a replication of the paper: its recipe differs"),
        ({"profile": "paper", "recipe": "published"}, "repeats the paper's recipe"),
    ],
)
def test_standing_to_the_paper(settings, words):
    assert words in standing(settings)


@pytest.mark.parametrize(
    ("difference", "low", "high", "p", "adjusted", "sentence"),
    [
        (20.0, 8.0, 31.0, 0.001, 0.006, "DPO is ahead of Base by 20 points (8 to 31)."),
        (-20.0, -31.0, -8.0, 0.001, 0.006, "Base is ahead of DPO by 20 points (8 to 31)."),
        (9.0, 1.0, 17.5, 0.04, 0.24, "Not told apart: it would hold alone, but not among all pairs of models."),
        (2.0, -5.5, 9.0, 0.6, 1.0, "Not told apart. The data fit anything from −5.5 to 9 points."),
        (7.0, 0.5, 13.0, 0.06, 0.3, "Not told apart."),
    ],
)
def test_readings_follow_from_the_numbers(difference, low, high, p, adjusted, sentence):
    assert reading(Comparison("hmr", "base", "dpo", difference, low, high, p, adjusted)) == sentence


def test_headline_names_the_best_and_its_rivals():
    scores = made_up(40)
    scores["sft_dpo"] = scores["sft_dpo"].assign(score=5.0)
    scores["dpo"] = scores["dpo"].assign(score=5.0 * np.where(np.arange(80) % 20 == 0, -1, 1))
    evaluation = evaluate(scores, PUBLISHED)
    text = headline(evaluation)
    assert text.startswith("SFT+DPO has the highest combined score, 100.0 %")
    assert "cannot be told apart from DPO on these prompts" in text
    held = sum(c.p_adjusted < claims.LEVEL for c in evaluation.comparisons)
    assert f"Of 18 comparisons, {held} hold" in text


def test_p_values_are_never_shown_as_zero():
    assert [p_value(p) for p in (1e-9, 0.0123, 0.5, 1.0)] == ["< 0.001", "0.012", "0.50", "1.00"]


def test_command_repeats_what_was_given():
    assert command(resolve().table()) == "make course"
    table = resolve(beta=0.3, dataset="my data").table()
    assert command(table) == "python -m helpers run -p 'dataset=my data' -p beta=0.3"
    assert changes(table) == "dataset = my data, beta = 0.3" and changes(resolve(seed=3).table()) == ""


def test_written_whole_and_named_after_the_run_folder(tmp_path):
    path = write_report(tmp_path / "mini-seed3" / "report.html", **inputs())
    assert "run mini-seed3" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CourseError, match=r"writing report\.html"):
        write_report(tmp_path / "file" / "report.html", **inputs())


def test_one_prompt_a_side_and_no_logs_still_make_a_page():
    one = made_up(1)
    page = build_report(**inputs(scores=one) | {"logs": {}})
    assert "No training log" in page and "nan" not in json.dumps(re.findall(r"<td.*?</td>", page))


def test_extra_models_have_no_papers_figure():
    scores = made_up(6, ["beta 0.1", "beta 0.3"])
    page = build_report(**inputs(scores=scores))
    assert "<small>paper: " not in page
