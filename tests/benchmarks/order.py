"""The message that every contender carries: an order of about 1 KiB of JSON, nested as real bodies are."""

from __future__ import annotations

from pydantic import BaseModel

__all__ = ["BODY", "ORDER", "Order"]


class Line(BaseModel):
    """One article of an order."""

    sku: str
    title: str
    quantity: int
    unit_price: float
    tags: list[str]


class Address(BaseModel):
    """Where it goes."""

    name: str
    street: str
    city: str
    postcode: str
    country: str


class Order(BaseModel):
    """The body, without anything of ours: the plain contenders decode into this."""

    order_id: str
    placed_at: str
    customer: str
    express: bool
    total: float
    ship_to: Address
    lines: list[Line]
    note: str


ORDER = Order(
    order_id="9f2c6a1e-58f1-4a0c-8a55-0a3a1f0c7d11",
    placed_at="2026-03-14T15:09:26.535Z",
    customer="customer-000271828",
    express=True,
    total=314.15,
    ship_to=Address(name="Marie Curie", street="24 Rue de la Montagne", city="Paris", postcode="75005", country="FR"),
    lines=[
        Line(
            sku=f"SKU-{number:05d}",
            title=f"Article number {number}, in blue",
            quantity=number + 1,
            unit_price=19.9 + number,
            tags=["new", "fragile", f"shelf-{number}"],
        )
        for number in range(5)
    ],
    note="Please ring twice and leave the parcel with the neighbours on the left if nobody answers the door. " * 2,
)

BODY = ORDER.model_dump_json().encode()
