"""From layers of settings to one checked configuration in which every value knows where it came from.

A layer is a flat mapping from dotted key to value and origin. Layers, lowest first: the recipe, the model variant, the
data set, the environment profile (all four in ``configs/``), then what the user wrote: a file, direct flags, ``--set``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from last_e.config import ALIASES, DATASETS, ENVIRONMENTS, RULES, VARIANTS, TrainConfig
from last_e.environment import detect_environment

CONFIGS = Path(__file__).parent / "configs"
MAX_YAML_BYTES = 1_000_000

KEY_ALIASES = {
    "training.num_workers": "hardware.num_workers",
    "training.pin_memory": "hardware.pin_memory",
    "training.dropout": "model.dropout",
    "training.drop_path_rate": "model.drop_path_rate",
    "store.keep_last": "checkpoint.keep_last",
    "run.time_limit": "hardware.session_limit",
}
"""Other places where the reference or a job file may name a key."""


@dataclass(frozen=True)
class Origin:
    """Where a value was set: a file (with its line) or a flag."""

    name: str
    line: int | None = None

    def __str__(self) -> str:
        return self.name if self.line is None else f"{self.name}:{self.line}"


@dataclass(frozen=True)
class Entry:
    """A value and where it was set."""

    value: Any
    origin: Origin


Layer = dict[str, Entry]


@dataclass(frozen=True)
class Problem:
    """One mistake: where it stands, the key, what was found and what is allowed."""

    origin: str
    key: str
    """Dotted; ``-`` where the mistake is about the whole."""
    found: str
    allowed: str

    def __str__(self) -> str:
        place = self.origin if self.key == "-" else f"{self.origin}: {self.key}"
        return f"{place}: found {self.found}; allowed: {self.allowed}"


class ConfigError(ValueError):
    """Every mistake in what the user gave, all at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(set(problems), key=lambda p: (p.origin.split(":")[0], _line(p.origin), p.key))
        super().__init__("\n".join(map(str, self.problems)))


ConfigT = TypeVar("ConfigT", bound=TrainConfig)


@dataclass(frozen=True)
class Resolved(Generic[ConfigT]):
    """A checked configuration with the origin of every value, by dotted key."""

    config: ConfigT
    origins: dict[str, Origin]
    env: str
    """The profile in force: what ``auto`` was found to be."""
    notes: list[str] = field(default_factory=list)

    def items(self) -> dict[str, Any]:
        """Every dotted key with its value, in the order of the schema."""
        return flatten(self.config)


# --- reading ---------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: ``1e-4`` is a number, ``no`` is a word, a key stands once, nothing refers to anything."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not used here", parent.start_mark if parent is not None else None
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is set twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regex) for tag, regex in resolvers if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def parse_value(text: str) -> Any:
    """The value of a flag or of ``--set KEY=VALUE``, read as YAML.

    Raises:
        ValueError: the text is not YAML.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(_yaml_message(error)) from None


def load_file(path: Path, name: str | None = None) -> tuple[Layer, list[Problem]]:
    """Read a YAML file into a layer; what is wrong with it comes back beside it, so that it can be told with the rest."""
    name = name or str(path)
    try:
        if not path.exists():
            return {}, [Problem(name, "-", "no such file", "the path of a YAML file")]
        if path.is_dir():
            return {}, [Problem(name, "-", "a folder", "the path of a YAML file")]
        if path.stat().st_size > MAX_YAML_BYTES:
            return {}, [Problem(name, "-", f"{path.stat().st_size} bytes", f"at most {MAX_YAML_BYTES} bytes of YAML")]
        text = path.read_bytes().decode("utf-8")
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            lines: dict[str, int] = {}
            _key_lines(node, "", lines)
            values = loader.construct_document(node) if node is not None else {}
        finally:
            loader.dispose()
    except UnicodeDecodeError:
        return {}, [Problem(name, "-", "bytes that are not UTF-8", "YAML text in UTF-8")]
    except OSError as error:
        return {}, [Problem(name, "-", error.strerror or str(error), "a readable YAML file")]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = name if mark is None else f"{name}:{mark.line + 1}"
        return {}, [Problem(where, "-", _yaml_message(error), "valid YAML")]
    if not isinstance(values, dict):
        return {}, [Problem(name, "-", show(values), "a mapping of keys to values")]
    return {key: Entry(value, Origin(name, lines.get(key))) for key, value in _flat(values)}, []


def set_layer(assignments: Iterable[str], name: str = "--set") -> tuple[Layer, list[Problem]]:
    """``KEY=VALUE`` words into a layer, in order; a later one wins."""
    layer: Layer = {}
    problems = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            problems.append(Problem(name, assignment, "no KEY=VALUE", "for example training.gradient_clip=2.0"))
            continue
        try:
            value = parse_value(text)
        except ValueError as error:
            problems.append(Problem(name, key, f"{text!r} ({error})", "a YAML value"))
            continue
        for full, leaf in _flat({key.strip(): value}):
            layer[full] = Entry(leaf, Origin(name))
    return layer, problems


def _flat(values: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        full = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{full}.")
        else:
            yield full, value


def _key_lines(node: Any, prefix: str, lines: dict[str, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            full = f"{prefix}{key.value}"
            lines[full] = key.start_mark.line + 1
            _key_lines(value, f"{full}.", lines)


def _yaml_message(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "lists nested too deep"
    return str(getattr(error, "problem", None) or error).splitlines()[0]


# --- schema ----------------------------------------------------------------------------------------------------------


@cache
def known_keys(schema: type[BaseModel]) -> dict[str, Any]:
    """Every dotted leaf key of a schema with its pydantic field."""
    keys: dict[str, Any] = {}
    for name, info in schema.model_fields.items():
        section = _section(info.annotation)
        if section is None:
            keys[name] = info
        else:
            keys.update({f"{name}.{leaf}": leaf_info for leaf, leaf_info in known_keys(section).items()})
    return keys


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


def allowed_values(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """What a field admits, in words: ``a number > 0, at most 100``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *extra = get_args(annotation)
        flat_extra = [m for item in extra for m in ([item] if not hasattr(item, "metadata") else item.metadata)]
        if any(getattr(m, "func", None).__class__.__name__ == "function" for m in extra):
            return "a duration such as 8h50m or a number of seconds"
        return allowed_values(base, [*flat_extra, *metadata])
    if origin in (Union, UnionType):
        parts = [allowed_values(arg, metadata) for arg in get_args(annotation) if arg is not NoneType]
        return " or ".join([*parts, *(["null"] if NoneType in get_args(annotation) else [])])
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(annotation)))
    if origin is list:
        return "a list, each entry " + allowed_values(get_args(annotation)[0])
    if any(getattr(m, "func", None).__class__.__name__ == "function" for m in metadata):
        return "a duration such as 8h50m or a number of seconds"
    text = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(annotation, "text")
    for attribute, words in (("gt", "> {}"), ("ge", "at least {}"), ("lt", "< {}"), ("le", "at most {}")):
        for bound in (getattr(m, attribute, None) for m in metadata):
            if bound is not None:
                text += (", " if text[-1].isdigit() else " ") + words.format(bound)
    pattern = next((m.pattern for m in metadata if getattr(m, "pattern", None)), None)
    return f"{text} matching {pattern}" if pattern else text


def nearest(word: str, choices: Iterable[str]) -> str:
    """``did you mean X?`` with the most similar choice, else the choices themselves where they are few."""
    choices = list(choices)
    last = {choice.rsplit(".", 1)[-1]: choice for choice in reversed(choices)}
    match = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if not match:
        match = [last[m] for m in difflib.get_close_matches(word.rsplit(".", 1)[-1], last, n=1, cutoff=0.6)]
    if match:
        return f"known keys only; did you mean {match[0]}?"
    section = [choice for choice in choices if choice.startswith(word.split(".")[0] + ".")] or choices
    return "known keys: " + ", ".join(section[:40])


def show(value: Any) -> str:
    """A value as an error shows it: short, on one line."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _section(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _line(origin: str) -> int:
    tail = origin.rpartition(":")[2]
    return int(tail) if tail.isdigit() else 0


# --- resolving -------------------------------------------------------------------------------------------------------


def resolve(
    user_layers: Iterable[Layer],
    schema: type[ConfigT],
    problems: Iterable[Problem] = (),
    detect: Callable[[], tuple[str, str]] = detect_environment,
) -> Resolved[ConfigT]:
    """Put the user's layers on the packaged ones and check the whole.

    Args:
        user_layers: lowest first.
        schema: :class:`~last_e.config.TrainConfig` or a subclass with more sections.
        problems: mistakes already found while reading the layers, to be told with the others.
        detect: finds the profile that ``env: auto`` stands for.

    Raises:
        ConfigError: all the mistakes, in every layer, also where a higher layer overrides them.
    """
    found = list(problems)
    layers = []
    for layer in user_layers:
        clean, layer_problems = _known_only(layer, schema)
        layers.append(clean)
        found += layer_problems
    chosen = {key: entry.value for layer in layers for key, entry in layer.items()}
    variant = _choice(chosen.get("model.variant"), VARIANTS, "base_e_v3")
    dataset = _choice(chosen.get("dataset"), DATASETS, "ntu60")
    env = _choice(chosen.get("env"), (*ENVIRONMENTS, "auto"), "auto")
    notes = [f"environment: {env}"]
    if env == "auto":
        env, reason = detect()
        notes = [f"environment: {env} ({reason})"]

    base = package_layer(variant, dataset, env)
    for layer in layers:
        found += _field_problems(schema, base, layer)
    bad_keys = {problem.key for problem in found}
    merged = dict(base)
    for layer in layers:
        merged.update({key: entry for key, entry in layer.items() if key not in bad_keys})
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
    if found:
        raise ConfigError(found)
    origins = {key: merged[key].origin if key in merged else Origin("default") for key in known_keys(schema)}
    return Resolved(config, origins, env, notes)


def package_layer(variant: str, dataset: str, env: str) -> Layer:
    """The four packaged files that lie under everything the user says."""
    layer: Layer = {}
    for name in ("training/cosine_v3", f"model/{variant}", f"data/{dataset}", f"env/{env}"):
        layer.update(_packaged(name))
    return layer


@cache
def _packaged(name: str) -> Layer:
    layer, problems = load_file(CONFIGS / f"{name}.yaml", f"configs/{name}.yaml")
    if problems:
        raise ConfigError(problems)
    return layer


def _known_only(layer: Layer, schema: type[BaseModel]) -> tuple[Layer, list[Problem]]:
    """Canonical names and known keys; shorthand such as ``model: base`` written out."""
    keys = known_keys(schema)
    sections = {key.rsplit(".", 1)[0] for key in keys if "." in key}
    clean: Layer = {}
    problems = []
    for key, entry in layer.items():
        key = KEY_ALIASES.get(key, key)
        if key == "model" and isinstance(entry.value, str):
            key = "model.variant"
        value = entry.value
        if key == "model.variant" and isinstance(value, str):
            value = ALIASES.get(value, value)
        if key in keys:
            clean[key] = Entry(value, entry.origin)
        elif key in sections:
            if value not in (None, {}):
                problems.append(Problem(str(entry.origin), key, show(value), "a mapping of keys to values"))
        else:
            problems.append(Problem(str(entry.origin), key, f"an unknown key (= {show(value)})", nearest(key, keys)))
    return clean, problems


def _field_problems(schema: type[BaseModel], base: Layer, layer: Layer) -> list[Problem]:
    """Mistakes in single values of one layer."""
    fields = known_keys(schema)
    flat = {key: entry.value for key, entry in {**base, **layer}.items()}
    problems = []
    try:
        schema.model_validate(nest(flat))
    except ValidationError as error:
        for item in error.errors():
            parts = [str(part) for part in item["loc"]]
            key = next((".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in fields), "")
            if key not in layer:
                continue
            info = fields[key]
            allowed = allowed_values(info.annotation, info.metadata)
            if item["type"] == "value_error":
                allowed = item["msg"].removeprefix("Value error, ")
            problems.append(Problem(str(layer[key].origin), key, show(layer[key].value), allowed))
    return problems


def _choice(value: Any, choices: Iterable[str], default: str) -> str:
    """The user's choice of a packaged file where it is one; a bad one is reported by the schema later."""
    return value if isinstance(value, str) and value in choices else default
