"""How long HH-RLHF's prompts and replies are in OPT's tokens: percentiles of the official test files, no text.

python -m benchmarks.hh_lengths FOLDER TOKENIZER    writes helpers/planning/hh_lengths.json. The planner reads it, and
`rehearse` makes dialogues of these lengths. FOLDER is in HH-RLHF's layout, TOKENIZER holds vocab.json and merges.txt.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measuring import keep
from helpers.data import pairs
from helpers.models.loading import load_tokenizer
from helpers.planning import rehearsal
from helpers.planning.lengths import MEASURED


def percentiles(values: list[int]) -> list[float]:
    return np.percentile(values, range(101)).round(1).tolist()


def main(folder: str, vocabulary: str) -> None:
    found = {}
    with tempfile.TemporaryDirectory() as work:
        rehearsal.write_tokenizer(Path(work), Path(vocabulary))
        tokenizer = load_tokenizer(work)
    for subset in sorted(path.name for path in Path(folder).iterdir() if path.is_dir()):
        rows = pairs.load_pairs(folder, [subset], "test").pairs
        prompts = [len(ids) for ids in tokenizer(list(rows["prompt"]))["input_ids"]]  # with the </s> in front
        replies = {
            side: [len(ids) for ids in tokenizer(list(rows[side]), add_special_tokens=False)["input_ids"]]
            for side in ("chosen", "rejected")
        }
        lengths = {"prompt": prompts, **replies}
        found[subset] = {"rows": len(rows)} | {name: percentiles(values) for name, values in lengths.items()}
        found[subset]["characters_a_token"] = round(float(rows["prompt"].str.len().sum() / sum(prompts)), 2)
    keep(__file__, {"subsets": found}, arguments="FOLDER TOKENIZER", to=MEASURED)


if __name__ == "__main__":
    main(*sys.argv[1:3])
