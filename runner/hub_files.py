"""Weights at Hugging Face: a file of a repository, or a checkpoint that somebody has put there, through its own library."""

from __future__ import annotations

from pathlib import Path

from last_e.init import SUFFIXES
from last_e.manifest import MANIFEST, MOST_FILE_BYTES
from last_e.text import plain
from runner.errors import EngineError, UsageError

_CHECKPOINT = (MANIFEST, "state.pt", "config.json")
_LIKELY = "model.safetensors"
_MOST_TOLD = 10
_NO_LIBRARY = "hf:// needs Hugging Face's library; from a clone of lastrun: pip install '.[hf]'"
_REFUSED = "it is not there, or not yours to read: hf auth login, or HF_TOKEN"
_WORDS = {401: _REFUSED, 403: _REFUSED, 404: "there is no such repository, revision or file, or it is not yours to read"}


def fetch(named: str, folder: Path) -> Path:
    """Bring what is called ``OWNER/REPO[@REVISION][/FILE]`` into a folder. Without a file: the checkpoint that the repository
    holds, else ``model.safetensors``, else the only file of weights.

    Raises:
        UsageError: there is no such thing, or it is not told which.
        EngineError: its library is not installed, or Hugging Face does not answer.
    """
    owner, _, rest = named.partition("/")
    name, _, file = rest.partition("/")
    name, _, revision = name.partition("@")
    if not owner or not name:
        raise UsageError(f"model.init: found hf://{named}; allowed: hf://OWNER/REPO, with @REVISION or /FILE behind it")
    try:
        from httpx2 import HTTPError
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError:
        raise EngineError(_NO_LIBRARY) from None
    disable_progress_bars()
    api, where = HfApi(library_name="lastrun"), f"hf://{named}"
    try:
        about = api.model_info(f"{owner}/{name}", revision=revision or None, files_metadata=True)
        sizes = {one.rfilename: one.size or 0 for one in about.siblings or ()}
        wanted = _chosen(where, file, sizes)
        for one in wanted:
            if sizes[one] > MOST_FILE_BYTES:
                raise UsageError(f"model.init: {where}: {plain(one)} has {sizes[one]:,} bytes, more than any network here")
            # As it was when its files were listed, whatever is put there meanwhile.
            api.hf_hub_download(f"{owner}/{name}", one, revision=about.sha, local_dir=folder)
    except HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        told = _WORDS.get(code, f"it answers with error {code}; it may do in some minutes")
        raise (UsageError if code in _WORDS else EngineError)(f"model.init: {where}: {told}") from None
    except HFValidationError:
        raise UsageError(f"model.init: found {where}; allowed: hf://OWNER/REPO, names as Hugging Face has them") from None
    except (HTTPError, OSError) as error:
        raise EngineError(f"model.init: {where}: Hugging Face does not answer ({type(error).__name__})") from None
    found = folder / wanted[0]
    return found.parent if found.name == MANIFEST else found


def _chosen(where: str, file: str, sizes: dict[str, int]) -> list[str]:
    """The files that are meant, of those that are there."""
    weights = sorted(one for one in sizes if one.endswith(SUFFIXES))
    if file in sizes and file.endswith(SUFFIXES):
        return [file]
    folder = f"{file}/" if file else ""
    if all(folder + one in sizes for one in _CHECKPOINT):
        return [folder + one for one in _CHECKPOINT]
    if not file:
        likely = [one for one in weights if one == _LIKELY] or weights
        if len(likely) == 1:
            return likely
    told = ", ".join(plain(one) for one in weights[:_MOST_TOLD]) or "none"
    raise UsageError(
        f"model.init: {where}: {'no such file of weights.' if file else 'which file?'} Those there are: {told} "
        "(hf://OWNER/REPO/FILE)"
    )
