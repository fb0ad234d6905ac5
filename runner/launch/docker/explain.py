"""What engines say when something fails, as one line with the remedy."""

from __future__ import annotations

import errno
import json
import re
import ssl
from collections.abc import Iterator

from last_e.text import one_line
from runner.launch.docker.where import Certificates, where

NO_ENGINE = "what answers at {} is no Docker engine: is something else listening there?"
_RENEW = "lastrun image build makes one"
NO_RUNTIME = (
    "install nvidia-container-toolkit, then: sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart "
    "docker; or train on the CPU with --set run.gpus=0"
)
_REMEDIES = (
    (
        r"(?i)could not select device driver|unknown or invalid runtime name|failed to discover GPU vendor|no known GPU vendor",
        f"the engine has no NVIDIA runtime: {NO_RUNTIME}",
    ),
    (
        r"unresolvable CDI devices? ([^\n]*)",
        "the engine's machine has no such GPU ({0}): nvidia-smi -L lists them; set run.gpus",
    ),
    (
        r"exec: \\?\"(docker-init|nvidia-container-runtime[a-z.-]*)",
        "the engine lacks its own {0}: install it (docker's package brings docker-init, nvidia-container-toolkit the others)",
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
    (r"network (\S+) not found", "the engine knows no network {0}: docker network ls lists them; set run.network"),
    (r"(?i)Range of CPUs is from [^,\n]*", "run.cpus: {0}"),
    (r"Minimum memory limit allowed is (\w+)", "run.memory: at least {0} is needed"),
    (
        r"exec: \\?\"python|exec python failed|unable to find user|no users found",
        "the image holds no lastrun: " + _RENEW,
    ),
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


def explain(error: BaseException, image: str = "") -> str:
    """What went wrong and what to do."""
    from docker.errors import APIError, ImageNotFound
    from requests import Timeout

    if isinstance(error, ImageNotFound) or (isinstance(error, APIError) and "No such image" in str(error.explanation)):
        return f"no image {image}: lastrun image build makes it, docker pull fetches one from a registry; run.image names it"
    if isinstance(error, APIError):
        text = str(error.explanation or error)
        for pattern, remedy in _REMEDIES:
            if found := re.search(pattern, text):
                return remedy.format(*([group for group in found.groups() if group is not None] or [found[0]]))
        return f"the engine refuses: {text.strip().splitlines()[0]}"
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
