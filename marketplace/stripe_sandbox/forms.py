"""From form-encoded text to nested parameters, checked against the shape an operation takes.

Stripe's form encoding carries no types: `a[b][c]=1`, `a[0][b]=1` and `a[]=1` only become objects,
lists and integers under the operation's own schema, so decoding and checking are one walk.
"""

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from marketplace.stripe_sandbox.currencies import CURRENCIES
from marketplace.stripe_sandbox.errors import StripeError

METADATA_KEYS_MAX = 50
METADATA_KEY_LENGTH_MAX = 40
METADATA_VALUE_LENGTH_MAX = 500
AMOUNT_MINOR_MAX = 99_999_999
INDEX_MAX = 1000

Tree = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Text:
    length_max: int = 5000
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Integer:
    at_least: int | None = None
    at_most: int | None = None


@dataclass(frozen=True)
class Flag:
    pass


@dataclass(frozen=True)
class Currency:
    pass


@dataclass(frozen=True)
class Url:
    pass


@dataclass(frozen=True)
class Metadata:
    pass


@dataclass(frozen=True)
class Many:
    item: "Shape"
    count_max: int = 100


@dataclass(frozen=True)
class Fields:
    """An object that knows its keys; any other key is refused."""

    fields: dict[str, "Shape"]
    required: tuple[str, ...] = ()


@dataclass(frozen=True)
class TimeFilter:
    """Either one second or a range of `gt`, `gte`, `lt`, `lte`."""

    bounds: Fields = field(
        default_factory=lambda: Fields({name: Integer() for name in ("gt", "gte", "lt", "lte")})
    )


Shape = Text | Integer | Flag | Currency | Url | Metadata | Many | Fields | TimeFilter

AMOUNT = Integer(at_least=1, at_most=AMOUNT_MINOR_MAX)


def read_parameters(encoded: str, shape: Fields) -> dict[str, Any]:
    """The checked parameters of one request; raises Stripe's validation errors."""
    return _read_fields(shape, nest(parse_pairs(encoded)), "")


def parse_pairs(encoded: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(encoded, keep_blank_values=True, errors="strict")
    except (UnicodeDecodeError, ValueError) as error:
        raise StripeError("Invalid request body: not form-encoded UTF-8.") from error


def nest(pairs: list[tuple[str, str]]) -> Tree:
    """Objects and lists alike become dicts here; lists have their indexes as keys."""
    root: Tree = {}
    for key, value in pairs:
        _plant(root, _steps(key), value, key)
    return root


def _steps(key: str) -> list[str]:
    matched = re.fullmatch(r"([^\[\]]+)((?:\[[^\[\]]*\])*)", key)
    if matched is None:
        return [key]
    return [matched[1], *re.findall(r"\[([^\[\]]*)\]", matched[2])]


def _plant(root: Tree, steps: list[str], value: str, key: str) -> None:
    branch = root
    for step in steps[:-1]:
        twig = branch.setdefault(step, {}) if step else None
        if not isinstance(twig, dict):
            raise StripeError(f"Invalid hash: {key}", param=key)
        branch = twig
    leaf = steps[-1] or str(len(branch))
    if isinstance(branch.get(leaf), dict):
        raise StripeError(f"Invalid hash: {key}", param=key)
    branch[leaf] = value


def _read(shape: Shape, value: Any, name: str) -> Any:
    match shape:
        case Fields():
            return _read_fields(shape, _object(value, name), name)
        case Many():
            return _read_many(shape, value, name)
        case Metadata():
            return _read_metadata(value, name)
        case TimeFilter():
            if isinstance(value, dict):
                return _read_fields(shape.bounds, value, name)
            return _read_integer(Integer(), _plain(value, name), name)
        case _:
            return _read_plain(shape, _plain(value, name), name)


def _read_plain(shape: Text | Integer | Flag | Currency | Url, value: str, name: str) -> Any:
    match shape:
        case Integer():
            return _read_integer(shape, value, name)
        case Flag():
            return _read_flag(value, name)
        case Currency():
            return _read_currency(value, name)
        case Url():
            return _read_url(value, name)
        case Text():
            return _read_text(shape, value, name)


def _read_fields(shape: Fields, tree: Tree, name: str) -> dict[str, Any]:
    for key in tree:
        if key not in shape.fields:
            raise _parameter_unknown(_under(name, key))
    for key in shape.required:
        if key not in tree:
            param = _under(name, key)
            raise StripeError(
                f"Missing required param: {param}.", code="parameter_missing", param=param
            )
    return {key: _read(shape.fields[key], value, _under(name, key)) for key, value in tree.items()}


def _read_many(shape: Many, value: Any, name: str) -> list[Any]:
    tree = _object(value, name, what="array")
    if any(not re.fullmatch(r"[0-9]{1,4}", key) or int(key) > INDEX_MAX for key in tree):
        raise StripeError("Invalid array", param=name)
    if len(tree) > shape.count_max:
        raise StripeError(f"Array {name} exceeded maximum {shape.count_max} entries.", param=name)
    return [_read(shape.item, tree[key], f"{name}[{key}]") for key in sorted(tree, key=int)]


def _read_metadata(value: Any, name: str) -> dict[str, str]:
    """Limits: https://docs.stripe.com/metadata (50 keys, names of 40, values of 500 characters)."""
    tree = _object(value, name)
    if len(tree) > METADATA_KEYS_MAX:
        raise StripeError(f"Metadata can only have up to {METADATA_KEYS_MAX} keys.", param=name)
    for key, text in tree.items():
        if not isinstance(text, str):
            raise StripeError("Metadata values must be strings.", param=f"{name}[{key}]")
        if len(key) > METADATA_KEY_LENGTH_MAX:
            raise _too_long(f"{name}[{key}]", METADATA_KEY_LENGTH_MAX, "Metadata keys")
        if len(text) > METADATA_VALUE_LENGTH_MAX:
            raise _too_long(f"{name}[{key}]", METADATA_VALUE_LENGTH_MAX, "Metadata values")
    return {key: text for key, text in tree.items() if text}


def _read_integer(shape: Integer, value: str, name: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", value):
        raise _bad_integer(f"Invalid integer: {value}", name)
    number = int(value)
    if shape.at_least is not None and number < shape.at_least:
        raise _bad_integer(f"This value must be greater than or equal to {shape.at_least}.", name)
    if shape.at_most is not None and number > shape.at_most:
        raise _bad_integer(f"This value must be less than or equal to {shape.at_most}.", name)
    return number


def _read_flag(value: str, name: str) -> bool:
    if value not in {"true", "false"}:
        raise StripeError(f"Invalid boolean: {value}", param=name)
    return value == "true"


def _read_currency(value: str, name: str) -> str:
    currency = value.lower()
    if currency not in CURRENCIES:
        raise StripeError(
            f"Invalid currency: {value}. Stripe currently supports these currencies: "
            + ", ".join(sorted(CURRENCIES)),
            param=name,
        )
    return currency


def _read_url(value: str, name: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise StripeError("Not a valid URL", code="url_invalid", param=name)
    return value


def _read_text(shape: Text, value: str, name: str) -> str:
    if len(value) > shape.length_max:
        raise _too_long(name, shape.length_max, "This string")
    if shape.choices and value not in shape.choices:
        allowed = ", ".join(shape.choices)
        raise StripeError(f"Invalid {name}: must be one of {allowed}", param=name)
    return value


def _object(value: Any, name: str, *, what: str = "object") -> Tree:
    if not isinstance(value, dict):
        raise StripeError(f"Invalid {what}", param=name)
    return value


def _plain(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise StripeError(f"Invalid string: {name} must not be nested", param=name)
    if not value:
        raise StripeError(
            f"You passed an empty string for '{name}'. We assume empty values are an attempt to "
            f"unset a parameter; however '{name}' cannot be unset.",
            code="parameter_invalid_empty",
            param=name,
        )
    return value


def _under(parent: str, key: str) -> str:
    return f"{parent}[{key}]" if parent else key


def _parameter_unknown(name: str) -> StripeError:
    return StripeError(f"Received unknown parameter: {name}", code="parameter_unknown", param=name)


def _bad_integer(message: str, name: str) -> StripeError:
    return StripeError(message, code="parameter_invalid_integer", param=name)


def _too_long(name: str, limit: int, what: str) -> StripeError:
    return StripeError(f"{what} must be at most {limit} characters.", param=name)
