"""data_cache/: the embedded world as files. Built from seeds, described by a manifest, checked against it.

mini_hh/SUBSET/{train,test}.jsonl.gz   dialogues in HH-RLHF's official layout
mini_hh/truth/SUBSET-{train,test}.jsonl.gz   what is true of each row: kinds, utilities, label, flaw, annotator
policy/                                the base policy: a small OPT pre-trained on the world's raw corpus
experiments/                           tables of figures from sweeps of many trainings
reward_model/                          the judge: a small DeBERTa-v2 trained on pairs that no policy sees
manifest.json                          every file's sha256, and how it was made
"""

import gzip
import json
import shutil
import tempfile
from pathlib import Path

from . import synthetic
from .errors import DataError
from .folders import content_hash, read_json, sha256_of_file, versions, write_json
from .settings import DATA_CACHE, resolve

WORLD_SEED = 0
JUDGE_SEED = 1  # the reward model's pairs come from another seed than the policies'
ROWS = {"train": 4200, "test": 600}
RAW_DOCUMENTS, HELDOUT_DOCUMENTS = 21_000, 300
JUDGE_ROWS = {  # facts about many topics need many pairs, stances need few
    "train": {synthetic.HARMLESS: 4000, synthetic.HELPFUL: 14000},
    "test": {synthetic.HARMLESS: 400, synthetic.HELPFUL: 400},
}
VOCABULARY = 3072
TRAINING = {"pretrain_epochs": 2.0, "pretrain_learning_rate": 5e-3, "reward_epochs": 1.0, "reward_learning_rate": 5e-3}
DIALOGUES, POLICY, JUDGE, EXPERIMENTS = "mini_hh", "policy", "reward_model", "experiments"
MANIFEST, HELDOUT_SCORES = "manifest.json", "heldout_scores.csv"


def build(*parts: str) -> None:
    """Make the parts again (all by default): the dialogues, the policy, the reward model; then the manifest.

    Each part is made beside data_cache/ and moved in when it is whole. It takes about 26 minutes on two cores. The
    models' bytes may differ between machines and with the number of cores; those of the dialogues never do. Tables of
    experiments stay as they are: make them again too, and the card.
    """
    makers = {DIALOGUES: _write_dialogues, POLICY: _train_policy, JUDGE: _train_judge}
    for part in parts or makers:
        with tempfile.TemporaryDirectory(dir=DATA_CACHE.parent, prefix=".data_cache-") as work:
            makers[part](Path(work) / part)
            shutil.rmtree(DATA_CACHE / part, ignore_errors=True)
            (Path(work) / part).rename(DATA_CACHE / part)
    _write_manifest()


def verify() -> None:
    """Check every file against the manifest, and that the dialogues regenerate byte for byte from the seed.

    Raises DataError that names the first file that is missing, changed or unexpected.
    """
    path = DATA_CACHE / MANIFEST
    if not path.is_file():
        raise DataError(
            "data_cache/manifest.json is missing: use a complete checkout, or python -m helpers cache build"
        )
    files = json.loads(path.read_text(encoding="utf-8"))["files"]
    there = {p.relative_to(DATA_CACHE).as_posix(): p for p in _cached_files()}
    for name in sorted(files.keys() | there.keys()):
        if name not in there or name not in files:
            what = "is missing" if name in files else "is not in the manifest"
            raise DataError(f"data_cache/{name} {what}: use a complete checkout, or python -m helpers cache build")
        if sha256_of_file(there[name]) != files[name]["sha256"]:
            raise DataError(f"data_cache/{name} is not the file that was shipped: use a fresh checkout")
    with tempfile.TemporaryDirectory() as again:
        _write_dialogues(Path(again))
        if content_hash(Path(again)) != content_hash(DATA_CACHE / DIALOGUES):
            raise DataError("data_cache/mini_hh is not what seed and generator make: python -m helpers cache build")


def _cached_files() -> list[Path]:
    parts = [DATA_CACHE / part for part in (DIALOGUES, POLICY, JUDGE, EXPERIMENTS)]
    return sorted(p for part in parts for p in part.rglob("*") if p.is_file())


def _write_dialogues(folder: Path) -> None:
    for subset in (synthetic.HARMLESS, synthetic.HELPFUL):
        for split, n in ROWS.items():
            pairs, truth = synthetic.generate_pairs(WORLD_SEED, subset, split, n)
            _write_rows(folder / subset / f"{split}.jsonl.gz", pairs)
            _write_rows(folder / "truth" / f"{subset}-{split}.jsonl.gz", truth)


def _write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def _train_policy(folder: Path) -> None:
    import torch

    from . import models, training

    texts = synthetic.raw_corpus(WORLD_SEED, RAW_DOCUMENTS + HELDOUT_DOCUMENTS)
    train, heldout = texts[:RAW_DOCUMENTS], texts[RAW_DOCUMENTS:]
    tokenizer = models.train_policy_tokenizer(train, VOCABULARY)
    trained = folder.with_name("training")
    training.pretrain(tokenizer, train, heldout, _settings(), trained)
    model = models.load_policy(trained / "model", dropout=0.0, device="cpu")
    _ship(model, tokenizer, trained, folder, torch.float16)


def _train_judge(folder: Path) -> None:
    import pandas as pd
    import torch

    from . import models, preferences, training

    pairs, trained = folder.with_name("pairs"), folder.with_name("training")
    frames = {}
    for split, numbers in JUDGE_ROWS.items():
        for subset, n in numbers.items():
            rows, _ = judge_pairs(subset, split, n)
            _write_rows(pairs / subset / f"{split}.jsonl.gz", rows)
        frames[split] = preferences.load_pairs(pairs, [synthetic.HARMLESS, synthetic.HELPFUL], split).pairs
    texts = pd.concat([frames["train"]["prompt"] + frames["train"][side] for side in ("chosen", "rejected")])
    tokenizer = models.train_reward_tokenizer(list(texts), VOCABULARY)
    fresh = models.new_reward_model(tokenizer, seed=WORLD_SEED)
    training.train_reward_model(fresh, tokenizer, frames["train"], frames["test"], _settings(), trained)
    model, _ = models.load_reward_model(trained / "model", device="cpu")
    _ship(model, tokenizer, trained, folder, torch.float16)
    _score_heldout(folder, frames["test"])


def _score_heldout(folder: Path, heldout) -> None:
    """Figures of the judge's held-out pairs beside it: its scores, and the latent utilities of the replies."""
    import pandas as pd

    from .scoring import pair_scores

    known = [pd.DataFrame(judge_pairs(subset, "test", n)[1]) for subset, n in JUDGE_ROWS["test"].items()]
    truth = pd.concat(known, ignore_index=True)[["chosen_utility", "rejected_utility"]]
    scores = pair_scores(folder, heldout, batch_size=32, device="cpu").round(4).reset_index(drop=True)
    table = pd.concat([heldout["subset"].reset_index(drop=True), scores, truth], axis=1)
    table.to_csv(folder / HELDOUT_SCORES, index=False)


def judge_pairs(subset: str, split: str, n: int) -> tuple[list[dict], list[dict]]:
    """The reward model's pairs and their truth: seen by no policy, no planted flaws, some spoiled replies."""
    return synthetic.generate_pairs(JUDGE_SEED, subset, split, n, flawed=False, spoiled=True)


def _ship(model, tokenizer, trained: Path, folder: Path, dtype) -> None:
    """Save as the hub does: float16 weights and a config that says so, which is one of OPT-350M's traps."""
    from .models import save_model

    save_model(model, tokenizer, folder, dtype=dtype)
    shutil.copy(trained / "log.csv", folder / "training_log.csv")


def _settings():
    return resolve(profile="mini", seed=WORLD_SEED, device="cpu", **TRAINING).settings


def _write_manifest() -> None:
    made = {
        "command": "python -m helpers cache build",
        "world_seed": WORLD_SEED,
        "judge_seed": JUDGE_SEED,
        "pairs_a_subset": ROWS,
        "judge_pairs_a_subset": JUDGE_ROWS,
        "raw_documents": RAW_DOCUMENTS,
        "vocabulary": VOCABULARY,
        "training": TRAINING,
        "versions": versions(),
    }
    write_json(DATA_CACHE / MANIFEST, {"made": made, "files": {}})
    enter_in_manifest()


def enter_in_manifest() -> None:
    """Write the sha256 and size of every file there is into the manifest."""
    files = {
        path.relative_to(DATA_CACHE).as_posix(): {"sha256": sha256_of_file(path), "bytes": path.stat().st_size}
        for path in _cached_files()
    }
    write_json(DATA_CACHE / MANIFEST, read_json(DATA_CACHE / MANIFEST) | {"files": files})
