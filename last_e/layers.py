"""From layers of settings to one checked configuration in which every value knows where it came from.

Layers, lowest first: the recipe, the model variant, the data set, the environment profile (all four in ``configs/``), then
what the user wrote: a file, direct flags, ``--set``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import IO, Any, Generic, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from last_e.config import ALIASES, DATASETS, ENVIRONMENTS, RECIPES, RULES, VARIANTS, TrainConfig
from last_e.described import is_own, name_of
from last_e.environment import detect_environment, fits
from last_e.known import mirrored_classes
from last_e.problems import ConfigError, Origin, Problem, allowed_values, meant, nearest, show
from last_e.reading import Entry, Layer, load_file, no_mapping, parse_value
from last_e.redact import secret_in
from last_e.set_by import SetBy
from last_e.text import expand

CONFIGS = Path(__file__).parent / "configs"
_COMES_ALONG = "irds"
"""The data set whose recordings are in the package, with all classes of its file in ``configs/``."""
_MIRROR = "training.augmentations.mirror"
_CLASSES = "data.num_classes"

KEY_ALIASES = {
    "training.num_workers": "hardware.num_workers",
    "training.pin_memory": "hardware.pin_memory",
    "training.cuda_graphs": "hardware.cuda_graphs",
    "training.dropout": "model.dropout",
    "training.drop_path_rate": "model.drop_path_rate",
    "store.keep_last": "checkpoint.keep_last",
    "run.time_limit": "hardware.session_limit",
}
"""Other places where the reference or a job file may name a key."""


_MOST_GUESSES = 20
"""What an unknown key may have meant takes a while to find out; a file with more of them is no job."""

ConfigT = TypeVar("ConfigT", bound=TrainConfig)
_DefaultT = TypeVar("_DefaultT", str, None)
Opened = Callable[[str, Mapping[str, Any]], AbstractContextManager[tuple[IO[bytes], int]]]
"""Opens a file in a bucket, by its URI and what else is set; gives it with its size."""


@dataclass(frozen=True)
class Resolved(Generic[ConfigT]):
    """A checked configuration with the origin of every value, by dotted key."""

    config: ConfigT
    origins: dict[str, Origin]
    env: str
    """The profile in force: what ``auto`` was found to be."""
    notes: list[str] = field(default_factory=list)
    of_data: list[str] = field(default_factory=list)
    """What seems wrong with an own data set, and is no reason to refuse it."""

    def items(self) -> dict[str, Any]:
        """Every dotted key with its value, in the order of the schema."""
        return flatten(self.config)


# --- schema ----------------------------------------------------------------------------------------------------------


@cache
def known_keys(schema: type[BaseModel]) -> dict[str, Any]:
    """Every dotted leaf key of a schema with its pydantic field."""
    keys: dict[str, Any] = {}
    for name, info in schema.model_fields.items():
        section = section_of(info.annotation)
        if section is None:
            keys[name] = info
        else:
            keys.update({f"{name}.{leaf}": leaf_info for leaf, leaf_info in known_keys(section).items()})
    return keys


@cache
def set_by(schema: type[BaseModel]) -> dict[str, SetBy]:
    """Who may set each dotted key of a schema.

    Raises:
        LookupError: a key does not say.
    """
    found: dict[str, SetBy] = {}
    for key, info in known_keys(schema).items():
        section: type[BaseModel] | None = schema
        for name in key.split(".")[:-1]:
            section = section_of(section.model_fields[name].annotation) if section else None
        said = next((mark for mark in info.metadata if isinstance(mark, SetBy)), getattr(section, "set_by", None))
        if said is None:
            raise LookupError(f"{key}: its field does not say who may set it; see last_e/set_by.py")
        found[key] = said
    return found


def flatten(config: BaseModel) -> dict[str, Any]:
    """Every dotted key of a configuration with its value, in the order of the schema."""
    flat: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            flat.update({f"{name}.{key}": leaf for key, leaf in flatten(value).items()})
        else:
            flat[name] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys to nested mappings."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *path, leaf = key.split(".")
        place = nested
        for part in path:
            place = place.setdefault(part, {})
        place[leaf] = value
    return nested


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation names, if it names one."""
    plain = isinstance(annotation, type) and get_origin(annotation) is None  # on Python 3.10 list[int] is a type, too
    return annotation if plain and issubclass(annotation, BaseModel) else None


# --- resolving -------------------------------------------------------------------------------------------------------


def resolve(
    user_layers: Iterable[Layer],
    schema: type[ConfigT],
    problems: Iterable[Problem] = (),
    detect: Callable[[], tuple[str, str]] = detect_environment,
    opened: Opened | None = None,
) -> Resolved[ConfigT]:
    """Put the user's layers on the packaged ones and check the whole.

    Args:
        user_layers: lowest first.
        schema: :class:`~last_e.config.TrainConfig` or a subclass with more sections.
        problems: mistakes already found while reading the layers, to be told with the others.
        detect: finds the profile that ``env: auto`` stands for.
        opened: opens an own set's file that lies in a bucket; None: it cannot be read here.

    Raises:
        ConfigError: all the mistakes, in every layer, also where a higher layer overrides them.
    """
    found = list(problems)
    layers = []
    for layer in user_layers:
        open_values, secret_problems = without_secrets(layer)
        clean, layer_problems = known_only(open_values, schema)
        layers.append(clean)
        found += secret_problems + layer_problems
    own = _take_own(layers)
    chosen = {key: entry.value for layer in layers for key, entry in layer.items()}
    variant = _choice(chosen.get("model.variant"), VARIANTS, "base_e_v3")
    dataset = _choice(chosen.get("dataset"), DATASETS, "ntu60") if own is None else own.name
    env = _choice(chosen.get("env"), (*ENVIRONMENTS, "auto"), "auto")
    recipe = _choice(chosen.get("recipe"), RECIPES, None)
    notes = [f"environment: {env}"]
    if env == "auto":
        env, reason = detect()
        notes = [f"environment: {env} ({reason})"]

    base = package_layer(variant, dataset, env, recipe)
    warnings: list[str] = []
    if own is not None and not own.is_told:
        told, own_problems, warnings = _of_its_file(own, chosen, base, opened)
        base = {**base, **told}
        found += own_problems
    for layer in layers:
        found += field_problems(schema, base, layer)
    bad_keys = {problem.key for problem in found}
    merged = dict(base)
    for layer in layers:
        merged.update({key: entry for key, entry in layer.items() if key not in bad_keys})
    _lower_to_peak(merged, chosen)
    _give_way(merged, recipe)
    # Faulty values are left out, so what remains is valid and the rules see parsed values (9h as seconds).
    config = schema.model_validate(nest({key: entry.value for key, entry in merged.items()}))
    flat = flatten(config)
    for rule, keys in RULES:
        if bad_keys.intersection(keys):
            continue
        for key, allowed in rule(flat):
            blamed = next((k for k in (key, *keys) if k in chosen), key)
            origin = merged[blamed].origin if blamed in merged else Origin("default")
            found.append(Problem(str(origin), key, show(flat[key]), allowed))
    if not bad_keys.intersection(("dataset", "data.uri", _CLASSES)):
        found += _too_few_classes(flat, base, merged[_CLASSES].origin)
    if found:
        raise ConfigError(found)
    training = config.training
    if training.scheduler != "constant" and training.warmup_epochs >= training.epochs:
        long = "1 epoch" if training.warmup_epochs == 1 else f"{training.warmup_epochs:g} epochs"
        rises = f"the warm-up ({long}) lasts the whole run: the learning rate only rises"
        notes.append(f"warning: {rises}; set training.warmup_epochs")
    if recipe is not None and not training.augment:
        notes.append(f"warning: nothing is left of recipe {recipe}: training.augment is off; set recipe=null, too")
    elif recipe is not None and _MIRROR in _packaged(f"training/{recipe}") and flat[_MIRROR] is None and _MIRROR not in chosen:
        unknown = f"nobody knows which classes of {flat['dataset']} change places"
        notes.append(f"recipe {recipe} goes without mirror: {unknown} (a set of your own says so when it is made: mirrored)")
    origins = {key: merged[key].origin if key in merged else Origin("default") for key in known_keys(schema)}
    return Resolved(config, origins, env, notes, warnings)


def _too_few_classes(flat: Mapping[str, Any], base: Layer, origin: Origin) -> Iterator[Problem]:
    """Fewer than the recordings have that come along, which are not chosen among."""
    if flat["dataset"] == _COMES_ALONG and flat["data.uri"] is None and flat[_CLASSES] < (least := base[_CLASSES].value):
        yield Problem(
            str(origin), _CLASSES, show(flat[_CLASSES]), f"at least {least}: so many have the recordings of {_COMES_ALONG}"
        )


def _lower_to_peak(merged: Layer, chosen: Mapping[str, Any]) -> None:
    """A peak learning rate below the packaged start and floor brings them down with it, unless the user set them."""
    peak = merged["training.lr"]
    for key in ("training.warmup_start_lr", "training.min_lr"):
        if key not in chosen and merged[key].value > peak.value:
            merged[key] = Entry(peak.value, Origin(f"{peak.origin} (no higher than training.lr)"))


def _give_way(merged: Layer, recipe: str | None) -> None:
    """What a recipe says of that which the user has taken away counts no more."""
    begin, of_recipe = "training.augmentations.", f"configs/training/{recipe}.yaml"
    gone = set()
    if merged["training.augment"].value is False:
        gone = {key for key in merged if key.startswith(begin)}
    elif f"{begin}motion" in merged and merged[f"{begin}motion"].value is None:
        gone = {f"{begin}motion_range"}
    for key in gone:
        if key in merged and merged[key].origin.name == of_recipe:
            del merged[key]


def is_of_another_machine(resolved: Resolved[Any], key: str) -> bool:
    """Whether a folder is a profile's, and this machine is not one that the profile is for: it is not to be made here."""
    return str(resolved.origins.get(key, "")).startswith("configs/env/") and fits(resolved.env)[0] is False


def package_layer(variant: str, dataset: str, env: str, recipe: str | None = None) -> Layer:
    """The packaged files that lie under everything the user says; of an own set the file itself stands for the data set's."""
    layer: Layer = {}
    of_recipe = [] if recipe is None else [f"training/{recipe}"]
    of_data = [] if is_own(dataset) else [f"data/{dataset}"]
    for name in ("training/cosine_v3", *of_recipe, f"model/{variant}", *of_data, f"env/{env}"):
        layer.update(_packaged(name))
    if _MIRROR in layer and not is_own(dataset) and mirrored_classes(dataset) is None:
        del layer[_MIRROR]
    return layer


_OWN = "a whole prepared file that says itself what it holds (docs/own-data.md)"


class _Own(NamedTuple):
    """An own set that a job names."""

    name: str
    origin: Origin
    is_told: bool
    """Whether what its file says is there already, as of a job that was made with it."""


def _take_own(layers: list[Layer]) -> _Own | None:
    """The own set that is chosen, its path or URI taken apart: a name for ``dataset``, and ``data.uri``."""
    places = [place for place, layer in enumerate(layers) if "dataset" in layer]
    for place in places:
        key = layers[place]["dataset"]
        if not is_own(key.value):
            continue
        name = name_of(key.value)
        if place == places[-1] and name != key.value and not any("data.uri" in layer for layer in layers[place:]):
            layers[place]["data.uri"] = key
        layers[place]["dataset"] = Entry(name, key.origin)
    for below, place in pairwise(places):  # a file's place is that of no other set
        if is_own(layers[place]["dataset"].value) or is_own(layers[below]["dataset"].value):
            for layer in layers[:place]:
                layer.pop("data.uri", None)
    if not places or not is_own(layers[places[-1]]["dataset"].value):
        return None
    chosen = layers[places[-1]]["dataset"]
    return _Own(chosen.value, chosen.origin, any("data.content" in layer for layer in layers[places[-1] :]))


def _of_its_file(
    own: _Own, chosen: Mapping[str, Any], base: Layer, opened: Opened | None
) -> tuple[Layer, list[Problem], list[str]]:
    """What an own set's file says, as a layer; what is wrong with the file; and what is no reason to refuse a job."""
    from last_e.datafile import DataError, find_file, is_remote
    from last_e.own_set import mistakes_in, notes_of, read_own

    uri = chosen.get("data.uri")
    where = uri or own.name
    try:
        if is_remote(uri) and opened is not None:
            with opened(str(uri), chosen) as (file, size):
                whole = read_own(file, size, where)
        else:
            named_in = Path(own.origin.name)
            beside = named_in.absolute().parent if named_in.is_file() else Path.cwd()
            where = find_file(own.name, uri, _root_here(chosen, base), beside=beside)
            with where.open("rb") as file:
                whole = read_own(file, where.stat().st_size, where)
    except (DataError, OSError, ModuleNotFoundError) as error:
        instead = {key: entry for key, entry in _packaged("data/ntu60").items() if key != "data.file"}
        wrong = [Problem(str(own.origin), "dataset", str(error), _OWN)]
        return instead, wrong, []
    split = str(chosen.get("split_type", whole.splits[0]))
    mistakes = mistakes_in(whole, split)
    problems = [Problem(str(own.origin), "dataset", f"{own.name}: {one.text}", _OWN) for one in mistakes if one.fatal]
    origin = Origin(str(where))
    told = {key: Entry(value, origin) for key, value in whole.values(split).items()}
    about = whole.description
    if _MIRROR in base and (about.mirrored is None or not about.skeleton.has_sides):
        told[_MIRROR] = Entry(None, origin)
    # Where the name itself is wrong, as that of any key, something valid has to be in its place.
    return {"dataset": _packaged("data/ntu60")["dataset"], **told}, problems, notes_of(mistakes, where)


def _root_here(chosen: Mapping[str, Any], base: Layer) -> str:
    """Where data lie on this machine, though the profile may be of another."""
    root = str(chosen.get("hardware.data_root", base["hardware.data_root"].value))
    return root if expand(root).is_dir() else str(_packaged("env/local")["hardware.data_root"].value)


@cache
def _packaged(name: str) -> Layer:
    layer, problems = load_file(CONFIGS / f"{name}.yaml", f"configs/{name}.yaml")
    if problems:
        raise ConfigError(problems)
    return layer


def without_secrets(layer: Layer) -> tuple[Layer, list[Problem]]:
    """A secret is refused before anything else could show or keep it."""
    kinds = {key: kind for key, entry in layer.items() if (kind := secret_in(key, entry.value))}
    allowed = (
        "no secrets; boto3 finds a store's by itself, run.pass_env names the variables that the trainer needs, notify.* those "
        "that hold addresses"
    )
    problems = [Problem(str(layer[key].origin), key, f"what seems to be {kind}", allowed) for key, kind in kinds.items()]
    return {key: entry for key, entry in layer.items() if key not in kinds}, problems


_BY_NAME = "training.class_weights"


def _with_lists(layer: Layer) -> Layer:
    """A layer whose weights of classes, given as a mapping of names, are the list that the schema has."""
    named = {key: entry for key, entry in layer.items() if key.startswith(f"{_BY_NAME}.")}
    if not named:
        return layer
    said = [f"{key.removeprefix(_BY_NAME)[1:]}={entry.value}" for key, entry in named.items()]
    rest = {key: entry for key, entry in layer.items() if key not in named}
    return {**rest, _BY_NAME: Entry(said, next(iter(named.values())).origin)}


def known_only(layer: Layer, schema: type[BaseModel]) -> tuple[Layer, list[Problem]]:
    """Canonical names and known keys; shorthand such as ``model: base`` written out."""
    keys = known_keys(schema)
    sections = {key.rsplit(".", 1)[0] for key in keys if "." in key}
    clean: Layer = {}
    names: dict[str, str] = {}
    problems = []
    for name, entry in _with_lists(layer).items():
        key = KEY_ALIASES.get(name, name)
        if key == "model" and isinstance(entry.value, str):
            key = "model.variant"
        value = entry.value
        if key == "model.variant" and isinstance(value, str):
            value = ALIASES.get(value, value)
        if key in keys:
            if key in clean and entry.origin.line is not None:  # of words, the last counts
                found = f"what {names[key]} in line {clean[key].origin.line} sets, too"
                problems.append(Problem(str(entry.origin), name, found, "each key once, by one of its names"))
            clean[key], names[key] = Entry(value, entry.origin), name
        elif key in sections:
            if value not in (None, {}):
                problems.append(Problem(str(entry.origin), key, *no_mapping(value)))
        else:
            guess = nearest(key, keys) if len(problems) < _MOST_GUESSES else "known keys only"
            problems.append(Problem(str(entry.origin), key, f"an unknown key (= {show(value)})", guess))
    return clean, problems


def field_problems(schema: type[BaseModel], base: Layer, layer: Layer) -> list[Problem]:
    """Mistakes in single values of one layer."""
    fields = known_keys(schema)
    flat = {key: entry.value for key, entry in {**base, **layer}.items()}
    problems: list[Problem] = []
    try:
        schema.model_validate(nest(flat))
    except ValidationError as error:
        for item in error.errors():
            parts = [str(part) for part in item["loc"]]
            key = next((".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in fields), "")
            if key not in layer or any(problem.key == key for problem in problems):  # of a union each side tells its own
                continue
            info = fields[key]
            allowed = allowed_values(info.annotation, info.metadata)
            if item["type"] in ("int_type", "float_type", "bool_type") and _is_quoted(item["input"]):
                allowed += ", without quotes"
            if item["type"] == "string_type" and isinstance(item["input"], (int, float)):
                kind = "true or false" if isinstance(item["input"], bool) else "a number"
                allowed += f"; in quotes: without them it is {kind}"
            if item["type"] == "value_error":
                allowed = item["msg"].removeprefix("Value error, ")
            guess = meant(layer[key].value, _words_of(info.annotation), partial(_fits, schema, flat, key))
            if guess is not None and not allowed.endswith("without quotes"):
                allowed += f"; did you mean {_as_yaml(guess)}?"
            problems.append(Problem(str(layer[key].origin), key, show(layer[key].value), allowed))
    return problems


def _words_of(annotation: Any) -> list[str]:
    """The words that a field admits, if it admits only some."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return [word for part in parts if get_origin(part) is Literal for word in get_args(part) if isinstance(word, str)]


def _fits(schema: type[BaseModel], flat: dict[str, Any], key: str, value: Any) -> bool:
    """Whether a key's value would do, whatever is wrong with others."""
    try:
        schema.model_validate(nest({**flat, key: value}))
    except ValidationError as error:
        return not any(".".join(map(str, item["loc"])).startswith(key) for item in error.errors())
    return True


def _as_yaml(value: Any) -> str:
    """A value as one would write it."""
    return value if isinstance(value, str) else show(value)


def _is_quoted(value: Any) -> bool:
    """Whether a text would be a number or a truth value without its quotes."""
    with suppress(ValueError):  # no YAML either
        return isinstance(value, str) and not isinstance(parse_value(value.strip() or "x"), str)
    return False


def _choice(value: Any, choices: Iterable[str], default: _DefaultT) -> str | _DefaultT:
    """The user's choice of a packaged file where it is one; a bad one is reported by the schema later."""
    return value if isinstance(value, str) and value in choices else default
