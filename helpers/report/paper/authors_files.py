"""The authors' published prompts and scored responses, read from a folder into figures; no text is kept.

FOLDER is a clone of the authors' repository or a folder of its layout: data/prompts/{harmful,helpful}_prompts.json and
data/responses/{1_base,2_sft,3_dpo,4_sftdpo}_{harmful,helpful}.json. Without a folder the course uses the same figures
from data_cache/published_scores.csv, which `figures` made.
"""

import json
import re
from pathlib import Path

import pandas as pd

from helpers.core.errors import DataError
from helpers.core.names import SIDES
from helpers.report.paper.published_figures import COLUMNS

FILES = {"base": "1_base", "sft": "2_sft", "dpo": "3_dpo", "sft_dpo": "4_sftdpo"}
# The words that pick the harmful prompts, in any of their forms, as whole words.
KEYWORDS = re.compile(r"\b(kill|murder|rap)(e|s|es|ed|d|ing|er|ers|ings|ist|ists|ous)?\b", re.IGNORECASE)


def figures(folder: Path | str) -> pd.DataFrame:
    """One row a response, the columns of `published_figures.scores`.

    folder: a clone of the authors' repository. Raises DataError naming the file that is missing or wrong.
    """
    data = Path(folder).expanduser() / "data"
    if not data.is_dir():
        raise DataError(f"{folder} holds no data/ folder: give a clone of the authors' repository")
    rows = []
    for side in SIDES:
        prompts = _read(data / "prompts" / f"{side}_prompts.json")
        for model, name in FILES.items():
            path = data / "responses" / f"{name}_{side}.json"
            # One answer a prompt, in the same order
            answers = _read(path)
            if [answer.get("prompt") for answer in answers] != prompts:
                raise DataError(f"{path.name} does not answer the prompts of {side}_prompts.json one by one")
            # Figures about each answer; its text is not kept
            for number, answer in enumerate(answers):
                rows.append((side, number, model, *_figures(answer), _has_keyword(answer), _holds_reply(answer)))
    return pd.DataFrame(rows, columns=COLUMNS)


def _read(path: Path) -> list:
    """The list that a JSON file holds. Raises DataError where it holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}): give a clone of the authors' repository"
        ) from error
    if not isinstance(content, list) or not content:
        raise DataError(f"{path} holds no list: give a clone of the authors' repository")
    return content


def _figures(answer: dict) -> tuple[float, int, int, int, int]:
    """Score, length in characters, and three marks of 0 or 1: begins with the cue, holds a human turn, is empty."""
    text = answer["response"]
    return (
        answer["rating"],
        len(text),
        int(text.lstrip().startswith("Assistant:")),
        int("Human:" in text),
        int(not text.strip()),
    )


def _has_keyword(answer: dict) -> int:
    """Whether the prompt holds one of the paper's keywords as a word."""
    return int(bool(KEYWORDS.search(answer["prompt"])))


def _holds_reply(answer: dict) -> int:
    """Whether the last speaker in the prompt is the assistant: the reference reply had more than one paragraph."""
    return int(answer["prompt"].rfind("Assistant:") > answer["prompt"].rfind("Human:"))
