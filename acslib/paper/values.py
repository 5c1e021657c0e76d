"""Kinds of values that parameters have: numbers as people write them, with their limits."""

import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

DECIMAL = r"(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
NUMBER = re.compile(rf"([+-]?{DECIMAL})(?: ?/ ?({DECIMAL}))?", re.ASCII)
LARGEST_NUMBER = 3.4e38  # what float32 holds: nothing can be trained with more
MOST_COUNTED = 10**9  # of anything that is counted


def number(value: Any) -> Any:
    """Text such as 8/255 and 1e-3 as a number.

    Only what a person reads as that number passes: 030, 1_0, 0x10, 1:30 and 8/255/3 do not.
    Booleans, which Python counts as numbers, do not either.
    """
    if isinstance(value, bool):
        raise ValueError("is a truth value, a number is needed")
    if not isinstance(value, str):
        return value
    parts = NUMBER.fullmatch(value.strip())
    try:
        if parts:
            return float(Fraction(parts[1]) / Fraction(parts[2] or 1))
    except (ValueError, ZeroDivisionError, OverflowError):
        pass
    raise ValueError("is not a number: write it like 0.1, 1e-3 or 8/255")


def distinct(values: tuple) -> tuple:
    """Of a name given twice, one would be ignored without a word."""
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"has {value!r:.200} twice: leave one out")
    return values


Real = Annotated[float, BeforeValidator(number), Field(allow_inf_nan=False)]
Positive = Annotated[Real, Field(gt=0, le=LARGEST_NUMBER)]
NotNegative = Annotated[Real, Field(ge=0, le=LARGEST_NUMBER)]
Part = Annotated[Real, Field(gt=0, le=1)]
Share = Annotated[Real, Field(ge=0, le=1)]
Degrees = Annotated[Real, Field(ge=0, le=180)]
BelowOne = Annotated[Real, Field(ge=0, lt=1)]
Rate = Annotated[Real, Field(gt=0, le=1000)]
Decay = Annotated[Real, Field(ge=0, le=1000)]
Factor = Annotated[Real, Field(gt=0, le=1000)]
Count = Annotated[int, BeforeValidator(number), Field(ge=1, le=MOST_COUNTED)]
CountOrNone = Annotated[int, BeforeValidator(number), Field(ge=0, le=MOST_COUNTED)]
Epochs = Annotated[int, BeforeValidator(number), Field(ge=1, le=100_000)]
Steps = Annotated[int, BeforeValidator(number), Field(ge=0, le=10_000)]
Draws = Annotated[int, BeforeValidator(number), Field(ge=0, le=1000)]
Seeds = Annotated[int, BeforeValidator(number), Field(ge=1, le=1000)]
Channels = Annotated[int, BeforeValidator(number), Field(ge=1, le=4096)]
Blocks = Annotated[int, BeforeValidator(number), Field(ge=1, le=1000)]
Pixels = Annotated[int, BeforeValidator(number), Field(ge=1, le=4096)]
Flag = Annotated[bool, Field(strict=True)]
Name = Annotated[str, Field(strict=True)]
Names = Annotated[tuple[Name, ...], AfterValidator(distinct)]
