"""JobSpec: what a job.yaml may say."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from last_e.config import PathText, Section, TrainConfig

JobName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,47}$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class RunConfig(Section):
    """How an attempt is started."""

    launcher: Literal["local"] = Field("local", description="what starts an attempt")
    gpus: Annotated[int, Field(ge=0, le=1)] | None = Field(
        None, description="1 needs a GPU, 0 trains on the CPU; default: a GPU where there is one"
    )
    pass_env: list[VariableName] = Field([], description="environment variables the trainer needs, by name")


class StoreConfig(Section):
    """Where the job lives."""

    uri: PathText | None = Field(
        None,
        description="a folder, s3://bucket/prefix or gs://bucket/prefix; default: LASTRUN_STORE, else the user's data folder",
    )
    endpoint_url: str | None = Field(None, pattern=r"^https?://[^@\s]+$", description="server of a bucket that is not AWS's")
    region: str | None = Field(None, min_length=1, description="region of the bucket")
    addressing: Literal["path", "virtual"] | None = Field(None, description="bucket in the path or in the host name")
    ca_bundle: PathText | None = Field(None, description="file with the CA of the server's certificate")


class JobSpec(TrainConfig):
    """A training run and how to run it."""

    name: JobName | None = Field(None, description="name of the job; default: model, data set and split")
    run: RunConfig = Field(default_factory=RunConfig)
    store: StoreConfig = Field(default_factory=StoreConfig)
