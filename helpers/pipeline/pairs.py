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
    """Training pairs, held-out pairs, evaluation prompts, and what was counted on the way."""

    train: pd.DataFrame
    heldout: pd.DataFrame
    prompts: pd.DataFrame
    counts: dict


def pairs(run: Run) -> Pairs:
    """Training and held-out pairs and the evaluation prompts of a run; no first human turn is on two sides."""
    s, origin = run.settings, source(run, "dataset")
    subsets = [subset.strip() for subset in s.subsets.split(",")]
    uses, needs = identity(origin)
    if needs:
        found = [find_split(origin, subset, split) for subset in subsets for split in ("train", "test")]
        needs = [path for path in found if path]
    own_number = s.eval_prompts if run.resolved.source["eval_prompts"] == "you" else None
    names = ("train_pairs", "heldout_pairs", "eval_prompts", "skip_malformed", "seed", "clean")
    uses |= {name: getattr(s, name) for name in names} | {"subsets": subsets, "own_number": own_number}

    def build(folder: Path) -> None:
        read = [load_pairs(origin, subsets, split, skip_malformed=s.skip_malformed) for split in ("train", "test")]
        (train, train_out), (test, test_out) = read
        if train.empty:
            raise DataError(f"{origin} holds no training pair in {s.subsets}: give another dataset or other subsets")
        audited = _audited(train, origin, subsets, s.clean) if s.clean != "no" else train
        prompts, which = _evaluation_dialogues(origin, subsets, train, test, s.eval_prompts, paper=own_number is None)
        clean = without_first_turns(audited, prompts)
        heldout = without_first_turns(without_first_turns(test, prompts), train)
        frames = {
            "train": sample_pairs(clean, s.train_pairs, s.seed),
            "heldout": sample_pairs(heldout, s.heldout_pairs, PAPER_SEED),
            "all_train": clean,
            "prompts": prompts,
        }
        for name, frame in frames.items():
            frame.to_json(folder / f"{name}.jsonl", orient="records", lines=True, force_ascii=False)
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
    frames = [read_rows(folder / f"{name}.jsonl") for name in ("train", "heldout", "prompts")]
    return Pairs(*frames, json.loads((folder / "counts.json").read_text()))


def _audited(train: pd.DataFrame, origin: Path | str, subsets: list[str], clean: str) -> pd.DataFrame:
    """The pairs that setting `clean` leaves. Raises SettingsError where the truth is asked for and nobody knows it."""
    from helpers.data import audit

    rows = load_transcripts(origin, subsets, "train")
    if clean == "truth":
        truth = audit.planted(origin, subsets)
        if truth is None:
            raise SettingsError(f"clean = 'truth': nobody knows the truth about {origin}; use 'marked' or 'labels'")
        kept = rows.index[audit.is_sound(truth.query("split == 'train'")).to_numpy()]
    else:
        kept = audit.clean_index(audit.detect(rows))
    if clean == "labels":
        kept = kept[~audit.label_issues(audit.label_probability(rows.loc[kept])).to_numpy()]
    places = pd.MultiIndex.from_frame(rows.loc[kept, ["subset", "line"]])
    return train[pd.MultiIndex.from_frame(train[["subset", "line"]]).isin(places)].reset_index(drop=True)


def _evaluation_dialogues(origin, subsets, train, test, n, *, paper: bool) -> tuple[pd.DataFrame, str]:
    """The dialogues whose prompts are evaluated: the paper's 100 on the official HH test files, else n a side."""
    if paper and {"harmless-base", "helpful-base"} <= set(subsets):
        transcripts = load_transcripts(origin, ["harmless-base", "helpful-base"], "test")
        try:
            rows = prompts.paper_rows(transcripts)
        except DataError:
            rows = transcripts.iloc[:0].assign(side=[])
        if len(rows) and prompts.is_paper_source(rows):
            return rows.assign(prompt=rows["chosen"])[["side", "subset", "line", "prompt", "chosen"]], "the paper's 100"
    rows = prompts.sample_prompts(test, train, n)
    whole = rows.assign(chosen=rows["prompt"] + rows["chosen"])
    return whole[["side", "subset", "line", "prompt", "chosen"]], f"{n} a side, drawn from the test pairs"


def read_rows(path: Path) -> pd.DataFrame:
    """Rows of a JSON-lines file as a stage wrote it: texts stay texts."""
    return pd.read_json(path, orient="records", lines=True, convert_dates=False, dtype=False)


def token_counter(tokenizer) -> Callable[[str], int]:
    """Count the tokens of a text."""
    return lambda text: len(tokenizer(text)["input_ids"])


def pairs_folder(run: Run) -> Path:
    """The folder of the stage "pairs", built if it is missing."""
    pairs(run)
    return run.folder / "stages" / "pairs"


def all_train(run: Run) -> pd.DataFrame:
    """Every training pair that opens with no evaluation prompt, not only those that are trained on."""
    return read_rows(pairs_folder(run) / "all_train.jsonl")
