"""Switches off the progress bars, advice and telemetry of libraries, so that output is the same on every machine."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

# Environment variables of a notebook's process: without them libraries print bars and notices that differ each time.
QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
}


@contextmanager
def quiet() -> Iterator[None]:
    """While inside, the Hugging Face libraries show no progress bars and no advice, and send no telemetry."""
    import datasets
    import huggingface_hub
    from transformers.utils import logging as library

    # What is set now.
    trl = logging.getLogger("trl")
    verbosity, level = library.get_verbosity(), trl.level
    bars, dataset_bars = library.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled()
    # Everything off.
    library.set_verbosity_error()
    library.disable_progress_bar()
    datasets.disable_progress_bars()
    trl.setLevel(logging.ERROR)
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # else TRL reports every training
    try:
        # TRL shows one more bar, for reference log-probabilities, unless this variable is set.
        with warnings.catch_warnings(), mock.patch.dict(os.environ, TQDM_DISABLE="1"):
            warnings.simplefilter("ignore")
            yield
    finally:
        # As it was, but for telemetry, which stays off.
        library.set_verbosity(verbosity)
        trl.setLevel(level)
        if bars:
            library.enable_progress_bar()
        if dataset_bars:
            datasets.enable_progress_bars()
