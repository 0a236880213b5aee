"""Files of a repository on the Hugging Face Hub, in its own client's cache. No torch here, and no pickle.

The client is imported where it is used: a network that is built without it starts sooner.
"""

import json
import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

from backbones.weights.download import verify

log = logging.getLogger("backbones")

WEIGHTS, CONFIG = "model.safetensors", "config.json"
CONFIG_BYTES = 1 << 20
"""more than any config.json that tells of a network"""
COMMIT = re.compile(r"[0-9a-f]{40}")
ARE_CLEAR = (OSError, ValueError, TypeError, LookupError, AttributeError, MemoryError)
SHA256 = re.compile(r"[0-9a-f]{64}")


class Repo(NamedTuple):
    """A repository on the hub, at a branch, a tag or a commit."""

    id: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf:{self.id}" + (f"@{self.revision}" if self.revision != "main" else "")


class Stored(NamedTuple):
    """A file of a repository, in the cache."""

    path: Path
    repo: Repo
    """at the very commit"""
    sha256: str


def parse(text: str) -> Repo:
    """OWNER/REPO or OWNER/REPO@REVISION, with or without "hf:" before it. ValueError for anything else."""
    part = r"[A-Za-z0-9][\w.-]*"
    match = re.fullmatch(rf"(?:hf:)?({part}/{part})(?:@({part}(?:/{part})*))?", text, re.ASCII)
    if not match or ".." in text or "--" in match[1]:
        raise ValueError(f"{text!r} names no repository on the hub; give hf:OWNER/REPO or hf:OWNER/REPO@REVISION")
    return Repo(match[1], match[2] or "main")


def cached(repo: Repo, name: str = WEIGHTS) -> Path | None:
    """The file, if it is on this machine already."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repo.id, name, revision=repo.revision)
    return Path(path) if isinstance(path, str) else None


def fetch(repo: Repo) -> Stored:
    """The repository's weights, downloaded if needed, with their sha256 compared.

    Raises:
        ConnectionError: the hub cannot be reached, or HF_HUB_OFFLINE is set, and the file is not here
        PermissionError: the repository is gated, or the token is refused
        LookupError: no such repository or revision, or no safetensors file in it
        ValueError: the file is not the one that the hub describes
    """
    return _file(repo, WEIGHTS)


def config(repo: Repo) -> dict[str, Any]:
    """The repository's config.json; empty where none can be had. ValueError if it is no JSON object."""
    try:
        path = _file(repo, CONFIG).path
    except (_NoFile, ConnectionError) as error:
        log.info("%s", error)
        return {}
    return read_config(path, str(repo))


def read_config(path: Path, whose: str) -> dict[str, Any]:
    """A config.json, which anybody may have written. ValueError if it is no JSON object."""
    if path.stat().st_size > CONFIG_BYTES:
        raise ValueError(f"{CONFIG} of {whose} has {path.stat().st_size:,} bytes, more than {CONFIG_BYTES:,}")
    try:
        told = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{CONFIG} of {whose} is not JSON ({error})") from None
    if not isinstance(told, dict):
        raise ValueError(f"{CONFIG} of {whose} is not a JSON object")
    return told


class _NoFile(LookupError):
    """The repository is there, the file is not in it."""


def _file(repo: Repo, name: str) -> Stored:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

    known = cached(repo, name) if COMMIT.fullmatch(repo.revision) else None
    if known:
        return _stored(known, repo)
    try:
        url = hf_hub_url(repo.id, name, revision=repo.revision)
        # asked here, once: hf_hub_download asks six times, half a minute where there is no network
        told = get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        if name == CONFIG and (told.size or 0) > CONFIG_BYTES:
            raise ValueError(f"{CONFIG} of {repo} has {told.size:,} bytes, more than {CONFIG_BYTES:,}")
        fresh = cached(repo._replace(revision=told.commit_hash or repo.revision), name) is None
        path = Path(hf_hub_download(repo.id, name, revision=repo.revision))
        return _stored(path, repo, told.etag or "", fresh)
    except Exception as error:  # the client's own, its transport's and its accelerator's share no base
        told_error = _explain(error, repo, name)
        known = cached(repo, name) if isinstance(told_error, ConnectionError) else None
        if known is None:
            raise told_error from None
        stored = _stored(known, repo)
        log.info("%s; taking %s, which is here", told_error, stored.repo)
        return stored


def _stored(path: Path, repo: Repo, etag: str = "", fresh: bool = False) -> Stored:
    """The file of the cache, whose sha256 the hub tells as its etag, and the cache in the name that it links to."""
    stated = path.readlink().name if path.is_symlink() else etag
    if not SHA256.fullmatch(stated):  # of a small file the hub tells git's hash
        stated = ""
    try:
        return Stored(path, repo._replace(revision=path.parent.name), verify(path, stated))
    except ValueError:
        if not fresh:
            raise
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise ValueError(
            f"{path.name} of {repo} came altered, its sha256 is not {stated[:8]}...; nothing was kept; try again"
        ) from None


def _explain(error: Exception, repo: Repo, name: str) -> Exception:
    """One sentence: what happened and what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub = constants.ENDPOINT
    host, page = hub.partition("://")[2], f"{hub}/{repo.id}"
    if isinstance(error, GatedRepoError):
        return PermissionError(f"{repo} is gated: accept its terms at {page}, and log in with `hf auth login`")
    if isinstance(error, RepositoryNotFoundError):
        return LookupError(f"{host} shows no {repo}: check the name; if it is private, log in with `hf auth login`")
    if isinstance(error, RevisionNotFoundError):
        return LookupError(f"{repo.id} has no revision {repo.revision!r}; {page}/commits/main lists them")
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"cannot reach {host}"
        return ConnectionError(f"{reason}, and {name} of {repo} is not on this machine")
    if isinstance(error, EntryNotFoundError):
        return _NoFile(
            f"{repo} has no {name}, and other formats are not loaded from the hub: a pickle can run anybody's code; "
            f"choose another repository, or fetch a file of {page} that you trust, and give its path"
        )
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return PermissionError(f"{host} refuses {repo} with {status}: check your token with `hf auth whoami`")
        return ConnectionError(f"{host} answered {status} for {repo}; try again later")
    if isinstance(error, OSError) and str(error).startswith("Consistency check failed"):
        return ConnectionError(f"{host} sent {name} of {repo} cut short, or longer than it said; try again")
    if isinstance(error, ARE_CLEAR) and not isinstance(error, ConnectionError | TimeoutError):
        return error
    return ConnectionError(f"cannot reach {host} for {name} of {repo} ({error or type(error).__name__})")
