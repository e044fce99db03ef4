"""The data of a run: training pairs, held-out pairs and evaluation prompts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from helpers.core.errors import DataError, SettingsError
from helpers.data import prompts
from helpers.data.pairs import find_split, load_pairs, load_transcripts, sample_pairs, without_first_turns
from helpers.data.prompts import PAPER_SEED
from helpers.pipeline.run import Run
from helpers.pipeline.sources import identity, source


class Pairs(NamedTuple):
    """The data of a run, one row a pair or prompt.

    train and heldout have the columns of `helpers.data.pairs.load_pairs`; prompts has side, subset, line, prompt and
    chosen (the whole dialogue), from which `responses.evaluation_prompts` cuts what the models see. counts: rows that
    were read, left out and used, and where the prompts come from.
    """

    train: pd.DataFrame
    heldout: pd.DataFrame
    prompts: pd.DataFrame
    counts: dict


def pairs(run: Run) -> Pairs:
    """Training and held-out pairs and the evaluation prompts of a run.

    Training pairs, held-out pairs and evaluation prompts share no first human turn. Raises DataError where the dataset
    has no training pair, and what `load_pairs` raises for damaged rows.
    """
    s, origin = run.settings, source(run, "dataset")
    subsets = [subset.strip() for subset in s.subsets.split(",")]
    # Of a folder only the files of these subsets count.
    uses, needs = identity(origin)
    if needs:
        found = [find_split(origin, subset, split) for subset in subsets for split in ("train", "test")]
        needs = [path for path in found if path]
    # The paper's own prompts are taken unless the reader gave a number of prompts.
    own_number = s.eval_prompts if run.resolved.source["eval_prompts"] == "you" else None
    names = ("train_pairs", "heldout_pairs", "eval_prompts", "skip_malformed", "seed", "clean")
    uses |= {name: getattr(s, name) for name in names}
    uses |= {"subsets": subsets, "own_number": own_number}

    def build(folder: Path) -> None:
        # Read both splits, and let the audit leave out rows of the train split.
        train, train_out = load_pairs(origin, subsets, "train", skip_malformed=s.skip_malformed)
        test, test_out = load_pairs(origin, subsets, "test", skip_malformed=s.skip_malformed)
        if train.empty:
            raise DataError(f"{origin} holds no training pair in {s.subsets}: give another dataset or other subsets")
        audited = _audited(train, origin, subsets, s.clean) if s.clean != "no" else train
        # Choose the prompts, then take their dialogues out of the pairs, and those of all train pairs out of held-out.
        prompts, which = _evaluation_dialogues(origin, subsets, train, test, s.eval_prompts, paper=own_number is None)
        clean = without_first_turns(audited, prompts)
        heldout = without_first_turns(without_first_turns(test, prompts), train)
        # Draw the pairs that are used. Held-out pairs are the same for every seed.
        frames = {
            "train": sample_pairs(clean, s.train_pairs, s.seed),
            "heldout": sample_pairs(heldout, s.heldout_pairs, PAPER_SEED),
            "all_train": clean,
            "prompts": prompts,
        }
        for name, frame in frames.items():
            frame.to_json(folder / f"{name}.jsonl", orient="records", lines=True, force_ascii=False)
        # Count what happened to the rows.
        counts = {
            "train pairs read": len(train),
            "test pairs read": len(test),
            **{f"train rows left out: {reason}": n for reason, n in train_out.items()},
            **{f"test rows left out: {reason}": n for reason, n in test_out.items()},
            "train pairs left out by the audit": len(train) - len(audited),
            "train pairs removed because an evaluation prompt opens them": len(audited) - len(clean),
            "train pairs used": len(frames["train"]),
            "held-out pairs used": len(frames["heldout"]),
            "evaluation prompts": which,
        }
        (folder / "counts.json").write_text(json.dumps(counts, indent=1))

    folder = run.stage("pairs", uses=uses, needs=needs, build=build)
    return Pairs(
        train=read_rows(folder / "train.jsonl"),
        heldout=read_rows(folder / "heldout.jsonl"),
        prompts=read_rows(folder / "prompts.jsonl"),
        counts=json.loads((folder / "counts.json").read_text()),
    )


def _audited(train: pd.DataFrame, origin: Path | str, subsets: list[str], clean: str) -> pd.DataFrame:
    """The pairs that setting `clean` leaves: "truth", "marked" or "labels".

    Raises SettingsError for "truth" where it is not known, in any data but the embedded.
    """
    from helpers.data import audit

    rows = load_transcripts(origin, subsets, "train")
    # Rows that are sound: in truth, or as far as the checks of rows can tell.
    if clean == "truth":
        truth = audit.planted(origin, subsets)
        if truth is None:
            raise SettingsError(f"clean = 'truth': nobody knows the truth about {origin}; use 'marked' or 'labels'")
        kept = rows.index[audit.is_sound(truth.query("split == 'train'")).to_numpy()]
    else:
        kept = audit.clean_index(audit.detect(rows))
    # Of these, rows whose label is not doubted.
    if clean == "labels":
        kept = kept[~audit.label_issues(audit.label_probability(rows.loc[kept])).to_numpy()]
    # The audit knows whole dialogues, the training knows pairs: a row is found by its subset and line in both.
    kept_places = pd.MultiIndex.from_frame(rows.loc[kept, ["subset", "line"]])
    places = pd.MultiIndex.from_frame(train[["subset", "line"]])
    return train[places.isin(kept_places)].reset_index(drop=True)


def _evaluation_dialogues(origin, subsets, train, test, n, *, paper: bool) -> tuple[pd.DataFrame, str]:
    """The dialogues whose prompts are evaluated, and where they come from in words.

    paper: take the paper's 100 where the test files are HH-RLHF's official ones. Else n a side are drawn from `test`.
    """
    columns = ["side", "subset", "line", "prompt", "chosen"]
    # Draw as the paper did, and see whether these are the rows that the paper had.
    if paper and {"harmless-base", "helpful-base"} <= set(subsets):
        transcripts = load_transcripts(origin, ["harmless-base", "helpful-base"], "test")
        try:
            rows = prompts.paper_rows(transcripts)
        except DataError:
            rows = transcripts.iloc[:0].assign(side=[])
        if len(rows) and prompts.is_paper_source(rows):
            return rows.assign(prompt=rows["chosen"])[columns], "the paper's 100"
    # Other data: draw from the test pairs.
    rows = prompts.sample_prompts(test, train, n)
    whole = rows.assign(chosen=rows["prompt"] + rows["chosen"])
    return whole[columns], f"{n} a side, drawn from the test pairs"


def read_rows(path: Path) -> pd.DataFrame:
    """Rows of a JSON-lines file as a stage wrote it: texts stay texts."""
    return pd.read_json(path, orient="records", lines=True, convert_dates=False, dtype=False)


def token_counter(tokenizer) -> Callable[[str], int]:
    """A function that counts the tokens of a text, special tokens that the tokenizer adds included."""
    return lambda text: len(tokenizer(text)["input_ids"])


def pairs_folder(run: Run) -> Path:
    """The folder of the stage "pairs", built if it is missing."""
    pairs(run)
    return run.folder / "stages" / "pairs"


def all_train(run: Run) -> pd.DataFrame:
    """Every training pair that opens with no evaluation prompt, not only those that are trained on."""
    return read_rows(pairs_folder(run) / "all_train.jsonl")
