"""What engines say when something fails, as one line with the remedy."""

from __future__ import annotations

import errno
import json
import re
import ssl
from collections.abc import Iterator

from last_e.text import one_line
from runner.errors import EngineError
from runner.launch.docker.where import Certificates, where

NO_ENGINE = "what answers at {} is no Docker engine: is something else listening there?"
NOT_HANDED_IN = (
    "Podman has handed in no GPU, and says nothing of it: it takes them by their CDI names alone (sudo nvidia-ctk cdi generate "
    "--output=/etc/cdi/nvidia.yaml), and older ones not at all through Docker's interface. Take a newer one, or Docker; or "
    "train on the CPU with --set run.gpus=0"
)
_RENEW = "lastrun image build makes one"
_NO_RUNTIME_HERE = (
    r"(?i)could not select device driver|unknown or invalid runtime name|failed to discover GPU vendor|no known GPU vendor"
)
_HOOK = r"invoking the NVIDIA Container Runtime Hook directly"
_NO_SUCH_DEVICE = r"unresolvable CDI devices? ([^\n]*)"
_NO_WAY = re.compile("|".join((_NO_RUNTIME_HERE, _HOOK, _NO_SUCH_DEVICE)))
_NO_REASON = re.compile(r"(?i)^(auto-detected mode as|using requested mode|time=|usage:|see ['\"]?docker)")
"""Lines that NVIDIA's runtime and others write beside the reason."""
_CONFIGURED = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
NO_RUNTIME = f"install nvidia-container-toolkit, then: {_CONFIGURED}; or train on the CPU with --set run.gpus=0"
_REMEDIES = (
    (_NO_RUNTIME_HERE, f"the engine has no NVIDIA runtime: {NO_RUNTIME}"),
    (
        _HOOK,
        "the engine's machine hands in GPUs through its runtime alone: run.gpu_request=runtime asks so, once " + _CONFIGURED,
    ),
    (
        _NO_SUCH_DEVICE,
        "the engine's machine names no such GPU ({0}): nvidia-smi -L lists them, for run.gpus; if it is there: sudo nvidia-ctk "
        "cdi generate --output=/etc/cdi/nvidia.yaml",
    ),
    (
        r"exec: \\?\"(docker-init|nvidia-container-runtime[a-z.-]*)",
        "the engine lacks its own {0}: install it (docker's package brings docker-init, nvidia-container-toolkit the others)",
    ),
    (
        r"lookup init binary|container-init binary|catatonit",
        "Podman lacks catatonit, which starts what runs inside: install it",
    ),
    (
        r"unsatisfied condition: ((?:cuda|driver)[^,\n]*)",
        "the host's NVIDIA driver is too old for the image's CUDA ({0}): update it, or build an image for an older CUDA with "
        "lastrun image build --base BASE --torch TORCH",
    ),
    (
        r"nvidia-container-cli: ([^\n]*)",
        "NVIDIA's container runtime cannot hand in the GPU ({0}): see that nvidia-smi works on the host and that run.gpus "
        "names GPUs that it lists",
    ),
    (
        r'container name "/?(\S+)" is already in use',
        "a container {0} is there already: another attempt is being started; if it is not, docker rm {0}",
    ),
    (
        r"network (\S+) not found|network with name or ID (\S+): network not found",
        "the engine knows no network {0}: docker network ls lists them; set run.network",
    ),
    (r"(?i)Range of CPUs is from [^,\n]*", "run.cpus: {0}"),
    (r"Minimum memory limit allowed is (\w+)", "run.memory: at least {0} is needed"),
    (r"unable to set memory limit to (\d+)", "run.memory: {0} bytes are too little even to start: allow more"),
    (r"exec: \\?\"python|executable file `python`", "the image has no Python, so no lastrun: " + _RENEW),
    (
        r"(?i)exec format error",
        "the image is for another kind of processor than the engine's machine has: " + _RENEW + " for it",
    ),
    (r"unable to find user|no users found", "the image holds no lastrun: " + _RENEW),
    (r"no space left on device", "the engine's disk is full: docker system prune frees some"),
    (
        r"HTTP request to an HTTPS server",
        "the engine wants TLS: set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH, a folder with ca.pem, cert.pem and key.pem",
    ),
    (r"No such container: (\S+)", "container {0} is gone: somebody has removed it"),
    (
        r"bind source path does not exist: ([^\n]*)|statfs (/[^\n:]*): no such file",
        "the engine's machine has no {0}: it is another one, or this command in a container itself. Give both the same folder "
        "under the same path (docker run -v FOLDER:FOLDER), or take a bucket",
    ),
)


class NoWayError(EngineError):
    """An engine hands in no GPU in the way that it was asked; perhaps in another.

    Args:
        text: what to tell people.
        reason: the engine's own words.
    """

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


def as_engine_error(error: BaseException, image: str = "") -> EngineError:
    """An SDK's error as one of ours."""
    from docker.errors import APIError

    said = str(error.explanation or error) if isinstance(error, APIError) else ""
    text = explain(error, image)
    return NoWayError(text, _reason(said)) if _NO_WAY.search(said) else EngineError(text)


def _reason(text: str) -> str:
    """What says why, of an engine's text of several lines: the last line that is a reason."""
    lines = [line.strip() for line in text.strip().splitlines()]
    reasons = [line for line in lines if line and not _NO_REASON.match(line)]
    return (reasons or lines or [""])[-1].removesuffix(": unknown")


def explain(error: BaseException, image: str = "") -> str:
    """What went wrong and what to do."""
    from docker.errors import APIError, ImageNotFound
    from requests import Timeout

    if isinstance(error, ImageNotFound) or (isinstance(error, APIError) and "No such image" in str(error.explanation)):
        return f"no image {image}: lastrun image build makes it, docker pull fetches one from a registry; run.image names it"
    if isinstance(error, APIError):
        text = str(error.explanation or error).removesuffix(": unknown")
        for pattern, remedy in _REMEDIES:
            if found := re.search(pattern, text):
                return remedy.format(*([group for group in found.groups() if group is not None] or [found[0]]))
        return f"the engine refuses: {_reason(text)}"
    causes = list(_causes(error))
    meant = where()
    at = meant.host
    for one in causes:
        if isinstance(one, ssl.SSLError):
            return _explain_tls(one, at, meant.certificates)
        if isinstance(one, json.JSONDecodeError):
            return NO_ENGINE.format(at)
    number = next((one.errno for one in causes if isinstance(one, OSError) and isinstance(one.errno, int)), None)
    if number in (errno.EACCES, errno.EPERM):
        return (
            f"this user may not use the engine at {at}: sudo usermod -aG docker $USER and log in again, or set up rootless "
            "Docker"
        )
    if number is None and any(isinstance(one, (Timeout, TimeoutError)) for one in causes):
        return f"the engine at {at} does not answer in time: does docker ps? Else sudo systemctl restart docker there"
    why = f" ({errno.errorcode.get(number, number)})" if number is not None else f" ({one_line(error)[:200]})"
    return f"no Docker engine answers at {at}{why}: start it (sudo systemctl start docker), or name another with DOCKER_HOST"


def _explain_tls(error: ssl.SSLError, at: str, ours: Certificates | None) -> str:
    """Whose certificate is not taken by whom. (The number of such an error is none of the system's.)"""
    said, ca, cert = str(error), ours.ca if ours and ours.ca else "the system's CAs", ours.own[0] if ours and ours.own else None
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        if "mismatch" in why:
            return (
                f"the engine at {at} has a certificate for another name ({why}): name it in DOCKER_HOST as its certificate does"
            )
        return (
            f"the engine at {at} has a certificate that {ca} does not vouch for ({why}): is that its CA, and the address right?"
        )
    if "ALERT" in said or "alert" in said:
        mine = f"the certificate {cert}" if cert else "a client without a certificate"
        return f"the engine at {at} does not take {mine} ({said}): one that its own CA has signed is needed, with its key"
    if "KEY_VALUES_MISMATCH" in said:
        return f"{cert} and the key beside it do not belong together: copy both again"
    if "PEM" in said or "NO_CERTIFICATE" in said:
        return f"{cert}, its key or {ca} is no file of that kind ({said}): copy them again"
    if "WRONG_VERSION" in said or "RECORD" in said or "UNKNOWN_PROTOCOL" in said:
        return f"what answers at {at} speaks no TLS: is the port right (2376)? Without certificates unset DOCKER_TLS_VERIFY"
    return f"TLS with the engine at {at} fails ({said})"


def _causes(error: object) -> Iterator[BaseException]:
    """An error and all that are wrapped in it."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [*one.args, one.__cause__, one.__context__]
