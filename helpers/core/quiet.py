"""Silence: libraries show no progress bars, advice or telemetry, so that output is the same on every machine."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

# Without these, libraries fill a notebook with progress widgets and notices that differ from run to run.
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
    """Silence the Hugging Face libraries' progress bars, advice and telemetry inside a ``with`` block."""
    import datasets
    import huggingface_hub
    from transformers.utils import logging as library

    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    dataset_bars, trl = not datasets.are_progress_bars_disabled(), logging.getLogger("trl")
    level = trl.level
    library.set_verbosity_error()
    library.disable_progress_bar()
    datasets.disable_progress_bars()
    trl.setLevel(logging.ERROR)
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # else TRL reports every training
    try:
        # TRL draws one more bar, for reference log-probabilities, and asks this variable about it.
        with warnings.catch_warnings(), mock.patch.dict(os.environ, TQDM_DISABLE="1"):
            warnings.simplefilter("ignore")
            yield
    finally:
        library.set_verbosity(verbosity)
        trl.setLevel(level)
        if bars:
            library.enable_progress_bar()
        if dataset_bars:
            datasets.enable_progress_bars()
