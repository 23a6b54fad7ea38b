"""The price table: dated, editable, and never zero where nothing is known."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from rockbot.catalogue.prices import PriceTable
from rockbot.errors import ConfigError
from rockbot.events import Usage
from rockbot.settings_models import PricesSettings

DAY = datetime.date(2026, 11, 28)
MILLION = Usage(input_tokens=1_000_000)


def table(**given: Any) -> PriceTable:
    return PriceTable.load(PricesSettings.model_validate(given))


def test_the_shipped_table_prices_the_default_models() -> None:
    shipped = table()
    assert shipped.currency == "USD"
    assert shipped.cost("anthropic/claude-sonnet-5-5", Usage(input_tokens=1000, output_tokens=100), DAY) == 0.003
    assert shipped.cost("scripted/demo", MILLION, DAY) == 0


def test_a_model_without_a_price_costs_nobody_knows_what() -> None:
    assert table().cost("openai/unheard-of", MILLION, DAY) is None
    assert table().price("anthropic/claude-haiku-5-5", datetime.date(2026, 10, 6)) is None


def test_of_the_prices_of_a_model_the_latest_that_has_begun_counts() -> None:
    read = Usage(cache_read_tokens=1_000_000)
    assert table().cost("anthropic/claude-sonnet-5-5", read, datetime.date(2026, 10, 6)) == 0.2
    assert table().cost("anthropic/claude-sonnet-5-5", read, datetime.date(2026, 10, 7)) == 0.1


def test_an_edition_of_a_model_costs_what_the_model_does() -> None:
    assert table().cost("anthropic/claude-haiku-4-5-20251001", MILLION, DAY) == 1
    assert table().cost("openai/gpt-5.4-mini-2026-03-17", MILLION, DAY) == 0.75


def test_every_kind_of_token_has_its_price() -> None:
    usage = Usage(input_tokens=1, output_tokens=10, cache_read_tokens=100, cache_write_tokens=1000)
    models = {
        "x/y": {"input": 1e6, "output": 2e6, "cache_read": 3e6, "cache_write": 4e6},
        "x/z": {"input": 1e6, "output": 0},
    }
    assert table(models=models).cost("x/y", usage, DAY) == 1 + 20 + 300 + 4000
    assert table(models=models).cost("x/z", usage, DAY) == 1101


def test_long_calls_have_a_price_of_their_own_for_every_token() -> None:
    long = Usage(input_tokens=50_000, cache_read_tokens=50_001, output_tokens=1000)
    assert table().cost("anthropic/claude-haiku-5-5", long, DAY) == pytest.approx(0.025 + 50_001 * 0.05e-6 + 0.0025)


def test_settings_go_before_the_file_which_goes_before_what_is_shipped(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(
        'currency = "USD"\n[[prices]]\nmodel = "openai/gpt-5.5"\ninput = 7\noutput = 7\n'
        '[[prices]]\nmodel = "openai/gpt-5.4"\ninput = 7\noutput = 7\n'
    )
    found = table(file=file, models={"openai/gpt-5.4": {"input": 9, "output": 9}})
    assert [found.cost(f"openai/{name}", MILLION, DAY) for name in ("gpt-5.5", "gpt-5.4", "gpt-4.1")] == [7, 9, 2]


def test_in_another_currency_the_shipped_prices_do_not_count() -> None:
    found = table(currency="EUR", models={"x/y": {"input": 9, "output": 9}})
    assert (found.currency, found.cost("x/y", MILLION, DAY)) == ("EUR", 9)
    assert found.cost("openai/gpt-5.4", MILLION, DAY) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nonsense", "is not valid TOML"),
        ('currency = "EUR"', "is in EUR, the other prices are in USD"),
        ('[[prices]]\nmodel = "x/y"\ninput = -1\noutput = 1', "entry 1: input"),
        ('[[prices]]\nmodel = "x/y"\ninput = 1\noutput = 1\nlong_input = 1', "belong together"),
    ],
)
def test_a_wrong_file_is_an_error_that_says_where(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"setting 'prices\.file'") as raised:
        table(file=file)
    assert told in str(raised.value)
    with pytest.raises(ConfigError, match=r"cannot be read"):
        table(file=tmp_path / "absent.toml")
