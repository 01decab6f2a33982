"""Amounts of money in words and in whole minor units."""

from collections.abc import Mapping
from decimal import Decimal

from server.domain.rules.reading import plain

# ISO 4217 currencies whose minor unit is not a hundredth.
_DIGITS: Mapping[str, int] = {
    **dict.fromkeys(
        (
            "BIF",
            "CLP",
            "DJF",
            "GNF",
            "ISK",
            "JPY",
            "KMF",
            "KRW",
            "PYG",
            "RWF",
            "UGX",
            "UYI",
            "VND",
            "VUV",
            "XAF",
            "XOF",
            "XPF",
        ),
        0,
    ),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}


def minor_digits(currency: str) -> int:
    """Decimal places of the currency's smallest coin."""
    return _DIGITS.get(currency, 2)


_COINS = tuple(Decimal(1).scaleb(-digits) for digits in range(max(_DIGITS.values()) + 1))


def coin(currency: str) -> Decimal:
    """The currency's smallest coin, in its units: 0.01, or 1."""
    return _COINS[minor_digits(currency)]


def written(amount: str | Decimal, currency: str) -> str:
    """An amount to read out: ``500.00 INR``. Never rounded."""
    text = plain(Decimal(amount))
    digits = minor_digits(currency)
    whole, _, cents = text.partition(".")
    cents = cents.ljust(digits, "0")
    return f"{whole}.{cents} {currency}" if cents else f"{whole} {currency}"
