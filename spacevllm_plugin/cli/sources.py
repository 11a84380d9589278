"""Whether `--model` and `--adapter` can be loaded from where they say, found out before anything heavy is imported."""

import os
from pathlib import Path
from typing import Any

from ..data.storage import is_remote, shown
from ..data.video.source import one_line
from .errors import CommandError


# A hub that has not answered by then is taken for out of reach. `HF_HUB_ETAG_TIMEOUT`, if set, counts instead.
PATIENCE = 3.0


def check_sources(model: str, adapter: str | None, arguments: dict[str, Any]) -> None:
    """Refuse a model or an adapter that is neither a folder, nor cached, nor on the hub, without trying it again and again.

    Args:
        model: Folder or hub id.
        adapter: The same for an adapter; several are separated by commas.
        arguments: LLaMA-Factory's arguments, of which those count that say where to look.

    Raises:
        CommandError: One line that says what is wrong.
    """
    _check("--model", model, "config.json", arguments)
    for name in (adapter or "").split(","):
        if name.strip():
            file = os.path.join(arguments.get("adapter_folder") or "", "adapter_config.json")
            _check("--adapter", name.strip(), file, arguments)


def _check(option: str, name: str, file: str, arguments: dict[str, Any]) -> None:
    if is_remote(name):
        where = "models are read from a folder of this machine or the hub: copy it here"
        raise CommandError(f"{option} {shown(name)}: {where}")

    if os.path.isdir(name):
        if not Path(name, file).is_file():
            hint = ", but an adapter: name it with --adapter, and its base with --model"
            adapter = option == "--model" and Path(name, "adapter_config.json").is_file()
            raise CommandError(f"{option} {name}: the folder holds no {file}{hint if adapter else ''}")
    elif os.path.exists(name):
        raise CommandError(f"{option} {name}: a file, not a folder")
    elif not _other_hub():
        _check_hub(f"{option} {name}", name, file, arguments)


def _other_hub() -> bool:
    """Whether LLaMA-Factory is told to download from a hub that only its own library knows how to ask."""
    hubs = ("USE_MODELSCOPE_HUB", "USE_OPENMIND_HUB")
    return any(os.environ.get(hub, "").lower() in ("1", "true", "y") for hub in hubs)


def _check_hub(what: str, name: str, file: str, arguments: dict[str, Any]) -> None:
    import httpx
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except errors.HFValidationError:
        raise CommandError(f"{what}: no such folder") from None

    revision = arguments.get("model_revision") or "main"
    cached = try_to_load_from_cache(name, file, cache_dir=arguments.get("cache_dir"), revision=revision)
    if isinstance(cached, str):
        return

    absent = f"{what}: neither a folder nor a model in the local cache"
    if constants.HF_HUB_OFFLINE:
        raise CommandError(f"{absent}, and HF_HUB_OFFLINE forbids to ask the hub")

    answers = {  # the first that fits: a gated model counts as not found, too
        errors.GatedRepoError: "and the hub wants to know you: ask for access there, then `hf auth login`",
        errors.RepositoryNotFoundError: "and the hub has none of this name that you may see",
        errors.RevisionNotFoundError: f"and on the hub it has no revision {revision}",
        errors.RemoteEntryNotFoundError: f"and on the hub it has no {file}",
        httpx.TransportError: "and the hub does not answer",
    }
    patience = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or PATIENCE)
    try:
        get_hf_file_metadata(hf_hub_url(name, file, revision=revision), arguments.get("hf_hub_token"), patience)
    except tuple(answers) as err:
        answer = next(answer for kind, answer in answers.items() if isinstance(err, kind))
        reason = f" ({one_line(err) or type(err).__name__})" if isinstance(err, httpx.TransportError) else ""
        raise CommandError(f"{absent}, {answer}{reason}") from None
    except errors.HfHubHTTPError:
        pass  # A hub with troubles of its own: the download tries again, as it should.
