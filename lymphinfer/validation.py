"""Values of a file that people edit against the type that they become: every problem, in words.

pydantic does the checking. A type is a dataclass marked with `table`; its fields' annotations say
what may stand there.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, ErrorDetails

from lymphinfer.errors import LymphinferError

T = TypeVar("T")
Place = tuple[str | int, ...]
Count = Annotated[int, Field(ge=1)]
"""A whole number from 1 on."""

# A list of TOML is read as a tuple, see `validated`.
_KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "tuple": "a list",
    "dict": "a table",
    "dataclass": "a table",
    "datetime": "a date with time",
    "finite_number": "a finite number",
}
_BOUNDS = {"ge": "{} or more", "gt": "more than {}", "le": "{} or less", "lt": "less than {}"}


def table(kind: type[T]) -> type[T]:
    """Class decorator: the dataclass is a table that takes no other keys and converts nothing."""
    strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    # Strict is meant for what stands in the table: the table itself comes as a dictionary.
    setattr(kind, "__pydantic_config__", strict)  # noqa: B010
    setattr(kind, "__get_pydantic_core_schema__", classmethod(_from_dictionary))  # noqa: B010
    return kind


def _from_dictionary(cls: type, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    schema = handler(source)
    return {**schema, "strict": False}


def validated(kind: Any, values: Any, problems: list[str], at: Place = ()) -> Any:
    """Make an object of plain values.

    Parameters
    ----------
    kind : type
        A dataclass marked with `table`, or any type that pydantic checks.
    values : object
        As TOML gives them.
    problems : list of str
        What is wrong is added, each with its place.
    at : tuple
        Where the values stand in their file: names of tables, and numbers of entries.

    Returns
    -------
    object or None
        Of the type `kind`; None where anything is wrong.
    """
    try:
        return _adapter(kind).validate_python(_tuples(values))
    except ValidationError as error:
        problems += [
            _words(kind, details, at)
            for details in error.errors(include_url=False, include_context=True)
        ]
        return None


def checked(
    kind: type[T], values: Any, error: type[LymphinferError], where: Any, at: Place = ()
) -> T:
    """As `validated`, for values whose problems end the matter.

    Parameters
    ----------
    kind, values, at
        As `validated`.
    error : type
        Raised with all problems.
    where : object
        File that they stand in.

    Raises
    ------
    LymphinferError
        Of the type `error`.
    """
    problems: list[str] = []
    found: T | None = validated(kind, values, problems, at)
    if found is None:
        raise error(f"{where}: {'; '.join(problems)}")
    return found


def place(at: Sequence[str | int]) -> str:
    """Where something stands in a TOML file.

    Examples
    --------
    >>> place(("fit", "epochs")), place(("mpp",)), place(("slides", "CRC01", "CD45", "af", "beta"))
    ('[fit] epochs', 'mpp', '[slides.CRC01.CD45.af] beta')
    """
    parts = [str(part) for part in at]
    return parts[-1] if len(parts) < 2 else f"[{'.'.join(parts[:-1])}] {parts[-1]}"


def one_of(words: Sequence[str]) -> str:
    """Choices for a message: ``'a', 'b' or 'c'``."""
    shown = [repr(word) for word in words]
    return " or ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _words(kind: Any, error: ErrorDetails, at: Place) -> str:
    """One problem for people."""
    found, context = error["type"], error.get("ctx", {})
    inner, where = _steps(kind, error["loc"])
    whole = (*at, *inner)
    name = place(whole)
    if found in ("missing", "missing_argument"):
        return f"{name} is missing"
    if found in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{name}: unknown; known there: {', '.join(_keys(where))}"
    if found in ("union_tag_invalid", "union_tag_not_found"):
        tags = str(context.get("expected_tags", "one of its kinds")).replace(", ", " or ")
        if found == "union_tag_not_found":
            return f"{place((*whole, 'kind'))} is missing: {tags}"
        return f"{place((*whole, 'kind'))} = {context['tag']!r}: expected {tags}"
    value = error["input"]
    if isinstance(value, tuple | dict) and len(repr(value)) > 80:
        value = type(value)()
    shown = f"{name} = {list(value) if isinstance(value, tuple) else value!r}"
    if found == "value_error":
        return f"{shown}: {context['error']}"
    return f"{shown}: expected {_expected(found, context, error['msg'])}"


def _expected(found: str, context: dict[str, Any], message: str) -> str:
    if found == "literal_error":
        return str(context["expected"])
    for bound, words in _BOUNDS.items():
        if bound in context:
            value = context[bound]
            return words.format(f"{value:g}" if isinstance(value, float) else value)
    if found == "string_too_short":
        return "text that is not empty"
    if found in ("too_short", "too_long"):
        return f"{context.get('min_length', context.get('max_length'))} entries"
    for name, words in _KINDS.items():
        if found.startswith(name):
            return words
    return message


def _steps(kind: Any, location: tuple[str | int, ...]) -> tuple[Place, Any]:
    """The way to a problem without pydantic's own marks of a union, and the last table's type."""
    path: list[str | int] = []
    holder = kind
    for step in location:
        options = _options(kind)
        tagged = [o for o in options if is_dataclass(o) and step in _tags(o)]
        if len(options) > 1 and tagged:
            kind = tagged[0]
            continue
        path.append(step)
        holder, kind = kind, _inside(options, step)
    return tuple(path), holder


def _options(kind: Any) -> list[Any]:
    """Types that an annotation allows, None aside."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        return [o for o in get_args(kind) if o is not type(None)]
    return [kind]


def _tags(kind: Any) -> tuple[Any, ...]:
    annotation = get_type_hints(kind).get("kind")
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _inside(options: list[Any], step: str | int) -> Any:
    for option in options:
        if is_dataclass(option):
            return get_type_hints(option, include_extras=True).get(str(step))
        if get_args(option):
            return get_args(option)[-1 if get_origin(option) is dict else 0]
    return None


def _keys(kind: Any) -> list[str]:
    return [key for o in _options(kind) if is_dataclass(o) for key in get_type_hints(o)]
