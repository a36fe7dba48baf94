"""What the keys of a study are built from."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError


class StudyError(ValueError):
    """The configuration is refused; the message names each key, what was found and what is allowed."""


# Names become parts of paths: letters and digits with single . - or _ between them, so that `--` stays a separator, no name is hidden
# or leads up, and all are the same on every file system.
NAME_PATTERN = r"^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=64)]
Text = Annotated[str, StringConstraints(min_length=1)]
# A path, a name on the hub: what goes into messages, addresses and calls of the system, so on one line and without NUL.
PLACE_PATTERN = r"^[^\x00-\x1f\x7f]+$"
Place = Annotated[str, StringConstraints(pattern=PLACE_PATTERN, max_length=4096)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
LARGEST = 10**15  # of any number; more is a slip, and some would not fit into 64 bits


class Block(BaseModel):
    """A block of the configuration; unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_where_it_belongs(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic takes true for 1 and 1 for true, and YAML reads yes, no, on and off as true and false.
        kind = cls.model_fields[str(info.field_name)].annotation
        truth = kind is bool
        if isinstance(kind, type) and issubclass(kind, Block):
            return value
        if truth and isinstance(value, int | float) and not isinstance(value, bool):
            raise PydanticCustomError("truth", "true or false", {})
        if not truth and any(isinstance(one, bool) for one in (value if isinstance(value, list) else [value])):
            raise PydanticCustomError(
                "truth", "a number or a text, not true or false (as YAML reads yes, no, on and off without quotes)", {}
            )
        return value

    @field_validator("*")
    @classmethod
    def _size(cls, value: Any) -> Any:
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int | float) and abs(one) > LARGEST:
                raise PydanticCustomError("size", "a number of at most {largest}", {"largest": f"{LARGEST:,}"})
        return value


def by_key(kinds: dict[str, type[Block]]) -> Any:
    """The type of a block whose class is told by the first of these keys that it has."""

    def choose(value: Any) -> str | None:
        if isinstance(value, dict):
            return next((key for key in kinds if key in value), None)
        return next((key for key, kind in kinds.items() if isinstance(value, kind)), None)

    union = reduce(or_, (Annotated[kind, Tag(key)] for key, kind in kinds.items()))
    message = "a block with one of the keys " + ", ".join(kinds)
    return Annotated[union, Discriminator(choose, custom_error_type="kind", custom_error_message=message)]


class Hidden:
    """Stands for a text that may be a key, put where the name of its variable belongs."""

    def __repr__(self) -> str:
        return "a text, not shown as it may be a key"
