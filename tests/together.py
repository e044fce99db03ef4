"""What test_distributed.py launches: the two processes of each scenario, forked so that libraries are imported once.

    accelerate launch --config_file helpers/training/accelerate_configs/ddp.yaml tests/together.py FOLDER

What a process says in a scenario goes to FOLDER/said/SCENARIO.NUMBER, its exit status to SCENARIO.NUMBER.status.
"""

import os
import signal
import sys
import time
import traceback
from pathlib import Path

import accelerate
import peft
import tiny
import torch
import typer
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from helpers import __main__, console
from helpers.core import distributed
from helpers.core.methods import METHODS
from helpers.core.profiles import ROOT
from helpers.pipeline import stages
from helpers.training.dpo import train_preferences
from helpers.training.sft import train_sft

IMPORTED = (peft, DPOConfig, DPOTrainer, SFTConfig, SFTTrainer, stages)
CONFIGS = ROOT / "helpers" / "training" / "accelerate_configs"
PAIRS = tiny.made_up(40, seed=1)
TRAIN, HELDOUT = (
    PAIRS[:24].reset_index(drop=True),
    PAIRS[24:].reset_index(drop=True),
)  # they fill steps of 4, looks of 16
# Without dropout, so that there is one right answer. Batches are summed.
PUBLISHED = {"recipe": "published", "sft_batch_size": 2, "dpo_batch_size": 2, "gradient_accumulation": 2}
PUBLISHED |= {"dropout": 0.0, "lora_dropout": 0.0}
CASES = {
    "sft": {},
    "sft-published": PUBLISHED,
    "dpo": {"dpo_learning_rate": 5e-3},
    "dpo-precomputed": {"dpo_learning_rate": 5e-3, "dpo_reference": "precomputed"},
    "dpo-published": PUBLISHED | {"dpo_learning_rate": 5e-3},
    "simpo": {"dpo_learning_rate": 5e-3},
    # Here each process takes a whole batch of one process: ORPO averages over the tokens of a batch.
    "orpo-published": PUBLISHED | {"dpo_learning_rate": 5e-3},
    "dpo-uneven": {"dpo_learning_rate": 5e-3},  # the last step has 2 rows, of the others' 4
}
SMALL = {"train_pairs": 6, "heldout_pairs": 2, "max_new_tokens": 2, "sft_batch_size": 4, "dpo_batch_size": 4}
SMALL |= {"sft_epochs": 1.0, "dpo_reference": "precomputed"}
TRAIN_SMALL = ["train", "--profile", "smoke", "--only", "sft,dpo", *(f"-p{n}={value}" for n, value in SMALL.items())]


def train(case, out, progress=None):
    """One training of CASES on the tiny policy; the name's first part says by which method."""
    method = case.partition("-")[0]
    rows = TRAIN[:22] if "uneven" in case else TRAIN
    given = (out.parent.parent / "policy", rows, HELDOUT, tiny.settings(**CASES[case]), out)
    if method == "sft":
        train_sft(*given, progress=progress)
    else:
        train_preferences(*given, method=METHODS[method], progress=progress)


def join(folder):
    distributed.join(cpu=True)


def join_sharded(folder):
    """FSDP as fsdp.yaml asks for it, on processors: accelerate itself does without it there."""
    args = launch_command_parser().parse_args(
        ["--config_file", str(CONFIGS / "fsdp.yaml"), "--main_process_port", "0", "-m", "x"]
    )
    asked = prepare_multi_gpu_env(_validate_launch_command(args)[0])
    os.environ |= {name: value for name, value in asked.items() if "FSDP" in name}
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    accelerate.state.PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    torch.distributed.init_process_group("gloo")


def at_the_end(act):
    """Call `act` in process 1 before the last step."""
    return lambda step, last: act() if distributed.index() == 1 and step == last - 1 else None


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise ValueError("a bug in process 1")


def same(folder):
    join(folder)
    for case in CASES:
        train(case, folder / "two" / case)


def killed(folder):
    join(folder)
    train("sft", folder / "killed" / "sft", at_the_end(kill))


def resumed(folder):
    join(folder)
    train("sft", folder / "killed" / "sft")


def failing(folder):
    join(folder)
    train("dpo", folder / "failing" / "dpo", at_the_end(fail))


def sharded(folder):
    join_sharded(folder)
    for case in ("sft", "dpo"):
        train(case, folder / "sharded" / case)


def sharded_killed(folder):
    join_sharded(folder)
    train("sft", folder / "sharded-killed" / "sft", at_the_end(kill))


def not_sharded(folder):
    join(folder)
    train("sft", folder / "sharded-killed" / "sft")


def sharded_resumed(folder):
    join_sharded(folder)
    train("sft", folder / "sharded-killed" / "sft")


def typed(*words):
    sys.argv = ["helpers", *words]
    __main__.app(prog_name="python -m helpers")


SCENARIOS = {
    "same": same,
    "killed": killed,
    "resumed": resumed,
    "failing": failing,
    "sharded": sharded,
    "sharded-killed": sharded_killed,
    "not-sharded": not_sharded,
    "sharded-resumed": sharded_resumed,
    "command": lambda folder: typed(*TRAIN_SMALL),
    "again": lambda folder: typed(*TRAIN_SMALL),
    "uneven": lambda folder: typed("train", "--profile", "smoke", "-p", "sft_batch_size=3"),
    "notebooks": lambda folder: typed("run", "--profile", "smoke"),
}


def play(name, folder, number):
    """Fork, and do one scenario in the child; return its exit status as os.waitpid gives it."""
    child = os.fork()
    if child:
        store = keep_store(folder / f"{name}.port") if number == 0 else None
        status = ended(child, folder / "said" / f"{name}.{1 - number}.status")
        del store
        return status
    said = os.open(folder / "said" / f"{name}.{number}", os.O_CREAT | os.O_WRONLY)
    os.dup2(said, 1), os.dup2(said, 2)
    while not (port := folder / f"{name}.port").exists():
        time.sleep(0.01)
    os.environ |= {"MASTER_PORT": port.read_text(), "COURSE_RESULTS": str(folder / "results")}
    code = 0
    try:
        with console.explained(), distributed.only_first_error():
            SCENARIOS[name](folder)
            distributed.leave()
    except (SystemExit, typer.Exit) as end:
        code = end.exit_code if isinstance(end, typer.Exit) else end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def ended(child, other):
    """Wait for a child; end it, as the launcher does, when the other process has failed, or when it takes too long."""
    end, began = None, time.monotonic()
    while not (status := os.waitpid(child, os.WNOHANG))[0]:
        if end is None and other.exists() and other.read_text() != "0":
            end = time.monotonic() + 1
        if (end and time.monotonic() > end) or time.monotonic() > began + 120:
            os.kill(child, signal.SIGTERM)
        time.sleep(0.02)
    return status[1]


def keep_store(file):
    """The store through which the processes of a scenario meet; it outlives them, as the launcher's does."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    file.with_suffix(".new").write_text(str(store.port))
    file.with_suffix(".new").rename(file)
    return store


def main(folder):
    number = int(os.environ["RANK"])
    for name in SCENARIOS:
        status = play(name, folder, number)
        file = folder / "said" / f"{name}.{number}.status"
        file.with_suffix(".new").write_text(str(status))
        file.with_suffix(".new").rename(file)
    if number == 1:
        kill()
    time.sleep(60)  # the launcher ends this process when it sees that the other is gone
    (folder / "said" / "nobody.ended.me").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
