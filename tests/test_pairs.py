"""Reading preference pairs: rows in order, mistakes named by file and line, lengths."""

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest

from helpers.core.errors import DataError
from helpers.data import pairs
from helpers.data.pairs import PAIR_COLUMNS, fit_to_length, load_pairs


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


def test_whole_dialogues_are_read_with_every_whole_row_even_where_histories_differ(tmp_path):
    """The paper's draw of prompts depends on the number of rows, so none may be lost but the broken ones."""
    odd = {"chosen": row("One?")["chosen"], "rejected": row("Another?")["rejected"]}
    write(tmp_path, "helpful-base", "test", [odd, {"chosen": 7, "rejected": "x"}, row("Two?")])
    read = pairs.load_transcripts(tmp_path, ["helpful-base"], "test")
    assert list(read["line"]) == [1, 3] and list(read["chosen"]) == [odd["chosen"], row("Two?")["chosen"]]
