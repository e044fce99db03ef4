"""Greedy decoding of a small policy on a processor, by CTranslate2.

Where a token costs a millisecond, most of it goes into starting torch's many small kernels and into threads that wait
for each other. CTranslate2 has few large kernels and gives every core a batch of its own. It is an engine for
inference: it knows OPT, takes the weights in float32, and gives the same tokens (tests and benchmarks compare them).
"""

import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from transformers import OPTForCausalLM

LARGEST = 100_000_000  # parameters: OPT-350M waits for memory in either engine, and its weights are held twice here
AT_ONCE = 8  # rows in a batch of one core: more of them only wait for the longest


def takes(model) -> bool:
    """Whether `likeliest` can answer for this model: a small, plain OPT in float32 on a processor.

    False also where CTranslate2 is not installed: it is asked for on Linux alone, since elsewhere its OpenMP library
    and torch's may refuse to share a process. An OPT with adapters in it, sharded, or built otherwise than
    the published ones is not a plain one.
    """
    return (
        importlib.util.find_spec("ctranslate2") is not None
        and type(model) is OPTForCausalLM
        and all(type(part).__module__.startswith(("torch.nn.", "transformers.")) for part in model.modules())
        and {(p.dtype, p.device.type) for p in model.parameters()} == {(torch.float32, "cpu")}
        and model.num_parameters() <= LARGEST
        and model.config.activation_function == "relu"
        and model.config.enable_bias
        and model.config.layer_norm_elementwise_affine
        and not model.config._remove_final_layer_norm
    )


def likeliest(model, batches: Sequence[list[list[int]]], eos: int, most: int) -> Iterator[list[list[int]]]:
    """The likeliest next tokens of every row, batch by batch: at most `most`, EOS the last one where it was said.

    batches: token ids of prompts, the shortest first, not padded, none empty. The model is only read.
    """
    import ctranslate2

    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        _convert(model, Path(folder))
        engine = ctranslate2.Generator(
            folder, device="cpu", compute_type="float32", inter_threads=threads, intra_threads=1
        )
    torch.set_num_threads(threads)  # the engine's number of threads for one batch has become torch's
    ask = partial(
        engine.generate_batch,
        max_batch_size=AT_ONCE,
        max_length=most,
        end_token=[eos],
        return_end_token=True,
        include_prompt_in_result=False,
        asynchronous=True,
    )
    asked = [
        [answer for part in _apart(rows) for answer in ask([[*map(str, row)] for row in part])] for rows in batches
    ]
    for rows in asked:
        yield [row.result().sequences_ids[0] for row in rows]


def _apart(rows: list[list[int]]) -> list[list[list[int]]]:
    """Prompts of a single token by themselves: CTranslate2 4.8 gives wrong answers to the others beside them."""
    single = [row for row in rows if len(row) == 1]
    return [part for part in (single, rows[len(single) :]) if part]


def _convert(model, folder: Path) -> None:
    """The model as CTranslate2 reads it, with a vocabulary of numbers: texts stay the tokenizer's business."""
    from ctranslate2.converters.transformers import OPTLoader

    spec = OPTLoader().get_model_spec(model)
    spec.register_vocabulary([str(i) for i in range(model.config.vocab_size)])
    special = str(model.config.bos_token_id or 0)  # these names must be known words; the end is told with each batch
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = special
    spec.validate()
    spec.optimize()
    spec.save(str(folder))
