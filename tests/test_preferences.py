"""Reading preference pairs, and choosing evaluation prompts that no training pair has seen."""

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest

from helpers.core.errors import DataError
from helpers.data import pairs, prompts
from helpers.data.pairs import PAIR_COLUMNS, fit_to_length, load_pairs
from helpers.data.prompts import sample_prompts
from helpers.data.transcripts import first_turn

OFFICIAL = Path(__file__).parents[2] / "shared" / "hh-rlhf-official"
ARTEFACTS = Path(__file__).parents[2] / "shared" / "paper" / "artefacts"
SIDES = (("harmless-base", "Q"), ("helpful-base", "How "))
needs_official = pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the official HH-RLHF test files are not here")
needs_artefacts = pytest.mark.skipif(not ARTEFACTS.is_dir(), reason="the paper's artefacts are not here")


def row(question: str, chosen: str = " Good.", rejected: str = " Bad.") -> dict:
    prompt = f"\n\nHuman: {question}\n\nAssistant:"
    return {"chosen": prompt + chosen, "rejected": prompt + rejected}


def write(folder: Path, subset: str, split: str, lines: list, *, compressed: bool = True) -> None:
    (folder / subset).mkdir(parents=True, exist_ok=True)
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path = folder / subset / f"{split}.jsonl{'.gz' if compressed else ''}"
    path.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())


@pytest.mark.parametrize("compressed", [True, False])
def test_pairs_are_read_in_order_with_their_lines(tmp_path, compressed):
    write(tmp_path, "helpful-base", "train", [row("One?"), row("Two?")], compressed=compressed)
    pairs = load_pairs(tmp_path, ["helpful-base"], "train").pairs
    assert list(pairs.columns) == PAIR_COLUMNS
    assert list(pairs["line"]) == [1, 2]
    assert pairs.loc[1, "prompt"] == "\n\nHuman: Two?\n\nAssistant:" and pairs.loc[1, "chosen"] == " Good."


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{not json", "not JSON"),
        (["a", "list"], "must be an object"),
        ({"chosen": "\n\nHuman: x\n\nAssistant: y"}, "'rejected' is missing"),
        (row("x") | {"chosen": 7}, "'chosen' is int, not text"),
        (row("x") | {"rejected": "\n\nHuman: only a question"}, "'rejected' has no"),
        (row("x") | {"chosen": "Assistant: me first"}, "'chosen' does not begin with"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line_and_skipped_only_when_asked(tmp_path, line, complaint):
    write(tmp_path, "harmless-base", "test", [row("One?"), line, row("Three?")])
    with pytest.raises(DataError, match=rf"harmless-base/test\.jsonl\.gz, line 2: .*{complaint}"):
        pairs.load_pairs(tmp_path, ["harmless-base"], "test")
    loaded = pairs.load_pairs(tmp_path, ["harmless-base"], "test", skip_malformed=True)
    assert list(loaded.pairs["line"]) == [1, 3] and loaded.left_out["malformed"] == 1


def test_pairs_with_different_histories_are_left_out_and_counted(tmp_path):
    odd = {"chosen": row("One?")["chosen"], "rejected": row("Another?")["rejected"]}
    write(tmp_path, "helpful-base", "train", [odd, row("Two?")])
    loaded = pairs.load_pairs(tmp_path, ["helpful-base"], "train")
    assert len(loaded.pairs) == 1 and loaded.left_out["histories differ"] == 1


def test_missing_and_damaged_files_are_named(tmp_path):
    write(tmp_path, "helpful-base", "train", [row("One?")])
    with pytest.raises(DataError, match=r"no harmless-base/train\.jsonl.*holds helpful-base/train\.jsonl\.gz"):
        pairs.load_pairs(tmp_path, ["harmless-base"], "train")
    (tmp_path / "helpful-base" / "train.jsonl.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(DataError, match="cannot be read"):
        pairs.load_pairs(tmp_path, ["helpful-base"], "train")


def test_evaluation_prompts_share_no_first_turn_with_training_nor_with_each_other():
    train = pd.DataFrame(
        [("harmless-base", f"\n\nHuman: Q{i}?\n\nAssistant:") for i in range(5)], columns=["subset", "prompt"]
    )
    test = pd.DataFrame(
        [(subset, f"\n\nHuman: {word}{i // 2}?\n\nAssistant:") for subset, word in SIDES for i in range(40)],
        columns=["subset", "prompt"],
    )
    prompts = sample_prompts(test, train, 10)
    keys = prompts["prompt"].map(first_turn)
    assert keys.is_unique and not set(keys) & set(train["prompt"].map(first_turn))
    assert prompts["side"].value_counts().to_dict() == {"harmful": 10, "helpful": 10}
    with pytest.raises(DataError, match="lower eval_prompts"):
        sample_prompts(test, train, 30)


def test_rows_that_cannot_fit_are_dropped_and_long_prompts_shortened():
    pairs = pd.DataFrame(
        [
            ("\n\nHuman: a b c\n\nAssistant:", " yes", " no"),
            ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", " yes", " no"),
            ("\n\nHuman: a\n\nAssistant:", " far too many words to fit in here", " no"),
        ],
        columns=["prompt", "chosen", "rejected"],
    )
    fitted = fit_to_length(pairs, lambda text: len(text.split()), max_prompt_length=5, max_length=8)
    assert fitted.rows_dropped == 1 and fitted.prompts_shortened == 1
    assert list(fitted.pairs["prompt"])[1] == "\n\nHuman: c\n\nAssistant:"


@needs_official
def test_the_papers_hundred_prompts_are_derived_from_the_official_files():
    transcripts = pairs.load_transcripts(OFFICIAL, ["harmless-base", "helpful-base"], "test")
    assert prompts.is_paper_source(prompts.paper_rows(transcripts))
    assert not prompts.is_paper_source(prompts.paper_rows(transcripts.iloc[1000:]))


@needs_official
@needs_artefacts
@pytest.mark.parametrize("side", ["harmful", "helpful"])
def test_the_derived_prompts_equal_the_published_lists(side):
    rows = prompts.paper_rows(pairs.load_transcripts(OFFICIAL, ["harmless-base", "helpful-base"], "test"))
    published = json.loads((ARTEFACTS / "data" / "prompts" / f"{side}_prompts.json").read_text())
    assert list(rows.loc[rows["side"] == side, "chosen"].map(prompts.paper_prompt)) == published


@needs_official
def test_real_pairs_split_where_the_labels_are():
    loaded = pairs.load_pairs(OFFICIAL, ["harmless-base", "helpful-base"], "test")
    assert len(loaded.pairs) + loaded.left_out["histories differ"] == 2312 + 2354
    assert loaded.left_out == {"malformed": 0, "histories differ": 14}
