"""What model calls cost: a dated table that anybody may edit, and the arithmetic over it.

A price that is not in the table is not known, and stays so through every sum: nothing here ever takes it for zero.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, final

from pydantic import Field, ValidationError

from rockbot.errors import ConfigError
from rockbot.events.models import Usage
from rockbot.events.registry import explain
from rockbot.settings_models import PriceSettings, PricesSettings

__all__ = ["PriceTable", "most_tokens", "today"]

_MILLION: Final = 1_000_000
#: The date that providers put behind a model's name to say which edition it is.
_EDITION: Final = re.compile(r"-(?:\d{8}|\d{4}-\d{2}-\d{2})$")
#: Digits of money that are kept: sums of floats are no better.
_DIGITS: Final = 10


class _Entry(PriceSettings):
    model: str = Field(min_length=3)


def most_tokens(usage: Usage) -> int:
    """All tokens of a call, however they were paid."""
    return usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens + usage.output_tokens


def today() -> datetime.date:
    """The day whose prices count, for people at a terminal; hosts ask their clock."""
    return datetime.datetime.now(datetime.UTC).date()


@final
@dataclass(frozen=True)
class PriceTable:
    """Prices by ``<provider>/<model>`` (or ``<provider>/*``), for each the later ones first."""

    currency: str
    prices: Mapping[str, Sequence[PriceSettings]]

    @classmethod
    def load(cls, settings: PricesSettings) -> PriceTable:
        """The shipped table under the file and the prices of the settings.

        Raises:
            ConfigError: the file cannot be read, or says something that is no price; the text names file and entry.
        """
        shipped = files("rockbot.catalogue").joinpath("prices.toml").read_text(encoding="utf-8")
        currency, prices = _parse(shipped, "the shipped prices")
        if settings.currency is not None and settings.currency != currency:
            currency, prices = settings.currency, {}
        if settings.file is not None:
            prices |= _read(settings.file, currency)
        prices |= {model: [price] for model, price in settings.models.items()}
        return cls(currency, prices)

    def price(self, model: str, day: datetime.date) -> PriceSettings | None:
        """What a model costs on a day; None when that is not known."""
        names = (model, _EDITION.sub("", model), f"{model.partition('/')[0]}/*")
        found = next((self.prices[name] for name in names if name in self.prices), ())
        return next((price for price in found if price.since <= day), None)

    def cost(self, model: str, usage: Usage, day: datetime.date) -> float | None:
        """What a call took, in `currency`; None when the model's price is not known."""
        price = self.price(model, day)
        return None if price is None else _cost(price, usage)


def _cost(price: PriceSettings, usage: Usage) -> float:
    into, out = price.input, price.output
    read = into if price.cache_read is None else price.cache_read
    written = into if price.cache_write is None else price.cache_write
    given = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    if price.long_input_tokens is not None and given > price.long_input_tokens:
        assert price.long_input is not None
        assert price.long_output is not None
        more = price.long_input / into if into else 1.0
        into, out, read, written = price.long_input, price.long_output, read * more, written * more
    money = usage.input_tokens * into + usage.output_tokens * out
    money += usage.cache_read_tokens * read + usage.cache_write_tokens * written
    return round(money / _MILLION, _DIGITS)


def _read(path: Path, currency: str) -> dict[str, list[PriceSettings]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"setting 'prices.file': {path} cannot be read: {exc}") from None
    its, prices = _parse(text, f"setting 'prices.file': {path}")
    if its != currency:
        raise ConfigError(f"setting 'prices.file': {path} is in {its}, the other prices are in {currency}")
    return prices


def _parse(text: str, where: str) -> tuple[str, dict[str, list[PriceSettings]]]:
    try:
        data: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{where} is not valid TOML: {exc}") from None
    currency = data.get("currency", "USD")
    found: dict[str, list[PriceSettings]] = {}
    for at, row in enumerate(data.get("prices", [])):
        try:
            entry = _Entry.model_validate(row)
        except ValidationError as exc:
            raise ConfigError(f"{where}, entry {at + 1}: {explain(exc)}") from None
        found.setdefault(entry.model, []).append(entry)
    for prices in found.values():
        prices.sort(key=lambda price: price.since, reverse=True)
    return str(currency), found
