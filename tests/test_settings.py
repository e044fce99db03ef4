"""Settings: the resolved values, and one clear line for every kind of mistake."""

import re
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.core.errors import CourseError, SettingsError
from helpers.core.profiles import BY_PROFILE, BY_RECIPE, PROFILE_AND_RECIPE, PROFILES, RECIPES, ROOT, results_root
from helpers.core.settings import Settings, resolve

NAMES = list(Settings.model_fields)
NUMBERS = [name for name, field in Settings.model_fields.items() if field.annotation in (int, float)]
SWITCHES = [name for name, field in Settings.model_fields.items() if field.annotation is bool]


def refusal(**parameters) -> str:
    with pytest.raises(SettingsError) as caught:
        resolve(**parameters)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_importing_helpers_is_light():
    code = "import sys, helpers; assert not {'torch', 'pandas', 'pydantic', 'helpers.runs'} & set(sys.modules)"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert time.perf_counter() - start < 2  # 0.03 s on an idle machine


def test_an_error_is_one_line_and_shows_itself_alone():
    error = CourseError("two\n lines")
    assert str(error) == "two lines"
    assert error._render_traceback_() == ["CourseError: two lines"]


def test_every_setting_has_a_meaning_and_every_table_row_is_a_setting():
    assert all(field.description for field in Settings.model_fields.values())
    exceptions = {name for row in PROFILE_AND_RECIPE.values() for name in row}
    assert BY_PROFILE.keys() | BY_RECIPE.keys() | exceptions <= set(NAMES)
    assert all(len(row) == len(PROFILES) for row in BY_PROFILE.values())
    assert all(len(row) == len(RECIPES) for row in BY_RECIPE.values())


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_combination_resolves(profile, recipe, tmp_path):
    resolved = resolve(profile=profile, recipe=recipe, dataset=str(tmp_path) if profile == "local" else None)
    assert set(resolved.source) == set(NAMES)
    table = resolved.table()
    assert list(table.columns) == ["setting", "value", "from", "meaning"]
    assert list(table["setting"]) == NAMES


def test_where_values_come_from():
    source = resolve(beta=0.3, seed=None).source
    assert (source["beta"], source["seed"]) == ("you", "default")
    assert (source["train_pairs"], source["lora_rank"]) == ("profile mini", "recipe recommended")
    assert resolve(profile="paper").source["sft_learning_rate"] == "paper x recommended"


def test_only_the_large_policy_without_dropout_has_its_reference_computed_beforehand():
    grid = {(p, r): resolve(profile=p, recipe=r, dataset="somewhere").settings for p in PROFILES for r in RECIPES}
    assert {key for key, s in grid.items() if s.dpo_reference != "live"} == {("paper", "recommended")}
    assert grid["paper", "recommended"].dpo_reference == "precomputed" and not grid["paper", "recommended"].dropout


def test_the_published_recipe_is_the_authors():
    s = resolve(profile="paper", recipe="published").settings
    assert (s.sft_learning_rate, s.sft_epochs, s.dpo_learning_rate, s.dpo_epochs) == (2e-5, 2, 2e-5, 1)
    assert (s.lora_rank, s.lora_alpha, s.lora_dropout, s.lora_targets) == (8, 16, 0.05, "q_v")
    assert (s.sft_batch_size, s.gradient_accumulation, s.dropout, s.beta) == (2, 4, 0.1, 0.1)
    assert (s.sft_max_length, s.dpo_max_length, s.max_new_tokens, s.eval_prompts) == (512, 1024, 50, 50)
    assert not (s.completion_only or s.explicit_prompt or s.closing_cue)
    assert s.subsets.count(",") == 3
    assert resolve(recipe="published").settings.dpo_max_length == 512


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"bta": 0.3}, "'bta' is not a parameter (did you mean 'beta'?)"),
        ({"batch_size": 3}, "sft_batch_size or dpo_batch_size"),
        ({"learning_rate": 3}, "sft_learning_rate or dpo_learning_rate"),
        ({"zzz": 3}, "run.table() lists them all"),
        ({"profile": "papr"}, "did you mean 'paper'?"),
        ({"recipe": "Published"}, "did you mean 'published'?"),
        ({"beta": "banana"}, "beta = 'banana': a number is needed"),
        ({"dpo_learning_rate": "5e-5"}, "YAML reads 5e-5 as text: write 5.0e-5"),
        ({"beta": "0.3"}, "write 0.3 without quotes"),
        ({"completion_only": "false"}, "write False"),
        ({"closing_cue": "true"}, "write True"),
        ({"seed": True}, "a whole number is needed"),
        ({"seed": 1.5}, "a whole number is needed"),
        ({"beta": True}, "a number is needed"),
        ({"beta": float("nan")}, "finite"),
        ({"beta": -1}, "greater than 0"),
        ({"dataset": 7}, "text in quotes is needed"),
        ({"run": "../elsewhere"}, "use letters"),
        ({"subsets": "harmless-bse"}, "did you mean 'harmless-base'?"),
        ({"subsets": "harmless-base,harmless-base"}, "twice"),
        ({"profile": "local"}, "give dataset"),
        ({"max_new_tokens": 300}, "more than the policy's 512 positions"),
        ({"max_prompt_length": 400, "dpo_max_length": 300}, "leaves no room in dpo_max_length"),
    ],
)
def test_a_mistake_gets_one_line_that_helps(parameters, words):
    assert words in refusal(**parameters)


def test_several_mistakes_are_named_at_once_and_at_most_three():
    message = refusal(profile="papr", bta=1, beta="x")
    assert all(word in message for word in ("'papr'", "'bta'", "beta = 'x'"))
    assert refusal(a1=1, a2=1, a3=1, a4=1, a5=1).endswith("; and 2 more")


@given(st.sampled_from(NAMES), st.data())
def test_a_misspelt_name_suggests_the_name(name, data):
    """Drop or double one letter of a long name: the message holds the name that was meant."""
    at = data.draw(st.integers(1, len(name) - 1))
    wrong = data.draw(st.sampled_from([name[:at] + name[at + 1 :], name[:at] + name[at] + name[at:]]))
    if wrong in NAMES or len(name) < 5:
        return
    message = refusal(**{wrong: 1})
    assert "did you mean" in message
    assert name in message or wrong in name


@given(st.sampled_from(NUMBERS), st.one_of(st.text(), st.booleans(), st.lists(st.integers()), st.binary()))
def test_what_is_not_a_number_is_never_taken_for_one(name, value):
    assert refusal(**{name: value}).startswith(f"{name} = ")


@given(st.sampled_from(SWITCHES), st.one_of(st.text(), st.integers(), st.floats()))
def test_what_is_not_a_switch_is_never_taken_for_one(name, value):
    assert "True or False is needed" in refusal(**{name: value})


@given(
    st.fixed_dictionaries(
        {"recipe": st.sampled_from(RECIPES), "seed": st.integers(0, 3), "beta": st.floats(0.01, 10)},
        optional={"lora_rank": st.integers(1, 64), "dropout": st.floats(0, 0.5), "dataset": st.text(min_size=1)},
    )
)
@settings(max_examples=200)
def test_run_names_are_plain_and_stable(parameters):
    name = resolve(**parameters).run_name
    assert re.fullmatch(r"mini[A-Za-z0-9._=,+-]{0,90}", name)
    assert name == resolve(**dict(reversed(parameters.items()))).run_name


@given(*[st.fixed_dictionaries({"beta": st.floats(0.01, 10), "dataset": st.sampled_from(["a/b", "a_b", "c"])})] * 2)
def test_different_settings_get_different_folders(one, other):
    assert (one == other) == (resolve(**one).run_name == resolve(**other).run_name)


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({}, "mini"),
        ({"profile": "smoke"}, "smoke"),
        ({"recipe": "published", "seed": 1}, "mini-published-seed1"),
        ({"beta": 0.3}, "mini-beta=0.3"),
        ({"beta": 0.1, "seed": 0}, "mini"),  # nothing differs from mini, so it is the same run
        ({"run": "my-run", "beta": 0.3}, "my-run"),
    ],
)
def test_run_names(parameters, name):
    assert resolve(**parameters).run_name == name


def test_results_root(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_RESULTS", raising=False)
    assert results_root() == ROOT / "results"
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path))
    assert results_root() == tmp_path
