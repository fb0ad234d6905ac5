"""What an hour of a machine costs: the table that comes with the package, and what the user says of it."""

from __future__ import annotations

import datetime
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from last_e.config import ENVIRONMENTS
from last_e.problems import ConfigError, Problem, nearest, show
from runner.plan.hardware import gpus
from runner.settings import settings_path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHIPPED = Path(__file__).parent / "prices.toml"
CURRENCY = "USD"
ANY = "any"
MARKETS = ("per_hour", "spot_per_hour")

_MOST_BYTES = 1 << 20
_DATE = r"^\d{4}(-\d{2}(-\d{2})?)?$"
_ALLOWED = {
    "per_hour": f"a number of {CURRENCY}, at least 0",
    "spot_per_hour": f"a number of {CURRENCY}, at least 0",
    "as_of": "a date such as 2026-11-23, 2026-11 or 2026",
    "source": "text of 1 to 300 characters",
}


def _as_text(value: Any) -> Any:
    return value.isoformat() if type(value) is datetime.date else value


class Row(BaseModel):
    """What a file may say of one machine."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    per_hour: Annotated[float, Field(ge=0, le=1e6)] | None = None
    spot_per_hour: Annotated[float, Field(ge=0, le=1e6)] | None = None
    as_of: Annotated[str, BeforeValidator(_as_text), Field(pattern=_DATE)] | None = None
    source: Annotated[str, Field(min_length=1, max_length=300)] | None = None


@dataclass(frozen=True)
class Price:
    """Of an hour."""

    amount: float
    as_of: str | None
    source: str
    own: bool
    """Whether the user gave it."""

    def __str__(self) -> str:
        when = f"as of {self.as_of}" if self.as_of else "no date given"
        return f"{self.amount:g} {CURRENCY} an hour, {when} ({self.source})"


Prices = dict[tuple[str, str, str], Price]
"""By profile, GPU (or :data:`ANY`) and one of :data:`MARKETS`."""


def user_prices_path() -> Path | None:
    """The user's own table, where there is one."""
    settings = settings_path()
    return None if settings is None else settings.with_name("prices.toml")


def load_prices(file: Path | None = None) -> Prices:
    """The package's table, the user's over it, ``file`` over both.

    Raises:
        ConfigError: all that is wrong in the user's two files.
    """
    prices: Prices = {}
    problems: list[Problem] = []
    own = user_prices_path()
    files = [SHIPPED, *([own] if own is not None and own.exists() else []), *([] if file is None else [file])]
    for path in files:
        rows, wrong = _read(path)
        problems += wrong
        for (profile, gpu), row in rows.items():
            for market in MARKETS:
                amount = getattr(row, market)
                if amount is not None:
                    # A date and a source belong to the numbers that stand beside them, not to those that they replace.
                    prices[profile, gpu, market] = Price(amount, row.as_of, row.source or str(path), path != SHIPPED)
    if problems:
        raise ConfigError(problems)
    return prices


def price_of(prices: Prices, profile: str, gpu: str | None, market: str) -> Price | None:
    """Of a profile with a GPU (None: a CPU, or a GPU that the table does not know); None where nobody says.

    What the user says of all GPUs of a profile comes before what the package says of this one.
    """
    this, all_ = prices.get((profile, gpu or ANY, market)), prices.get((profile, ANY, market))
    return all_ if this is None or (all_ is not None and all_.own and not this.own) else this


def _text_of(path: Path) -> str:
    """Whole, of a file that a table of prices could be: no device has an end, and nobody may write into a pipe."""
    if not stat.S_ISREG((about := path.stat()).st_mode):
        raise OSError(None, "no regular file")
    if about.st_size > _MOST_BYTES:
        raise OSError(None, f"has {about.st_size:,} bytes, more than {_MOST_BYTES:,}")
    return path.read_text("utf-8")


def _read(path: Path) -> tuple[dict[tuple[str, str], Row], list[Problem]]:
    try:
        values = tomllib.loads(_text_of(path))
    except OSError as error:
        return {}, [Problem(str(path), "-", error.strerror or str(error), "the path of a TOML file")]
    except UnicodeDecodeError:
        return {}, [Problem(str(path), "-", "bytes that are not UTF-8", "TOML text in UTF-8")]
    except (ValueError, RecursionError) as error:
        return {}, [Problem(str(path), "-", str(error) or "nested too deep", "valid TOML")]
    rows: dict[tuple[str, str], Row] = {}
    problems = []
    for profile, table in values.items():
        if profile == "currency":
            if table != CURRENCY:
                problems.append(Problem(str(path), "currency", show(table), CURRENCY))
            continue
        if profile not in ENVIRONMENTS:
            problems.append(Problem(str(path), profile, "an unknown profile", nearest(profile, ENVIRONMENTS)))
            continue
        if not isinstance(table, dict):
            problems.append(Problem(str(path), profile, show(table), f"tables such as [{profile}.any]"))
            continue
        for gpu, row in table.items():
            key = f"{profile}.{gpu}"
            if gpu not in gpus() and gpu != ANY:
                problems.append(Problem(str(path), key, "an unknown GPU", f"one of {', '.join(gpus())}, {ANY}"))
            elif not isinstance(row, dict):
                problems.append(Problem(str(path), key, show(row), f"keys {', '.join(Row.model_fields)}"))
            else:
                try:
                    rows[profile, gpu] = Row.model_validate(row)
                except ValidationError as error:
                    problems += _row_problems(path, key, row, error)
    return rows, problems


def _row_problems(path: Path, key: str, row: dict[str, Any], error: ValidationError) -> Iterator[Problem]:
    for item in error.errors():
        name = str(item["loc"][0])
        if name in _ALLOWED:
            yield Problem(str(path), f"{key}.{name}", show(row[name]), _ALLOWED[name])
        else:
            yield Problem(str(path), f"{key}.{name}", f"an unknown key (= {show(row[name])})", nearest(name, Row.model_fields))
