"""The three repositories on the Hugging Face hub that profile paper uses. No other module names them.

Each is fixed at a commit, so that everybody reads the same files. Nothing heavy is imported here: settings need this.
"""

from __future__ import annotations

from typing import NamedTuple


class Repository(NamedTuple):
    """A repository on the hub.

    id: "owner/name". kind: "model" or "dataset". revision: a commit; None for the newest one. option: the setting that
    takes a folder in place of the repository. download: bytes of the files that are fetched, 0 where unknown.
    positions: tokens of the longest input of a language model, 0 where it does not apply.
    """

    id: str
    kind: str
    revision: str | None = None
    option: str = ""
    download: int = 0
    positions: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.id!r}" + (f" (revision {self.revision[:7]})" if self.revision else "")


POLICY = Repository(
    "facebook/opt-350m",
    "model",
    "08ab08cc4b72ff5593870b5d527cf4230323703c",
    option="policy=PATH",
    download=663_000_000,
    positions=2048,
)
REWARD_MODEL = Repository(
    "OpenAssistant/reward-model-deberta-v3-large-v2",
    "model",
    "c355404efa9ad2ad069f3a197cae0523c14244fc",
    option="reward_model=PATH",
    download=1_750_000_000,
)
DATASET = Repository(
    "Anthropic/hh-rlhf",
    "dataset",
    "09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa",
    option="dataset=PATH",
    download=90_000_000,
)
KNOWN = {repository.id: repository for repository in (POLICY, REWARD_MODEL, DATASET)}


def repository(name: str, kind: str) -> Repository:
    """The repository of that name: one of KNOWN, or else one at its newest revision.

    name: "owner/name". kind: "model" or "dataset".
    """
    options = {"model": "policy=PATH or reward_model=PATH", "dataset": "dataset=PATH"}
    return KNOWN.get(name) or Repository(name, kind, option=options[kind])


def revision_of(name: str) -> str | None:
    """The commit at which a repository is fixed; None for one that is not in KNOWN. name: "owner/name"."""
    return KNOWN[name].revision if name in KNOWN else None


def download_of(name: str) -> int:
    """Bytes that are downloaded of a repository; 0 for one that is not in KNOWN. name: "owner/name"."""
    return KNOWN[name].download if name in KNOWN else 0
