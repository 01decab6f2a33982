"""Personal data of somebody who doesn't exist, and looking for it where it must not be."""

import base64

PERSONAL = (
    "Ashalata",
    "Raghunathan",
    "ashalata.r@example.com",
    "ashalata.r",
    "+919812377777",
    "9812377777",
    "1987-06-23",
    "Malabar Hill",
    "Walkeshwar",
    "WX9 4QZ",
    "CRM-PRIVATE-17",
    "LCPRIVATE0001",
    "Sushmita",
    "sushmita.r@example.com",
)


def traces(text: str) -> list[str]:
    """Which personal values stand in the text, in any case, also as hex or base64."""
    lowered = text.lower()
    found = []
    for value in PERSONAL:
        encoded = [value.encode().hex(), base64.b64encode(value.encode()).decode().rstrip("=")[:-1]]
        if value.lower() in lowered or any(e.lower() in lowered for e in encoded):
            found.append(value)
    return found
