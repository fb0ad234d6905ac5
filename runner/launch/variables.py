"""Variables of this shell that an attempt gets which does not inherit them all."""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress
from urllib.parse import urlsplit

from last_e.datafile import is_remote
from last_e.redact import NAMED
from last_e.text import expand
from runner.errors import UsageError
from runner.spec import JobSpec
from runner.store.uri import StoreUri

_OF_A_BUCKET = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_EC2_METADATA_DISABLED"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "REQUESTS_CA_BUNDLE", "LASTRUN_ENV_FILE"),
    *("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)


_OF_THIS_MACHINE = (
    *("AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "REQUESTS_CA_BUNDLE"),
    *("LASTRUN_ENV_FILE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
"""Files that are here, and ways out of this network."""


def wants_cpu(config: JobSpec) -> bool:
    """Whether a job says that it does without a GPU."""
    return config.run.gpus == 0 or config.hardware.device == "cpu"


def uses_buckets(config: JobSpec, store: StoreUri) -> bool:
    """Whether the job's store or its data are in one."""
    return store.scheme != "file" or is_remote(config.data.uri)


def to_hand_over(config: JobSpec, store: StoreUri) -> list[str]:
    """Names of the variables that the job names: which are secret, ``run.pass_env``, those of ``notify``, and those that a
    bucket needs, for whoever names one names these, too."""
    return [NAMED, *config.named_variables(), *(_OF_A_BUCKET if uses_buckets(config, store) else ())]


def values_elsewhere(store: StoreUri | None, config: JobSpec | None) -> dict[str, str]:
    """The same with their values, for a machine that has none of this one's files. Keys that come from a file or a service
    here are handed over as they are now. Without a job, what the store needs."""
    bucket = (store is not None and store.scheme != "file") or (config is not None and is_remote(config.data.uri))
    usual = [name for name in _OF_A_BUCKET if bucket and name not in _OF_THIS_MACHINE]
    names = [NAMED, *(config.named_variables() if config is not None else ()), *usual]
    found = {name: os.environ[name] for name in names if name in os.environ}
    if bucket and ("AWS_ACCESS_KEY_ID" not in found or os.environ.get("LASTRUN_ENV_FILE")):
        from runner.store import keys  # slow to import

        session = keys.session()
        if credentials := session.get_credentials():
            frozen = credentials.get_frozen_credentials()
            values = zip(keys.NAMES, (frozen.access_key, frozen.secret_key, frozen.token))
            found = {name: value for name, value in found.items() if name not in keys.NAMES}
            found |= {name: value for name, value in values if value}
        if session.region_name and "AWS_REGION" not in found:
            found.setdefault("AWS_DEFAULT_REGION", session.region_name)
    return found


def see_that_they_are_set(config: JobSpec) -> None:
    """See that what the job names is there to be handed over.

    Raises:
        UsageError: it is not.
    """
    missing = [name for name in config.run.pass_env if name not in os.environ]
    if missing:
        raise UsageError(f"run.pass_env: {', '.join(missing)} is not set here: set it, or leave it out")


def is_private(address: str) -> bool:
    """Whether a server's address is one of this network alone."""
    host = urlsplit(address).hostname or ""
    with suppress(ValueError):
        return not ipaddress.ip_address(host).is_global
    return host == "localhost" or host.endswith((".local", ".internal"))


def authority(uri: StoreUri | None) -> dict[str, str]:
    """The certificates that this user believes a store's server by, for a machine that has none of this one's files.

    Raises:
        UsageError: they cannot be read.
    """
    named = os.environ.get("AWS_CA_BUNDLE") if uri is not None and uri.scheme != "file" else None
    if not named:
        return {}
    try:
        return {"authority": expand(named).read_text()}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"AWS_CA_BUNDLE: {named}: {getattr(error, 'strerror', None) or 'no text'}") from None
