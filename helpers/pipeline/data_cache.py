"""data_cache/: the embedded world as files. Built from seeds, described by a manifest, checked against it.

mini_hh/SUBSET/{train,test}.jsonl.gz   dialogues in HH-RLHF's official layout
mini_hh/truth/SUBSET-{train,test}.jsonl.gz   what is true of each row: kinds, utilities, label, flaw, annotator
policy/                                the base policy: a small OPT pre-trained on the world's raw corpus
experiments/                           tables of figures from sweeps of many trainings
reward_model/                          a small DeBERTa-v2 trained on pairs that no policy sees
manifest.json                          what each part was made from, and every file's sha256 (of .gz: of what is in it)
"""

import gzip
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from helpers.core import code, store
from helpers.core.errors import DataError
from helpers.core.files import content_hash, read_json, sha256_of_content, write_json
from helpers.core.profiles import DATA_CACHE
from helpers.core.settings import resolve
from helpers.data import synthetic

WORLD_SEED = 0
REWARD_SEED = 1  # the reward model's pairs come from another seed than the policies'
ROWS = {"train": 4200, "test": 600}
RAW_DOCUMENTS, HELDOUT_DOCUMENTS = 21_000, 300
REWARD_ROWS = {  # facts about many topics need many pairs, stances need few
    "train": {synthetic.HARMLESS: 4000, synthetic.HELPFUL: 14000},
    "test": {synthetic.HARMLESS: 400, synthetic.HELPFUL: 400},
}
VOCABULARY = 3072
TRAINING = {"pretrain_epochs": 2.0, "pretrain_learning_rate": 5e-3, "reward_epochs": 1.0, "reward_learning_rate": 5e-3}
DIALOGUES, POLICY, REWARD_MODEL, EXPERIMENTS = "mini_hh", "policy", "reward_model", "experiments"
HELDOUT_SCORES = "heldout_scores.csv"


def build(*parts: str) -> None:
    """Make the parts again (all by default): the dialogues, the policy, the reward model; then the manifest.

    parts: some of "mini_hh", "policy" and "reward_model". It takes about 26 minutes on two cores. The models' bytes may
    differ between machines and with the number of cores; those of the dialogues never do. Tables of experiments stay as
    they are: make them again too, and the card.
    """
    makers = _makers()
    for part in parts or makers:
        # Make the part beside data_cache/, and move it in when it is whole.
        with tempfile.TemporaryDirectory(dir=DATA_CACHE.parent, prefix=".data_cache-") as work:
            made_from = parts_of(part)
            makers[part](Path(work) / part)
            shutil.rmtree(DATA_CACHE / part, ignore_errors=True)
            (Path(work) / part).rename(DATA_CACHE / part)
            _enter_part(part, made_from)
    enter_in_manifest()


def verify() -> list[str]:
    """Check every file against the manifest, and that the seed gives the same dialogues again.

    Returns a line for each part that the code and settings of now would make differently, although it is whole. Raises
    DataError that names the first file that is missing, changed or unexpected.
    """
    # Every file is in the manifest with this content, and no file is missing.
    files = store.files_of(DATA_CACHE)
    if not files:
        raise DataError(
            "data_cache/manifest.json is missing or damaged: use a complete checkout, or python -m helpers cache build"
        )
    there = {p.relative_to(DATA_CACHE).as_posix(): p for p in _cached_files()}
    for name in sorted(files.keys() | there.keys()):
        if name not in there or name not in files:
            what = "is missing" if name in files else "is not in the manifest"
            raise DataError(f"data_cache/{name} {what}: use a complete checkout, or python -m helpers cache build")
        if sha256_of_content(there[name]) != files[name]["sha256"]:
            raise DataError(f"data_cache/{name} is not the file that was shipped: use a fresh checkout")
    # Make the dialogues again.
    with tempfile.TemporaryDirectory() as again:
        _write_dialogues(Path(again))
        if content_hash(Path(again)) != content_hash(DATA_CACHE / DIALOGUES):
            raise DataError("data_cache/mini_hh is not what seed and generator make: python -m helpers cache build")
    return _changed_since()


def made_from() -> dict[str, dict]:
    """Part -> its record in the manifest: uses, inputs, code (None: not recorded) and versions."""
    parts = read_json(DATA_CACHE / store.MANIFEST).get("parts")
    return parts if isinstance(parts, dict) else {}


def _changed_since() -> list[str]:
    """Lines that say which parts and tables would be made differently now, and of which that is not recorded."""
    lines, unknown = [], []
    # Dialogues and models, by the parts in the manifest.
    for part in _makers():
        record = made_from().get(part) or {}
        if record.get("code") is None:
            unknown.append(part)
        elif found := store.changes(record, parts_of(part)):
            lines.append(f"data_cache/{part} is whole, but would be made differently now: {store.told(found)}")
    # Tables of experiments, by the record beside each.
    for table in sorted((DATA_CACHE / EXPERIMENTS).glob("*.json")):
        record = read_json(table)
        if "code" not in record:
            unknown.append(f"{EXPERIMENTS}/{table.stem}")
        elif not code.is_unchanged(record["code"], record.get("versions")):
            lines.append(f"data_cache/{EXPERIMENTS}/{table.stem} is whole, but its code or libraries changed since")
    if unknown:
        lines.append(f"the code that made it is not recorded: {', '.join(unknown)}")
    return lines


def parts_of(part: str) -> store.Parts:
    """What a part of data_cache/ is made from."""
    uses = {
        DIALOGUES: {"world_seed": WORLD_SEED, "pairs_a_subset": ROWS},
        POLICY: {"world_seed": WORLD_SEED, "raw_documents": RAW_DOCUMENTS, "vocabulary": VOCABULARY},
        REWARD_MODEL: {"reward_seed": REWARD_SEED, "pairs_a_subset": REWARD_ROWS, "vocabulary": VOCABULARY},
    }[part]
    # The settings of its training, where it has one.
    prefix = {POLICY: "pretrain_", REWARD_MODEL: "reward_"}.get(part)
    if prefix:
        uses |= {name: value for name, value in TRAINING.items() if name.startswith(prefix)}
    made_by = code.of_builder(_makers()[part])
    return store.Parts(uses, {}, made_by.code, made_by.versions)


def _makers() -> dict[str, Callable[[Path], None]]:
    return {DIALOGUES: _write_dialogues, POLICY: _train_policy, REWARD_MODEL: _train_reward_model}


def _cached_files() -> list[Path]:
    found: list[Path] = []
    for part in (DIALOGUES, POLICY, REWARD_MODEL, EXPERIMENTS):
        found += [path for path in (DATA_CACHE / part).rglob("*") if path.is_file()]
    return sorted(found)


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

    from helpers.models import loading, small_models
    from helpers.training import pretrain

    # Pre-train a fresh model on the raw corpus, with a tokenizer of its own.
    texts = synthetic.raw_corpus(WORLD_SEED, RAW_DOCUMENTS + HELDOUT_DOCUMENTS)
    train, heldout = texts[:RAW_DOCUMENTS], texts[RAW_DOCUMENTS:]
    tokenizer = small_models.train_policy_tokenizer(train, VOCABULARY)
    trained = folder.with_name("training")
    pretrain.pretrain(tokenizer, train, heldout, _settings(), trained)
    # Ship what was trained, with dropout off.
    model = loading.load_policy(trained / "model", dropout=0.0, device="cpu")
    _ship(model, tokenizer, trained, folder, torch.float16)


def _train_reward_model(folder: Path) -> None:
    import pandas as pd
    import torch

    from helpers.data.pairs import load_pairs
    from helpers.models import loading, small_models
    from helpers.training import reward_model

    pairs, trained = folder.with_name("pairs"), folder.with_name("training")
    # Write the reward model's own dialogues, and read them as pairs.
    frames = {}
    for split, numbers in REWARD_ROWS.items():
        for subset, n in numbers.items():
            rows, _ = reward_model_pairs(subset, split, n)
            _write_rows(pairs / subset / f"{split}.jsonl.gz", rows)
        frames[split] = load_pairs(pairs, [synthetic.HARMLESS, synthetic.HELPFUL], split).pairs
    # Train tokenizer and model on the train pairs.
    train = frames["train"]
    texts = pd.concat([train["prompt"] + train["chosen"], train["prompt"] + train["rejected"]])
    tokenizer = small_models.train_reward_tokenizer(list(texts), VOCABULARY)
    fresh = small_models.new_reward_model(tokenizer, seed=WORLD_SEED)
    reward_model.train_reward_model(fresh, tokenizer, train, frames["test"], _settings(), trained)
    # Ship the model, and its scores of the held-out pairs.
    model, _ = loading.load_reward_model(trained / "model", device="cpu")
    _ship(model, tokenizer, trained, folder, torch.float16)
    _score_heldout(folder, frames["test"])


def _score_heldout(folder: Path, heldout) -> None:
    """Write the held-out pairs' scores by the reward model, and the latent utilities of their replies, beside it."""
    import pandas as pd

    from helpers.models.scoring import pair_scores

    # What is true of the pairs comes from their generator, in the same order.
    known = []
    for subset, n in REWARD_ROWS["test"].items():
        _, facts = reward_model_pairs(subset, "test", n)
        known.append(pd.DataFrame(facts))
    truth = pd.concat(known, ignore_index=True)[["chosen_utility", "rejected_utility"]]
    scores = pair_scores(folder, heldout, batch_size=32, device="cpu").round(4).reset_index(drop=True)
    table = pd.concat([heldout["subset"].reset_index(drop=True), scores, truth], axis=1)
    table.to_csv(folder / HELDOUT_SCORES, index=False)


def reward_model_pairs(subset: str, split: str, n: int) -> tuple[list[dict], list[dict]]:
    """(pairs, their truth) for the reward model, n of a subset and split.

    No policy sees them. They have no planted flaws, and some of their replies are spoiled on purpose.
    """
    return synthetic.generate_pairs(REWARD_SEED, subset, split, n, flawed=False, spoiled=True)


def _ship(model, tokenizer, trained: Path, folder: Path, dtype) -> None:
    """Save as the hub does: float16 weights and a config that says so, which is one of OPT-350M's traps."""
    from helpers.models.loading import save_model

    save_model(model, tokenizer, folder, dtype=dtype)
    shutil.copy(trained / "log.csv", folder / "training_log.csv")


def _settings():
    return resolve(profile="mini", seed=WORLD_SEED, device="cpu", **TRAINING).settings


def _enter_part(part: str, parts: store.Parts) -> None:
    """Write into the manifest what a part was made from."""
    manifest = read_json(DATA_CACHE / store.MANIFEST)
    manifest["command"] = "python -m helpers cache build"
    manifest["parts"] = made_from() | {part: parts._asdict()}
    write_json(DATA_CACHE / store.MANIFEST, manifest)


def enter_in_manifest() -> None:
    """Write the sha256 and size of every file there is into the manifest."""
    files = {}
    for path in _cached_files():
        entry = store.entry_of(path)
        del entry["time"]  # a checkout has its own
        files[path.relative_to(DATA_CACHE).as_posix()] = entry
    write_json(DATA_CACHE / store.MANIFEST, read_json(DATA_CACHE / store.MANIFEST) | {"files": files})
