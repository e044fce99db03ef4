"""How fast SFT and DPO train here, against TRL used plainly and with its defaults, and what single choices bring.

python -m benchmarks.training_speed [NAME ...]    writes training_speed.json beside this file; the names are those of
`comparisons`, all of them if none is given. Each way has a process of its own, and the ways of a comparison take turns.
Tokens are real ones, without padding, counted in the same way everywhere. On a machine with a GPU the same command
measures that.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pandas as pd

from benchmarks import measuring
from helpers.core.profiles import DATA_CACHE
from helpers.core.settings import resolve

POLICY = DATA_CACHE / "policy"
PAIRS, HELD_OUT = 480, 100
STEPS, WARM_UP = 24, 5  # of the 30 in a pass over the pairs
WIDE = {"sft_max_length": 256, "max_prompt_length": 128, "sft_batch_size": 2}  # all rows are of the full length


class Comparison(NamedTuple):
    """Ways that take turns, each (function, *arguments), and pairs of them of which the first should be faster."""

    ways: dict[str, tuple[Any, ...]]
    pairs: tuple[tuple[str, str], ...]
    rounds: int = 5


def comparisons(work: Path) -> dict[str, Comparison]:
    """What is measured, by name. work: a folder for what the processes share."""
    found = {}
    # The course's training against TRL's.
    for kind in ("sft", "dpo"):
        ways = {
            "ours": (ours, kind),
            "ours, bfloat16": (ours, kind, "live", "bfloat16"),  # TRL's default
            "plain TRL": (plain, kind, False),
            "TRL's defaults": (plain, kind, True),
        }
        others = (("ours", "plain TRL"), ("ours", "TRL's defaults"), ("ours, bfloat16", "TRL's defaults"))
        found[kind] = Comparison(ways, others)
    # Single choices: precision, torch.compile, and where the reference's log-probabilities come from.
    ways = {precision: (wide, work, precision) for precision in ("bfloat16", "float32")}
    found["precision at OPT-350M's size"] = Comparison(ways, (("bfloat16", "float32"),))
    ways = {"compiled": (compiled, True), "not compiled": (compiled, False)}
    found["torch.compile"] = Comparison(ways, (("compiled", "not compiled"),))
    references, first = ("precomputed", "live"), (("precomputed", "live"),)
    ways = {reference: (ours, "dpo", reference) for reference in references}
    found["reference, steps"] = Comparison(ways, first)
    for passes in (1, 2):
        ways = {reference: (whole, reference, passes) for reference in references}
        found[f"reference, a whole training of {passes}"] = Comparison(ways, first, rounds=3)
    return found


def pairs() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Embedded pairs: training and held-out ones."""
    from helpers import open_run
    from helpers.pipeline import stages

    with tempfile.TemporaryDirectory() as results, mock.patch.dict(os.environ, COURSE_RESULTS=results):
        data = stages.pairs(open_run(train_pairs=PAIRS, heldout_pairs=HELD_OUT))
    return data.train, data.heldout


def ours(kind: str, reference: str = "live", precision: str = "auto") -> dict[str, float]:
    """Steps of the course's own training with the recommended recipe. What comes before the first step is not timed."""
    from helpers.training import dpo, sft

    settings = resolve(dpo_reference=reference, precision=precision).settings
    with tempfile.TemporaryDirectory() as out, measuring.steps_only():
        work = {"sft": sft.train_sft, "dpo": dpo.train_preferences}[kind]
        return measuring.tokens_a_second(lambda: work(POLICY, *pairs(), settings, Path(out)), STEPS, WARM_UP)


def plain(kind: str, defaults: bool) -> dict[str, float]:
    """Steps of TRL's trainer as its documentation shows it: rows in random order, nothing added.

    With the course's batch size, precision, length and learning rate, or with TRL's defaults for all of these. DPO
    trains the course's adapter both times.
    """
    import trl
    from datasets import Dataset
    from peft import LoraConfig

    from helpers.core import quiet
    from helpers.models import hardware, loading
    from helpers.training import arguments

    s, (train, _) = resolve().settings, pairs()
    # What the course chooses too, unless TRL's defaults are measured.
    same = {
        "per_device_train_batch_size": getattr(s, f"{kind}_batch_size"),
        "max_length": getattr(s, f"{kind}_max_length"),
        "learning_rate": getattr(s, f"{kind}_learning_rate"),
        "bf16": hardware.wants_bfloat16(s),
        arguments.checkpointing_field(): s.activation_checkpointing,
    }
    # TRL's trainer, its rows and what it needs beside them.
    if kind == "sft":
        config, trainer, more = trl.SFTConfig, trl.SFTTrainer, {}
        rows = train[["prompt", "chosen"]].rename(columns={"chosen": "completion"})
    else:
        config, trainer, rows = trl.DPOConfig, trl.DPOTrainer, train[["prompt", "chosen", "rejected"]]
        lora = LoraConfig(r=s.lora_rank, lora_alpha=s.lora_alpha, target_modules=s.lora_targets, task_type="CAUSAL_LM")
        more = {"peft_config": lora}
    with tempfile.TemporaryDirectory() as out, quiet.quiet():
        fixed = {"output_dir": out, "use_cpu": hardware.pick_device("auto") == "cpu", "save_strategy": "no"}
        args = config(**fixed, disable_tqdm=True, report_to="none", **({} if defaults else same))
        model = str(POLICY) if defaults else loading.load_policy(POLICY, dropout=s.dropout, device="cpu")
        data = Dataset.from_pandas(rows, preserve_index=False)
        made = trainer(model, args=args, train_dataset=data, processing_class=loading.load_tokenizer(POLICY), **more)
        # With smaller batches it takes more steps for as many rows.
        more_steps = same["per_device_train_batch_size"] // args.per_device_train_batch_size
        return measuring.tokens_a_second(made.train, more_steps * STEPS, more_steps * WARM_UP)


def wide(work: Path, precision: str) -> dict[str, float]:
    """Steps of SFT at OPT-350M's size with random weights."""
    from helpers.training import sft

    text = "\n\nHuman: " + "May I water the basil in the morning? " * 4 + "\n\nAssistant:"
    rows = pd.DataFrame({"prompt": text, "chosen": [" Yes, you may do that." * 256] * 16})
    settings = resolve(profile="paper", precision=precision, **WIDE).settings
    with tempfile.TemporaryDirectory(dir=work) as out, measuring.steps_only():
        policy = opt_350m(work)
        return measuring.tokens_a_second(lambda: sft.train_sft(policy, rows, rows, settings, Path(out)), 3, 1)


def opt_350m(work: Path) -> Path:
    """A policy of OPT-350M's size with random weights and the embedded tokenizer; made once."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    from helpers.models import loading

    folder = work / "opt-350m"
    if not folder.exists():
        torch.manual_seed(0)
        sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "ffn_dim": 4096}
        model = OPTForCausalLM(OPTConfig(**sizes, word_embed_proj_dim=512, do_layer_norm_before=False))
        tokenizer = loading.load_tokenizer(POLICY)
        model.lm_head.weight.data[len(tokenizer) :] = 0  # never the likeliest: they are no words of the tokenizer
        loading.save_model(model, tokenizer, folder)
    return folder


def compiled(on: bool) -> dict[str, float]:
    """Steps of SFT with torch.compile, or without. The warm-up is a pass over all rows, so all lengths were seen."""
    from helpers.training import arguments, sft

    settings, usual = resolve(sft_epochs=3.0).settings, arguments.training_arguments
    a_pass = PAIRS // settings.sft_batch_size

    def with_compile(*args: Any, **named: Any) -> Any:
        return usual(*args, **named, torch_compile=on)

    with (
        tempfile.TemporaryDirectory() as out,
        measuring.steps_only(),
        mock.patch.object(arguments, "training_arguments", with_compile),
    ):

        def train() -> None:
            sft.train_sft(POLICY, *pairs(), settings, Path(out))

        return measuring.tokens_a_second(train, a_pass, a_pass)


def whole(reference: str, passes: int) -> dict[str, float]:
    """Seconds of a whole DPO training: evaluations, and the reference where it is computed beforehand, included."""
    from helpers.training import dpo

    settings, rows = resolve(dpo_reference=reference, dpo_epochs=float(passes)).settings, pairs()
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        dpo.train_preferences(POLICY, *rows, settings, Path(out))
        return {"seconds": round(time.perf_counter() - began, 2)}


def compare(comparison: Comparison) -> dict[str, Any]:
    """Take turns, then: how many times faster the first of each pair of ways is than the second."""
    found = measuring.in_turns(comparison.ways, comparison.rounds)
    # The pace of each way, round by round: tokens a second, or trainings a second.
    pace: dict[str, list[float]] = {}
    for way, rounds in found.items():
        pace[way] = [1 / one["seconds"] if "seconds" in one else one["tokens_a_second"] for one in rounds]
    speed_up = {f"{a} over {b}": measuring.ratio(pace[a], pace[b]) for a, b in comparison.pairs}
    return {"speed_up": speed_up, "rounds": comparison.rounds, "measured": found}


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as work:
        known = comparisons(Path(work))
        for name in names or known:
            measuring.keep_part(__file__, name, compare(known[name]))


if __name__ == "__main__":
    main(sys.argv[1:])
