"""What may be said about a training run: strict, torch-free pydantic schemas.

Every key of the reference (``training.lr``, ``model.dropout``, ...) is a field here, with its type, its bounds and one
line on what it does. Defaults do not stand here but in ``configs/``, so that ``explain`` can name the file a value
came from. Rules that involve several keys are in :data:`RULES`, one function each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from last_e.described import FILE_NAME, SPLIT_NAME, is_own
from last_e.known import description_of, mirrored_classes
from last_e.problems import Meaning, meant
from last_e.set_by import HERE, LEARNING, SetBy

Variant = Literal["nano_e_v3", "small_e_v3", "base_e_v3", "large_e_v3"]
Dataset = Literal["irds", "ntu60", "ntu120", "synthetic"]
Environment = Literal["local", "kaggle", "gcp", "lambda", "a100"]
Recipe = Literal["robust"]
"""Beside the reference's, on which each of them lies."""
VARIANTS: tuple[str, ...] = get_args(Variant)
DATASETS: tuple[str, ...] = get_args(Dataset)
ENVIRONMENTS: tuple[str, ...] = get_args(Environment)
RECIPES: tuple[str, ...] = get_args(Recipe)
ALIASES = {name.removesuffix("_e_v3"): name for name in VARIANTS}

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def parse_duration(value: Any) -> Any:
    """``8h50m``, ``90s``, ``2d`` or a whole number of seconds -> seconds. Anything else is returned for pydantic to refuse."""
    if isinstance(value, str) and value and (match := _DURATION.fullmatch(value.strip())):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    return value


Duration = Annotated[int, BeforeValidator(parse_duration), Field(ge=1, le=30 * 86400)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[int, Field(ge=1, le=4096)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


OnOff = Annotated[
    Literal["auto", "on", "off"],
    BeforeValidator(lambda value: ("off", "on")[value] if isinstance(value, bool) else value),  # YAML's own words for these
]


PathText = Annotated[
    str, Field(min_length=1, max_length=4000, pattern=r"^[^\x00-\x1f\x7f]+$"), Meaning("text without control characters")
]


FileName = Annotated[
    str,
    Field(max_length=200, pattern=r"^[A-Za-z0-9_][A-Za-z0-9 ._+=-]*$"),
    Meaning("a file's name: letters, digits and ._+=- without a folder"),
]


DataFile = Annotated[
    str,
    Field(max_length=200, pattern=FILE_NAME),
    Meaning("a prepared file that says itself what it holds, NAME.safetensors"),
]
"""The name of an own set: that of its file, without the folder, which is a matter of the machine."""


class Section(BaseModel):
    """Base of every section: unknown keys, loose types, NaN and infinity are refused; values never change."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )


ParameterPattern = Annotated[
    str,
    Field(max_length=200, pattern=r"^[A-Za-z0-9_.*?\[\]!-]+$"),
    Meaning("a parameter's name, with * for any letters"),
]


class ModelConfig(Section):
    """The network (``configs/model/``)."""

    set_by: ClassVar[SetBy] = LEARNING

    variant: Variant = Field(description="model variant")
    stem_channels: Width = Field(description="channels after the fusion of the three streams")
    channels: list[Width] = Field(min_length=1, max_length=8, description="channels of each stage")
    num_blocks: list[Annotated[int, Field(ge=1, le=64)]] = Field(description="blocks of each stage")
    depths: list[Annotated[int, Field(ge=1, le=16)]] = Field(description="temporal convolutions in a block, per stage")
    strides: list[Annotated[int, Field(ge=1, le=4)]] = Field(description="temporal stride of each stage's first block")
    expand_ratio: int = Field(ge=1, le=8, description="width of a temporal convolution's middle over its ends")
    max_hop: int = Field(ge=0, le=12, description="how many bones one graph convolution reaches")
    gate_type: Literal["motion", "hybrid"] = Field(description="channel gate; hybrid adds frequencies in the last stage")
    use_subset_att: bool = Field(description="weigh the graph subsets by attention")
    use_ib_loss: bool = Field(description="add the information-bottleneck loss while training")
    dropout: Fraction = Field(description="dropout before the classifier")
    drop_path_rate: Fraction = Field(description="stochastic depth of the last block; earlier blocks linearly less")
    init: Annotated[
        PathText | None,
        SetBy("learning", "reads it, signed with your credentials if it is elsewhere, and keeps it with the job"),
    ] = Field(
        None,
        description="weights to begin with, instead of random ones: a job, a checkpoint's folder, a .safetensors, .npz or .pt "
        "file, or hf://OWNER/REPO; they are read when the job is made, and kept with it",
    )
    init_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="sha256 of those weights, as the job keeps them; set when it is made"
    )
    freeze: Annotated[list[ParameterPattern], Field(max_length=200)] | None = Field(
        None, description="parameters that stay as `model.init` has them, by name (fusion.*, stages.0.*), with their norms"
    )


Weight = Annotated[float, Field(gt=0, le=1e6)]
_NAMED = re.compile(r"(.{1,200})=(\d{1,7}(?:\.\d{1,9})?)")
NamedWeight = Annotated[
    str, Field(pattern=f"^{_NAMED.pattern}$"), Meaning("a class's name or number and its weight: falling=5")
]


def named_weights(said: Sequence[float | str], classes: int, names: tuple[str, ...]) -> list[float]:
    """``training.class_weights`` for each class, by its name where it has one, else by its number.

    Raises:
        ValueError: there is no such class, or one is not above 0, or there are not as many as classes.
    """
    weights = [1.0] * classes
    for number, one in enumerate(said):
        if isinstance(one, str):
            match = _NAMED.fullmatch(one)
            assert match is not None
            name, weight = match[1], float(match[2])
            if name in names:
                number = names.index(name)
            elif name.isdecimal() and int(name) < classes:
                number = int(name)
            else:
                guess = meant(name, names, names.__contains__)
                known = f"they are {', '.join(names[:20])}" if names else f"by number they are 0 to {classes - 1}"
                how = known if guess is None else f"did you mean {guess}?"
                raise ValueError(f"training.class_weights: no class {name}; {how}")
        else:
            weight = float(one)
        if not 0 < weight <= 1e6:
            raise ValueError(f"training.class_weights: {one}: a weight is above 0")
        weights[number] = weight
    return weights


Chance = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Degrees = Annotated[float, Field(gt=0, le=180)]


class AugmentationsConfig(Section):
    """Augmentations beside those of the reference (``training.augment``). Each is off where nothing is said
    (:mod:`last_e.data.augment`)."""

    set_by: ClassVar[SetBy] = LEARNING

    mirror: Chance | None = Field(
        None,
        description="chance that a clip is mirrored: left and right joints change places, and so do classes of one side; for "
        "data sets that say which those are",
    )
    motion: Chance | None = Field(
        None, description="chance that a clip's range of motion is scaled, by a factor within `motion_range`"
    )
    motion_range: list[Annotated[float, Field(ge=0, le=10)]] | None = Field(
        None, min_length=2, max_length=2, description="least and largest factor of `motion`; default: [0.15, 1.1]"
    )
    motion_from: Literal["first", "mean"] | None = Field(
        None,
        description="from where `motion` scales a joint's way: where it is in the clip's first frame, or in the mean of those "
        "that are shown; default: first",
    )
    limbs: Share | None = Field(
        None, description="bones are longer or shorter by up to so much of their length, those of both sides alike"
    )
    pose: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="bones point elsewhere all clip long: their far end is moved along each axis by up to so many torsos"
    )
    lean: Degrees | None = Field(
        None, description="a clip is tilted forwards or backwards and to a side by up to so many degrees"
    )
    drift: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None, description="a body drifts over the ground, by up to so many torsos along x and z until the clip ends"
    )
    rotation: Degrees | None = Field(
        None, description="a clip is turned about the vertical by up to so many degrees; default: 15, as in the reference"
    )
    noise: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="joints are off, anew in each frame; standard deviation in metres; default: 0.01, as in the reference",
    )
    speed: Share | None = Field(
        None,
        description="a clip's pace rises or falls evenly: at its ends it is faster and slower by up to so much",
    )
    mask_joints: Share | None = Field(
        None, description="chance for each joint that it is not seen in a clip: it lies where its parent is"
    )
    mask_frames: Share | None = Field(
        None,
        description="a stretch of up to so much of a clip is not seen: joints move on straight lines from its beginning to its "
        "end",
    )
    mixup: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None, description="clips are mixed in pairs, joints and loss, by a share drawn from Beta(mixup, mixup)"
    )


class TrainingConfig(Section):
    """The recipe (``configs/training/``): what decides learning. Same names as in the reference."""

    set_by: ClassVar[SetBy] = LEARNING

    optimizer: Literal["sgd", "adamw"] = Field(description="optimizer")
    lr: float = Field(gt=0, le=100, description="peak learning rate")
    momentum: Fraction = Field(description="momentum (sgd)")
    nesterov: bool = Field(description="Nesterov momentum (sgd)")
    betas: list[Fraction] = Field(min_length=2, max_length=2, description="running averages (adamw)")
    weight_decay: float = Field(ge=0, le=10, description="weight decay; norms, biases, gates and graphs are left out")
    scheduler: Literal["cosine_warmup", "cosine_warmup_restart", "multistep", "constant"] = Field(
        description="learning rate over time"
    )
    warmup_epochs: float = Field(ge=0, le=100_000, description="length of the linear warm-up, in epochs")
    warmup_start_lr: float = Field(ge=0, le=100, description="learning rate at epoch 0")
    min_lr: float = Field(ge=0, le=100, description="floor of the cosine: the learning rate at the end")
    milestones: list[Annotated[float, Field(gt=0)]] = Field(description="epochs at which multistep lowers the rate")
    gamma: float = Field(gt=0, le=1, description="factor at each milestone (multistep)")
    restart_epochs: float = Field(ge=1, le=100_000, description="length of the first cycle (cosine_warmup_restart)")
    restart_mult: float = Field(ge=1, le=100, description="each cycle's length over the one before (restart)")
    epochs: int = Field(ge=1, le=100_000, description="passes over the training clips")
    batch_size: int = Field(ge=2, le=1_000_000, description="clips per forward pass and GPU")
    gradient_accumulation_steps: int = Field(ge=1, le=65_536, description="batches per optimizer step")
    input_frames: int = Field(ge=16, le=4096, description="frames that each clip is resampled to")
    augment: bool = Field(description="rotate, scale, shear, jitter and crop training clips at random")
    augmentations: AugmentationsConfig = Field(default_factory=AugmentationsConfig)
    label_smoothing: Fraction = Field(description="label smoothing of the cross-entropy")
    gradient_clip: float = Field(ge=0, le=1e6, description="largest gradient norm; 0 does not clip")
    ib_loss_weight: float = Field(ge=0, le=1e6, description="weight of the information-bottleneck loss")
    use_amp: bool = Field(description="automatic mixed precision on a GPU")
    save_interval: Count = Field(description="keep a checkpoint of every N-th epoch for good")
    seed: int = Field(ge=0, lt=2**63, description="decides initial weights, order, augmentation and dropout")
    max_bad_steps: Count = Field(description="non-finite steps in a row that end the run as diverged")
    class_weights: Literal["balanced"] | list[Weight] | list[NamedWeight] | None = Field(
        None,
        description="by how much clips of each class count in the loss: balanced (each class the same in all), a number for "
        "each, or by name {falling: 5}, 1 where nothing is said; default: every clip counts alike",
    )
    sampler: Literal["balanced"] | None = Field(
        None, description="balanced: each class is shown as often; default: each clip once an epoch"
    )
    body_lr_factor: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="the learning rate of all but the classifier, over that of the classifier, with `model.init`; default: 1",
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="keep an exponential moving average of the weights beside them, of which so much stays at each step, and "
        "score it, too; default: none is kept",
    )
    patience: Count | None = Field(
        None,
        description="end early once top-1, on the clips on which the best is chosen, has not risen for so many epochs; "
        "default: train to the last epoch",
    )
    min_delta: Fraction | None = Field(
        None, description="a rise of no more than this is none for `training.patience`; default: 0"
    )


ValidationPart = (
    Annotated[float, Field(gt=0, lt=1)]
    | Annotated[str, Field(max_length=40, pattern=SPLIT_NAME), Meaning("a split of an own set that has a validation part")]
)


class DataConfig(Section):
    """The data set (``configs/data/``) and where its file is."""

    uri: Annotated[PathText | None, SetBy("asks", "reads it, signed with your credentials if it is in a bucket")] = Field(
        None, description="the prepared file; default: FILE in hardware.data_root"
    )
    num_classes: Annotated[int, Field(ge=2, le=100_000), LEARNING] = Field(description="number of action classes")
    splits: Annotated[list[str], LEARNING] = Field(description="splits that this data set knows")
    joints: Annotated[Annotated[int, Field(ge=2, le=512)] | None, LEARNING] = Field(
        None, description="number of joints, as an own set's file says; default: 25, as of NTU"
    )
    content: Annotated[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None, LEARNING] = Field(
        None, description="sha256 of an own set's clips, classes, skeleton and splits, as its file says"
    )
    validation: Annotated[ValidationPart | None, LEARNING] = Field(
        None,
        description="clips cut off from those that train, to choose the best checkpoint on, so that test is looked at once, at "
        "the end: a fraction of the subjects, or a split of an own set, whose validation part it is; default: that of the "
        "split that is trained on, if it has one, else the best is chosen on the clips that test",
    )
    validation_by: Annotated[Literal["subject", "clip"] | None, LEARNING] = Field(
        None, description="what a fraction is of: subjects, or clips of each class alike; default: subject"
    )
    validation_seed: Annotated[Annotated[int, Field(ge=0, lt=2**31)] | None, LEARNING] = Field(
        None, description="decides who is drawn for a fraction; default: 0"
    )
    train_subjects: Annotated[Count | None, LEARNING] = Field(
        None, description="train on so many of the subjects that would, drawn by `data.train_seed`; default: on all"
    )
    train_clips: Annotated[Count | None, LEARNING] = Field(
        None, description="train on so many clips of each class, drawn by `data.train_seed`; default: on all"
    )
    train_seed: Annotated[Annotated[int, Field(ge=0, lt=2**31)] | None, LEARNING] = Field(
        None,
        description="decides who is drawn to train; default: `training.seed`, so that the seeds of a sweep differ in that, too",
    )
    train_position: Annotated[Literal["standing", "seated"] | None, LEARNING] = Field(
        None, description="train on clips of this position, and test on those of the other (irds); default: both on both"
    )
    file: Annotated[FileName | None, SetBy("asks", "trains on the file of this name in your folder of data")] = Field(
        None, description="file name looked for when data.uri is not set"
    )


class CheckpointConfig(Section):
    """When checkpoints are written, which are kept, and how often figures are. Changes nothing that is learned."""

    set_by: ClassVar[SetBy] = LEARNING

    keep_last: int = Field(ge=1, le=10_000, description="newest checkpoints to keep (best and every N-th are kept too)")
    every_epochs: Count = Field(description="write a checkpoint every so many epochs")
    every_minutes: float = Field(gt=0, le=1e6, description="and at the latest after so many minutes")
    log_every_steps: Count = Field(
        10, description="keep loss, learning rate and train top-1 of every so many steps, for curves"
    )


MOST_CLIPS, MOST_RANKS = 1_000_000, 64


class HardwareConfig(Section):
    """What fits the machine (``configs/env/``). Changes nothing that is learned but rounding."""

    num_workers: Annotated[int, LEARNING] = Field(ge=0, le=256, description="threads that prepare batches ahead of a GPU")
    pin_memory: Annotated[bool, LEARNING] = Field(description="page-locked batches for faster copies to a GPU")
    precision: Annotated[Literal["auto", "bf16", "fp16", "fp32"], LEARNING] = Field(
        "auto", description="number format of mixed precision"
    )
    cuda_graphs: Annotated[OnOff, LEARNING] = Field(
        "auto",
        description="a GPU's training steps as CUDA graphs; where they fail, auto says why and goes on without, on ends",
    )
    kernels: Annotated[Literal["auto", "off"], LEARNING] = Field(
        "auto",
        description="kernels of lastrun's own in training on a GPU: auto, where Triton makes them and they compute what torch "
        "does (else the run says why not), off",
    )
    micro_batch: Annotated[Annotated[int, Field(ge=2, le=MOST_CLIPS)] | None, LEARNING] = Field(
        None,
        description="most clips in one forward pass; default: as the run has it that is gone on from, else batch_size, with "
        "several ranks what gives each a share",
    )
    ranks: Annotated[Annotated[int, Field(ge=1, le=MOST_RANKS)] | None, HERE] = Field(
        None,
        description="processes that share each step's micro-batches, to the same bits; default: one for each GPU of an "
        "attempt, else 1",
    )
    device: Annotated[Literal["auto", "cpu", "cuda"], LEARNING] = Field("auto", description="where to train")
    cpu_threads: Annotated[Annotated[int, Field(ge=1, le=1024)] | None, LEARNING] = Field(
        None, description="threads of each rank; default: the cores allowed, shared by the ranks"
    )
    data_root: Annotated[PathText, SetBy("here", "is searched for data")] = Field(description="folder of prepared data files")
    scratch_root: Annotated[PathText | None, SetBy("here", "is where an attempt makes and deletes its files")] = Field(
        None, description="folder for a running attempt's files"
    )
    output_root: Annotated[PathText, HERE] = Field(description="folder of runs that are started without the job runner")
    session_limit: Annotated[Duration | None, LEARNING] = Field(None, description="the session ends after this time")
    stop_margin: Annotated[Duration, LEARNING] = Field(600, description="stop this long before the limit, to save and upload")


class TrainConfig(Section):
    """A whole run of the trainer."""

    dataset: Annotated[Dataset | DataFile, LEARNING] = Field(description="data set, or the prepared file of an own one")
    split_type: Annotated[str, LEARNING] = Field(description="which clips train and which test")
    env: Annotated[Literal["auto", Environment], LEARNING] = Field("auto", description="hardware profile")
    recipe: Annotated[Recipe | None, LEARNING] = Field(
        None,
        description="what `training` begins with: robust, with more augmentation (docs/recipes.md); default: the reference's",
    )
    model: ModelConfig
    training: TrainingConfig
    data: DataConfig
    checkpoint: CheckpointConfig
    hardware: HardwareConfig


PINNED_SECTIONS = ("dataset", "split_type", "recipe", "model", "training", "data")
"""What decides learning: fixed by a job's first attempt, on whatever machine it goes on."""

NOT_PINNED = ("data.uri", "training.save_interval", "training.max_bad_steps")
"""Keys inside those sections that may change all the same: where the file lies, and what is only kept or watched."""


def is_pinned(key: str) -> bool:
    """Whether a dotted ``key`` decides learning, so that it may not change between attempts."""
    return key.split(".")[0] in PINNED_SECTIONS and key not in NOT_PINNED


def effective_batch(training: TrainingConfig) -> int:
    """Clips per optimizer step. This product is pinned, not its factors."""
    return training.batch_size * training.gradient_accumulation_steps


def cuts(batch_size: int, micro_batch: int | None) -> int:
    """Parts that a batch is cut into: even ones, none of a single clip, since batch norm needs two."""
    return max(1, min(-(-batch_size // (micro_batch or batch_size)), batch_size // 2))


def micro_batches(config: TrainConfig) -> int:
    """Forward passes of an optimizer step: the list that ranks share."""
    training = config.training
    return training.gradient_accumulation_steps * cuts(training.batch_size, config.hardware.micro_batch)


def most_for(config: TrainConfig, ranks: int) -> int | None:
    """The largest micro-batch of which a step has one for each rank; None: there is none."""
    size, batches = config.training.batch_size, config.training.gradient_accumulation_steps
    enough = next((pieces for most in range(size, 1, -1) if batches * (pieces := cuts(size, most)) >= ranks), None)
    return None if enough is None else -(-size // enough)


def number_format(config: TrainConfig, capability: tuple[int, int] | None) -> Literal["float32", "bf16", "fp16"]:
    """What training computes in on a GPU of this compute capability (None: on a CPU), as :mod:`last_e.precision` decides."""
    wanted = config.hardware.precision
    if capability is None or not config.training.use_amp or wanted == "fp32":
        return "float32"
    return "bf16" if wanted != "fp16" and capability >= (8, 0) else "fp16"


# --- rules over several keys -------------------------------------------------------------------------------------------

Violation = tuple[str, str]
"""The key at fault and what is allowed for it."""


def _stage_lists(c: dict[str, Any]) -> Iterator[Violation]:
    stages = len(c["model.channels"])
    for key in ("num_blocks", "depths", "strides"):
        if len(c[f"model.{key}"]) != stages:
            yield f"model.{key}", f"a list of {stages} numbers, one per entry of model.channels"


def _frames_left(c: dict[str, Any]) -> Iterator[Violation]:
    frames = c["training.input_frames"]
    for stride in c["model.strides"]:
        frames = -(-frames // stride)
    if frames < 4:
        yield "training.input_frames", f"at least 4 frames after the strides {c['model.strides']} (now {frames})"


def _nesterov(c: dict[str, Any]) -> Iterator[Violation]:
    if c["training.optimizer"] == "sgd" and c["training.nesterov"] and c["training.momentum"] == 0:
        yield "training.nesterov", "false when training.momentum is 0"


def _cosine(c: dict[str, Any]) -> Iterator[Violation]:
    if c["training.scheduler"].startswith("cosine") and c["training.min_lr"] > c["training.lr"]:
        yield "training.min_lr", f"at most training.lr ({c['training.lr']})"


def _warmup(c: dict[str, Any]) -> Iterator[Violation]:
    if c["training.scheduler"] == "constant" or c["training.warmup_epochs"] == 0:
        return
    if c["training.warmup_start_lr"] > c["training.lr"]:
        yield "training.warmup_start_lr", f"at most training.lr ({c['training.lr']})"


def _milestones(c: dict[str, Any]) -> Iterator[Violation]:
    if c["training.scheduler"] != "multistep":
        return
    milestones = c["training.milestones"]
    if not milestones or any(a >= b for a, b in pairwise(milestones)):
        yield "training.milestones", "one or more epochs, each larger than the one before"
    elif milestones[-1] >= c["training.epochs"]:
        yield "training.milestones", f"epochs before training.epochs ({c['training.epochs']})"


def _split(c: dict[str, Any]) -> Iterator[Violation]:
    splits = c["data.splits"]
    if c["split_type"] not in splits:
        guess = meant(c["split_type"], splits, splits.__contains__)
        told = f"one of {', '.join(splits)} (for dataset {c['dataset']})"
        yield "split_type", told if guess is None else f"{told}; did you mean {guess}?"


def _validation(c: dict[str, Any]) -> Iterator[Violation]:
    part = c["data.validation"]
    if isinstance(part, str) and not is_own(c["dataset"]):
        yield "data.validation", "a fraction, such as 0.2: only the file of an own set has parts with names"
    for key in ("data.validation_by", "data.validation_seed"):
        if c[key] is not None and not isinstance(part, float):
            yield key, "only with a fraction in data.validation, such as 0.2"


def _few(c: dict[str, Any]) -> Iterator[Violation]:
    if c["data.train_seed"] is not None and c["data.train_subjects"] is None and c["data.train_clips"] is None:
        yield "data.train_seed", "only with data.train_subjects or data.train_clips"
    if c["data.train_position"] is not None and c["dataset"] != "irds":
        yield "data.train_position", "null: positions are known of irds alone"


def _class_weights(c: dict[str, Any]) -> Iterator[Violation]:
    said, classes = c["training.class_weights"], c["data.num_classes"]
    if said == "balanced" and c["training.sampler"] == "balanced":
        yield "training.class_weights", "not balanced, since training.sampler is: either of them has classes count alike"
    if isinstance(said, list) and (not said or isinstance(said[0], float)) and len(said) != classes:
        yield "training.class_weights", f"a list of {classes} numbers, one for each class (found {len(said)})"
    elif isinstance(said, list) and isinstance(said[0], str) and not is_own(c["dataset"]):
        try:
            named_weights(said, classes, description_of(c["dataset"], classes).classes)
        except ValueError as error:
            yield "training.class_weights", str(error).partition(": ")[2]


def _fine_tuning(c: dict[str, Any]) -> Iterator[Violation]:
    for key in ("model.init_sha256", "model.freeze", "training.body_lr_factor"):
        if c[key] is not None and c["model.init"] is None:
            yield key, "only with model.init"


def _patience(c: dict[str, Any]) -> Iterator[Violation]:
    if c["training.min_delta"] is not None and c["training.patience"] is None:
        yield "training.min_delta", "only with training.patience"


def _augmentations(c: dict[str, Any]) -> Iterator[Violation]:
    begin = "training.augmentations."
    chosen = [key for key in _AUGMENTATIONS if c[key] is not None]
    if chosen and not c["training.augment"]:
        yield chosen[0], "only with training.augment, beside whose changes it comes"
    for key in ("motion_range", "motion_from"):
        if c[begin + key] is not None and c[f"{begin}motion"] is None:
            yield begin + key, f"only with {begin}motion"
    scales = c[f"{begin}motion_range"]
    if scales is not None and scales[0] > scales[1]:
        yield f"{begin}motion_range", "the least factor, then the largest"


def _mirror(c: dict[str, Any]) -> Iterator[Violation]:
    key, dataset = "training.augmentations.mirror", c["dataset"]
    if c[key] is not None and not is_own(dataset) and mirrored_classes(dataset) is None:
        yield key, f"null: nobody knows which classes of {dataset} change places in a mirror"


def _session(c: dict[str, Any]) -> Iterator[Violation]:
    limit = c["hardware.session_limit"]
    if limit is not None and limit <= c["hardware.stop_margin"]:
        yield "hardware.session_limit", f"more than hardware.stop_margin ({c['hardware.stop_margin']} s)"


_AUGMENTATIONS = tuple(f"training.augmentations.{name}" for name in AugmentationsConfig.model_fields)

RULES: tuple[tuple[Callable[[dict[str, Any]], Iterator[Violation]], tuple[str, ...]], ...] = (
    (_stage_lists, ("model.channels", "model.num_blocks", "model.depths", "model.strides")),
    (_frames_left, ("training.input_frames", "model.strides")),
    (_nesterov, ("training.optimizer", "training.nesterov", "training.momentum")),
    (_cosine, ("training.scheduler", "training.min_lr", "training.lr")),
    (_warmup, ("training.scheduler", "training.warmup_epochs", "training.warmup_start_lr", "training.lr")),
    (_milestones, ("training.scheduler", "training.milestones", "training.epochs")),
    (_split, ("split_type", "data.splits", "dataset")),
    (_validation, ("data.validation", "data.validation_by", "data.validation_seed", "dataset")),
    (_few, ("data.train_seed", "data.train_subjects", "data.train_clips", "data.train_position", "dataset")),
    (_class_weights, ("training.class_weights", "training.sampler", "data.num_classes", "dataset")),
    (_fine_tuning, ("model.init", "model.init_sha256", "model.freeze", "training.body_lr_factor")),
    (_patience, ("training.patience", "training.min_delta")),
    (_augmentations, ("training.augment", *_AUGMENTATIONS)),
    (_mirror, ("training.augmentations.mirror", "dataset")),
    (_session, ("hardware.session_limit", "hardware.stop_margin")),
)
"""Each rule with the keys that it reads: a rule is asked only when those keys are valid on their own."""
