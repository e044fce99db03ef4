"""Folders with a LoRA adapter (PEFT) as models: the adapter is merged into its base model, once.

The merged model is kept in results/.models/, under a name made from the content of the adapter and of its base model.
"""

from collections.abc import Callable
from pathlib import Path

from helpers.core import files, store
from helpers.core.errors import CourseError, DataError
from helpers.core.profiles import results_root
from helpers.models import checkpoint_files

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_adapter(source: str | Path) -> bool:
    """Whether a model's source is a folder with an adapter.

    source: a folder or hub id. Raises DataError where the folder holds a whole model too: either could be meant.
    """
    folder = Path(source)
    if not (folder / CONFIG).is_file():
        return False
    if whole := checkpoint_files.files_among(checkpoint_files.names_in(folder)):
        raise DataError(
            f"folder {str(source)!r} holds both an adapter ({CONFIG}) and a whole model ({whole[0]}): "
            "keep them in folders of their own and name the one you mean"
        )
    return True


def base_of(folder: str | Path) -> str:
    """The folder or hub id of an adapter's base model, the one on which it was trained.

    folder: the adapter's. Raises DataError where its config names no base model.
    """
    named = files.read_json(Path(folder) / CONFIG).get("base_model_name_or_path")
    if not named:
        raise DataError(
            f"adapter {str(folder)!r} does not say which model it was trained on: write that model's folder or hub id "
            f"into {CONFIG} as base_model_name_or_path"
        )
    # A folder, also one relative to the adapter's; else a hub id.
    for place in (Path(named).expanduser(), Path(folder) / named):
        if place.is_dir():
            return str(place)
    return str(named)


def merged(folder: str | Path, merge: Callable[[str, Path, Path], None]) -> Path:
    """The folder of the plain model that an adapter and its base model make; merged on the first call.

    folder: the adapter's. merge: a function of (base model, adapter's folder, folder to write). Raises DataError where
    the adapter's weights are not there as safetensors, or its base model cannot be loaded.
    """
    adapter, base = Path(folder), base_of(folder)
    if not (adapter / WEIGHTS).is_file():
        raise DataError(f"adapter {str(folder)!r} lacks {WEIGHTS}: save it again as safetensors")
    # What the merged model is made from gives its name, so that another adapter or base model is merged anew.
    base_content = files.content_hash(Path(base)) if Path(base).is_dir() else base
    inputs = {"adapter": files.content_hash(adapter), "base": base_content}
    parts = store.Parts(uses={}, inputs=inputs, code={}, versions={})
    target = results_root() / ".models" / f"merged-{parts.fingerprint[:16]}"
    return store.make(target, parts, lambda out: _build(adapter, base, out, merge), f"the merged model of {folder}")


def _build(adapter: Path, base: str, out: Path, merge: Callable[[str, Path, Path], None]) -> None:
    """Merge, with a DataError of one line where that is not possible."""
    print(f"{adapter}: merging the adapter into its base model {base}, once")
    try:
        merge(base, adapter, out)
    except CourseError as error:
        raise DataError(
            f"adapter {str(adapter)!r} needs its base model {base!r}, which is not usable here ({error}): "
            f"change base_model_name_or_path in {CONFIG}"
        ) from None
    except (ValueError, KeyError, RuntimeError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise DataError(f"adapter {str(adapter)!r} does not fit its base model {base!r} ({reason})") from None
