"""Amounts as google.type.Money."""

from decimal import Decimal

from google.type import money_pb2

NANO = Decimal(10) ** 9


def money(currency: str, amount: Decimal) -> money_pb2.Money:
    """The amount, exact to nine places."""
    units = int(amount)
    return money_pb2.Money(currency_code=currency, units=units, nanos=int((amount - units) * NANO))
