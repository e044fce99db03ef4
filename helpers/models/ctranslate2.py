"""Greedy decoding of a small policy on a processor, by CTranslate2.

A small model needs about a millisecond a token in torch, and most of it goes into starting many small kernels and into
threads that wait for each other. CTranslate2, an engine for inference, has few large kernels and gives every core a
batch of its own. It can compute OPT with weights in float32 and gives the same tokens: tests and benchmarks compare.
"""

import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from transformers import OPTForCausalLM

LARGEST = (
    100_000_000  # parameters: a larger model waits for memory in either engine, and its weights are held twice here
)
AT_ONCE = 8  # rows in a batch of one core; in larger batches more rows wait for the longest one


def takes(model) -> bool:
    """Whether `likeliest` can decode with this model: a small OPT as published, in float32 on a processor.

    model: a policy. False for an OPT with an adapter in it, with divided weights (FSDP), or with other layers than the
    published ones. False also without CTranslate2, which the course installs on Linux only: elsewhere its OpenMP
    library and torch's may refuse to work in one process.
    """
    if importlib.util.find_spec("ctranslate2") is None or type(model) is not OPTForCausalLM:
        return False
    # Layers of torch and transformers only: none of an adapter, none that is divided among processes.
    if not all(type(part).__module__.startswith(("torch.nn.", "transformers.")) for part in model.modules()):
        return False
    in_float32_on_processor = {(p.dtype, p.device.type) for p in model.parameters()} == {(torch.float32, "cpu")}
    return in_float32_on_processor and model.num_parameters() <= LARGEST and _as_published(model.config)


def _as_published(config) -> bool:
    """Whether a config has none of the options of OPT that CTranslate2 does not know."""
    return (
        config.activation_function == "relu"
        and config.enable_bias
        and config.layer_norm_elementwise_affine
        and not config._remove_final_layer_norm
    )


def likeliest(model, batches: Sequence[list[list[int]]], eos: int, most: int) -> Iterator[list[list[int]]]:
    """Greedy decoding: the likeliest next tokens of every row, batch by batch.

    model: one that `takes` accepts; it is not changed. batches: token ids of prompts, the shortest first, not padded,
    none empty. eos: the id of EOS. most: the most tokens for a row. Yields for each batch the new token ids of its
    rows, with EOS where it was generated.
    """
    import ctranslate2

    # Write the model in CTranslate2's format and load it, one batch at a time on each core.
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        _convert(model, Path(folder))
        engine = ctranslate2.Generator(
            folder, device="cpu", compute_type="float32", inter_threads=threads, intra_threads=1
        )
    # The engine has set torch's number of threads to its own number for one batch, 1: set it back.
    torch.set_num_threads(threads)
    # Hand over all batches at once; the engine computes them while the first results are waited for.
    submit = partial(
        engine.generate_batch,
        max_batch_size=AT_ONCE,
        max_length=most,
        end_token=[eos],
        return_end_token=True,
        include_prompt_in_result=False,
        asynchronous=True,
    )
    pending = []
    for rows in batches:
        results = []
        for part in _single_tokens_apart(rows):
            results += submit([[str(token) for token in row] for row in part])
        pending.append(results)
    # Wait for each batch in turn.
    for results in pending:
        yield [result.result().sequences_ids[0] for result in results]


def _single_tokens_apart(rows: list[list[int]]) -> list[list[list[int]]]:
    """Prompts of a single token in a batch of their own: CTranslate2 4.8 gives wrong tokens for other rows beside them.

    The rows come sorted by length, so those of a single token are the first ones.
    """
    single = [row for row in rows if len(row) == 1]
    return [part for part in (single, rows[len(single) :]) if part]


def _convert(model, folder: Path) -> None:
    """Write a model in CTranslate2's format; its vocabulary are the token ids as words, so it needs no tokenizer."""
    from ctranslate2.converters.transformers import OPTLoader

    spec = OPTLoader().get_model_spec(model)
    spec.register_vocabulary([str(i) for i in range(model.config.vocab_size)])
    # These three must be words of the vocabulary; EOS is given with each batch.
    special = str(model.config.bos_token_id or 0)
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = special
    spec.validate()
    spec.optimize()
    spec.save(str(folder))
