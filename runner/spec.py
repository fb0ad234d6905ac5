"""JobSpec: what a job.yaml may say."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from last_e.config import PathText, Section, TrainConfig
from last_e.problems import Meaning
from last_e.set_by import HERE, LEARNING, SetBy
from last_e.text import has_port
from runner.errors import LOST, Reason, State
from runner.launchers import DEFAULT, HOST, HOST_MEANING, LAUNCHERS

JobName = Annotated[
    str,
    Field(pattern=r"^[a-z0-9][a-z0-9-]{0,47}$"),
    Meaning("at most 48 lowercase letters, digits and hyphens, the first no hyphen"),
]
GpuId = Annotated[int, Field(ge=0, le=63)] | Annotated[str, Field(pattern=r"^[A-Za-z0-9:/-]{1,80}$"), Meaning("a GPU's UUID")]
ImageName = Annotated[
    str,
    Field(pattern=r"^(((docker|oras|library)://)?[a-z0-9][A-Za-z0-9._/:@-]{0,254}|~?/[^:,\x00-\x1f\x7f]{1,400}\.sif)$"),
    Meaning("an image's name, such as lastrun:0.1.0, or the path of a .sif file"),
]
Size = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}[kmg]$"), Meaning("a whole number and k, m or g, such as 12g")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), Meaning("a variable's name")]
NetworkName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$"), Meaning("a network's name")]


def _with_port(address: str) -> str:
    if not has_port(address):
        raise ValueError("an address with a host, and a port from 1 to 65535 or none")
    return address


HttpUrl = Annotated[
    str,
    Field(pattern=r"^https?://[^@\s?#]+$"),
    AfterValidator(_with_port),
    Meaning("an http:// or https:// address without a user's name or a query in it"),
]
HubName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"), Meaning("a name as Hugging Face has it")]
HostName = Annotated[str, Field(pattern=f"^{HOST}$"), Meaning(HOST_MEANING)]
if TYPE_CHECKING:
    LauncherName = str
else:
    LauncherName = Literal[tuple(LAUNCHERS)]


_REFUSED = (
    "output",
    "error",
    "input",
    "export",
    "export-file",
    "signal",
    "open-mode",
    "job-name",
    "array",
    "wrap",
    "uid",
    "gid",
)
_OPTION = re.compile(r"--([a-z][a-z-]*)(=[A-Za-z0-9_.,:=@%+/&|*()\[\]-]+)?")


def _harmless(word: str) -> str:
    """An option of sbatch that decides where and when a job runs, and not what."""
    found = _OPTION.fullmatch(word)
    if found is None or found[1] in _REFUSED:
        raise ValueError(_OPTION_MEANING)
    return word


_OPTION_MEANING = "an option of sbatch such as --exclude=n1, but not of what lastrun sets itself"
BatchOption = Annotated[str, AfterValidator(_harmless), Meaning(_OPTION_MEANING)]
SlurmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.,:&|*()\[\]-]{0,99}$"), Meaning("a name as Slurm has it")]


class SlurmConfig(Section):
    """What is asked of Slurm, with launcher slurm."""

    set_by: ClassVar[SetBy] = HERE

    partition: SlurmName | None = Field(None, description="partition; default: the cluster's")
    account: SlurmName | None = Field(None, description="account that the time is charged to; default: yours")
    qos: SlurmName | None = Field(None, description="quality of service; default: the partition's")
    constraint: SlurmName | None = Field(None, description="features that a node must have")
    gpu_type: SlurmName | None = Field(
        None, description="kind of GPU, as the cluster calls it; default: any that the profile fits"
    )
    extra: Annotated[list[BatchOption], SetBy("asks", "is said to Slurm in your name")] = Field(
        [], description="other options of sbatch, such as --exclude=n1"
    )


DatasetName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_-]{1,60}/[A-Za-z0-9_-]{3,60}$"),
    Meaning("a data set as Kaggle has it: USER/NAME"),
]


class HfConfig(Section):
    """What is asked of Hugging Face, with launcher hf."""

    set_by: ClassVar[SetBy] = HERE

    flavor: Annotated[HubName | None, Meaning("a machine as Hugging Face calls it, such as a10g-small")] = Field(
        None, description="kind of machine; default: what comes next to the profile's, else the cheapest with a GPU"
    )
    namespace: Annotated[HubName | None, SetBy("asks", "is the account that pays")] = Field(
        None, description="user or organization whose job it is; default: you"
    )


CloudName = Annotated[
    str,
    Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$"),
    Meaning("a cloud or a region as SkyPilot calls it, such as gcp or us-central1"),
]
GpuName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$"),
    Meaning("a GPU as SkyPilot calls it, such as A100-80GB, without a number"),
]


class ResourcesConfig(Section):
    """What is asked of SkyPilot, with launcher sky."""

    set_by: ClassVar[SetBy] = HERE

    cloud: CloudName | None = Field(None, description="whose machine it is; default: the profile's, else any that is set up")
    gpu: GpuName | None = Field(
        None, description="kind of GPU; default: the profile's, else the cheapest that is fit for training"
    )
    spot: bool | None = Field(
        None,
        description="a machine that may be taken away at any moment; default: with profile gcp yes, else no, and with "
        "run.auto_continue whatever is cheaper",
    )
    region: CloudName | None = Field(None, description="where it is; default: where it is cheapest")


class KaggleConfig(Section):
    """What is asked of Kaggle, with launcher kaggle."""

    set_by: ClassVar[SetBy] = HERE

    datasets: list[DatasetName] = Field([], description="data sets of Kaggle that the session can read, each USER/NAME")
    private_dataset: Annotated[bool, SetBy("asks", "puts the keys that the session needs into a private data set of yours")] = (
        Field(
            False,
            description="secrets may lie in a private data set of the attempt, which is deleted when it ends "
            "(--yes-private-dataset); else you attach them to the script at Kaggle",
        )
    )


class RunConfig(Section):
    """How an attempt is started."""

    launcher: Annotated[LauncherName, SetBy("asks", "is what starts the attempt, with your rights")] = Field(
        DEFAULT, description="what starts an attempt"
    )
    gpus: Annotated[
        Annotated[int, Field(ge=0, le=64)] | Literal["all"] | Annotated[list[GpuId], Field(min_length=1)] | None,
        SetBy("here", harmless=(None, 0, 1)),
    ] = Field(
        None,
        description="GPUs that an attempt trains on, one rank on each: how many (0 trains on the CPU), all, or certain ones by "
        "index or UUID; default: one where there is one, on Kaggle all",
    )
    nodes: Annotated[Annotated[int, Field(ge=1, le=64)], SetBy("asks", "asks for so many machines on your account")] = Field(
        1, description="machines that train one run together, with launcher slurm; run.gpus are those of each"
    )
    share_gpus: Annotated[bool, HERE] = Field(
        False, description="other attempts that say so, too, may train on the same GPUs at the same time"
    )
    gpu_request: Annotated[Literal["auto", "cdi", "runtime", "device"], LEARNING] = Field(
        "auto",
        description="how an engine is asked for them: device (docker run --gpus), cdi (names of CDI), runtime "
        "(--runtime=nvidia); auto: the first of those it says it has that works",
    )
    pass_env: Annotated[list[VariableName], SetBy("asks", "hands these variables of yours to the trainer")] = Field(
        [], description="environment variables the trainer needs, by name"
    )
    host: Annotated[HostName | None, SetBy("asks", "logs in there with your keys and runs the attempt there")] = Field(
        None,
        description="machine of launcher ssh, login node of launcher slurm (default: this machine): USER@HOST, or a name of "
        "~/.ssh/config or of [hosts] in config.toml",
    )
    relay: Annotated[bool, HERE] = Field(
        False,
        description="launcher ssh, with a store that is a folder here: the host keeps the job, and what comes is "
        "fetched over the connection (--relay)",
    )
    after: Annotated[Literal["nothing", "shutdown"], SetBy("asks", "switches that machine off when the attempt has ended")] = (
        Field(
            "nothing", description="what becomes of the machine then: shutdown needs --yes-shut-down each time; local and ssh"
        )
    )
    image: Annotated[ImageName | None, SetBy("asks", "starts what is in that image, with what your store takes as keys")] = (
        Field(
            None,
            description="image of a container; default: lastrun:VERSION; with run.container a .sif file, or a registry's image",
        )
    )
    container: Annotated[Literal["apptainer"] | None, LEARNING] = Field(
        None,
        description="apptainer: launchers local and slurm start attempts inside run.image with Apptainer, or with Singularity "
        "where that is there",
    )
    memory: Annotated[Size | None, LEARNING] = Field(
        None, description="most memory a container may take, such as 12g; default: no limit"
    )
    cpus: Annotated[Annotated[float, Field(ge=0.01, le=1024)] | None, LEARNING] = Field(
        None, description="most processor time a container may take, in cores; default: no limit"
    )
    shm_size: Annotated[Size | None, LEARNING] = Field(None, description="shared memory of a container; default: 1g")
    max_requeues: Annotated[Annotated[int, Field(ge=0, le=10_000)], LEARNING] = Field(
        100, description="how often a batch system may begin the job anew, while it makes progress"
    )
    max_restarts: Annotated[Annotated[int, Field(ge=0, le=10_000)], LEARNING] = Field(
        3,
        description="how often an attempt goes on from its last checkpoint by itself when a rank was killed or hangs, "
        "while it makes progress",
    )
    auto_continue: Annotated[Annotated[int, Field(ge=0, le=10_000)], LEARNING] = Field(
        0,
        description="how often the command that follows an attempt begins another by itself when the machine was taken away "
        "or, where the launcher gets another (slurm, hf, sky, kaggle), its time was over, while the job makes progress",
    )
    max_price: Annotated[Annotated[float, Field(gt=0, le=10_000)] | None, LEARNING] = Field(
        None, description="most that a machine which is paid for may cost, in USD an hour"
    )
    max_cost: Annotated[Annotated[float, Field(gt=0, le=1_000_000)] | None, LEARNING] = Field(
        None, description="most that a job's attempts may cost in all on machines that are paid for by the hour, in USD"
    )
    slurm: SlurmConfig = Field(default_factory=SlurmConfig)
    hf: HfConfig = Field(default_factory=HfConfig)
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig)
    kaggle: KaggleConfig = Field(default_factory=KaggleConfig)
    network: Annotated[NetworkName | None, SetBy("asks", "puts the container into that network; host is this machine's")] = (
        Field(None, description="network of a container: bridge, host, or one that the engine knows; default: bridge")
    )


class StoreConfig(Section):
    """Where the job lives. Who names a job names its store with it, so what the job says of that counts for nobody else."""

    set_by: ClassVar[SetBy] = HERE

    uri: PathText | None = Field(
        None,
        description="a folder, s3://bucket/prefix or gs://bucket/prefix; default: LASTRUN_STORE, else the user's data folder",
    )
    endpoint_url: Annotated[HttpUrl | None, SetBy("here", "is the server that gets what your keys sign")] = Field(
        None, description="server of a bucket that is not AWS's"
    )
    region: str | None = Field(None, min_length=1, description="region of the bucket")
    addressing: Literal["path", "virtual"] | None = Field(None, description="bucket in the path or in the host name")
    ca_bundle: Annotated[PathText | None, SetBy("here", "says which server is believed to be the right one")] = Field(
        None, description="file with the CA of the server's certificate"
    )
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = Field(
        None, description="how the server encrypts what is written; default: as the bucket does by itself"
    )
    sse_kms_key_id: str | None = Field(None, min_length=1, description="key for sse aws:kms; default: the bucket's")
    requester_pays: Annotated[bool, SetBy("here", "has you pay for each request")] = Field(
        False, description="the bucket's owner has its requests paid by who makes them: pay"
    )


_TEXT = r"[^\x00-\x1f\x7f]"
MailAddress = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9._%+][A-Za-z0-9._%+-]{0,63}@[A-Za-z0-9][A-Za-z0-9.-]{0,253}$"), Meaning("a mail address")
]
ProgramWord = Annotated[str, Field(pattern=rf"^{_TEXT}{{1,1000}}$"), Meaning("a word without control characters")]
NEWS = ("failed", *(reason.value for reason in Reason if reason not in LOST), "lost", "stalled")
"""What may be told: all reasons for which a job fails, a reason for which an attempt ends, or what ``lastrun watch`` sees."""
if TYPE_CHECKING:
    News = str
else:
    News = Literal[NEWS]


NOTIFY_VARIABLES = ("slack", "discord", "ntfy", "webhook", "signed_with")
"""Keys of whom to tell that name a variable, which holds what nobody else may see."""


def _posts(what: str) -> SetBy:
    return SetBy("asks", f"posts how attempts end to {what} whose address that variable of yours holds")


class NotifyConfig(Section):
    """Who is told how attempts end, and of what ``lastrun watch`` sees."""

    slack: Annotated[VariableName | None, _posts("the channel")] = Field(
        None, description="variable with the address of an incoming webhook of Slack's"
    )
    discord: Annotated[VariableName | None, _posts("the channel")] = Field(
        None, description="variable with the address of a webhook of Discord's"
    )
    ntfy: Annotated[VariableName | None, _posts("the topic")] = Field(
        None, description="variable with the address of a topic of ntfy's, such as https://ntfy.sh/TOPIC"
    )
    webhook: Annotated[VariableName | None, _posts("the server")] = Field(
        None, description="variable with the address of a server that takes JSON (Standard Webhooks)"
    )
    signed_with: Annotated[VariableName | None, SetBy("asks", "signs what webhook gets with that variable of yours")] = Field(
        None, description="variable with the secret that notify.webhook's messages are signed with; default: unsigned"
    )
    command: Annotated[
        Annotated[list[ProgramWord], Field(min_length=1, max_length=100)] | None, SetBy("asks", "runs that command")
    ] = Field(
        None,
        description="command that is run, word by word and through no shell, where the attempt is; {text}, {job} and {news} "
        "are filled in, and JSON stands on its standard input",
    )
    mail: Annotated[MailAddress | None, SetBy("asks", "sends mail there in your name")] = Field(
        None, description="address that gets a mail through sendmail, where the attempt is"
    )
    on: Annotated[list[News], LEARNING] = Field(
        ["completed", "failed", "time_limit", "preempted", "store_unreachable", "gpu_lost", "lost", "stalled"],
        description="of what: reasons for which an attempt ends, failed for all of those for which a job fails, lost, stalled; "
        "default: of all that you have not done yourself",
    )

    def targets(self) -> list[str]:
        """The keys that name somebody who is told."""
        return [key for key in ("slack", "discord", "ntfy", "webhook", "command", "mail") if getattr(self, key) is not None]

    def wants(self, news: str) -> bool:
        """Whether anybody is told news of this kind."""
        of_all = "failed" in self.on and news in Reason._value2member_map_ and Reason(news).ending.state is State.FAILED
        return bool(self.targets()) and (news in self.on or of_all)

    def variables(self) -> dict[str, str]:
        """The variables that it names, by the key that names them: what they hold is secret."""
        named = {key: getattr(self, key) for key in NOTIFY_VARIABLES}
        return {key: name for key, name in named.items() if name is not None}


_OF_TRACKERS = {
    "wandb": ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_MODE"),
    "mlflow": (
        *("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
        "MLFLOW_EXPERIMENT_NAME",
    ),
    "trackio": ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_WRITE_TOKEN", "TRACKIO_PROJECT", "HF_TOKEN"),
}
"""The variables by which their libraries know whom to tell, and with which key."""


class HalvingConfig(Section):
    """How weak points of a sweep are left early."""

    set_by: ClassVar[SetBy] = LEARNING

    first: Annotated[int | None, Field(ge=1, le=1_000_000)] = Field(
        None, description="epochs that every point is trained; of them the best ones go on. Default: all points to their end"
    )
    factor: Annotated[int, Field(ge=2, le=100)] = Field(
        3, description="one in so many goes on, so many times as far, until the last ones end"
    )


class SweepConfig(Section):
    """The points of a sweep: jobs that are the file's, each with other values. Taken out of a file before its jobs are made."""

    set_by: ClassVar[SetBy] = LEARNING

    grid: Annotated[dict[str, Any] | None, Meaning("keys, each with a list of values")] = Field(
        None, description="a point for each combination of these values; any keys but `name`, `store.*`, `run.*` and `notify.*`"
    )
    zip: Annotated[dict[str, Any] | None, Meaning("keys, each with a list of values, all of the same length")] = Field(
        None, description="a point of the first value of each key, one of the second ones, and so on"
    )
    points: Annotated[list[Any] | None, Meaning("a list of mappings of keys to values")] = Field(
        None, description="the points themselves; `{}` is the file's job as it is"
    )
    search: Annotated[dict[str, Any] | None, Meaning("keys, each with a list of values or a range {low, high, log, step}")] = (
        Field(None, description="points drawn at random from these (from a clone: `pip install '.[search]'`)")
    )
    trials: Annotated[int | None, Field(ge=1, le=1000)] = Field(None, description="how many points `search` draws")
    draw_seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(0, description="what `search` draws follows from it")
    seeds: Annotated[int, Field(ge=1, le=1000)] = Field(
        1, description="each point so many times, with `training.seed`, `training.seed` + 1, ..."
    )
    halving: HalvingConfig = Field(default_factory=HalvingConfig)


class SweepFile(Section):
    """What a job file may say beside its job."""

    sweep: SweepConfig = Field(default_factory=SweepConfig)


class JobSpec(TrainConfig):
    """A training run and how to run it."""

    name: Annotated[JobName | None, LEARNING] = Field(None, description="name of the job; default: model, data set and split")
    run: RunConfig = Field(default_factory=RunConfig)
    store: StoreConfig = Field(default_factory=StoreConfig)
    notify: NotifyConfig = Field(default_factory=NotifyConfig)
    tracking: Annotated[
        Literal["wandb", "mlflow", "trackio"] | None,
        SetBy("asks", "sends figures and configuration there, with the keys that your variables hold"),
    ] = Field(
        None,
        description="tracker that gets what the attempts do, as one run; needs the extra of its name where they are",
    )

    def named_variables(self) -> list[str]:
        """The variables of this user's that an attempt needs: the trainer's, those of who is told, and of a tracker's own those
        that are set."""
        tracker = [name for name in _OF_TRACKERS.get(self.tracking or "", ()) if name in os.environ]
        return list(dict.fromkeys([*self.run.pass_env, *self.notify.variables().values(), *tracker]))

    def what_it_trains(self) -> dict[str, Any]:
        """What of it the trainer is told, as JSON has it."""
        return self.model_dump(mode="json", include=set(TrainConfig.model_fields))
