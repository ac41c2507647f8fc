"""Damage for files of all kinds: in bytes, and in the values of a JSON document or a checkpoint."""

from __future__ import annotations

import copy
import random
from typing import Any

INTEGERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 65535, 65536, 2**24 - 1, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 10**30)
VALUES = (
    None, True, False, *INTEGERS, 0.0, -0.5, 1e-300, 1e300, float("inf"), float("-inf"), float("nan"),
    "", "a", "\0", "é", "\ud800", "../../x", "9" * 5000, [], {}, [[]], [None], {"": None}, {"a": {"a": {}}},
)  # fmt: skip


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to four changes of single bytes, integers, pieces or the length."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not changed:
            return bytes(rng.randrange(256) for _ in range(rng.randrange(64)))
        place = rng.randrange(len(changed))
        length = min(rng.choice((1, 2, 4, 8, 100)), len(changed) - place)
        match rng.randrange(7):
            case 0:
                changed[place] ^= 1 << rng.randrange(8)
            case 1:
                changed[place] = rng.choice((0, 1, 127, 128, 254, 255))
            case 2:
                size = rng.choice((2, 4, 8))
                order = rng.choice(("little", "big"))
                changed[place : place + size] = (rng.choice(INTEGERS) % 256**size).to_bytes(size, order)
            case 3:
                del changed[place : place + length]
            case 4:
                changed[place:place] = changed[place : place + length] * rng.choice((1, 2, 50))
            case 5:
                del changed[place:]
            case _:
                changed[place : place + length] = bytes(rng.randrange(256) for _ in range(length))
    return bytes(changed)


def mutate_value(value: Any, rng: random.Random, leaves: tuple[Any, ...] = VALUES) -> Any:
    """A copy of nested dicts and lists with one to three nodes replaced, removed, repeated, renamed or nested."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        nodes: list[tuple[Any, Any]] = []
        _collect(value, nodes)
        if not nodes:
            return rng.choice(leaves)
        container, key = rng.choice(nodes)
        match rng.randrange(8):
            case 0:
                del container[key]
            case 1:
                container[key] = _nested(rng.choice((5, 60)), rng)
            case 2 if isinstance(container, dict):
                container[rng.choice(("", "a", "step", key if isinstance(key, str) else "b"))] = container.pop(key)
            case 3:
                other, name = rng.choice(nodes)
                if (isinstance(other, dict) and name in other) or (isinstance(other, list) and name < len(other)):
                    container[key] = copy.deepcopy(other[name])
            case _:
                container[key] = copy.deepcopy(rng.choice(leaves))
    return value


def _collect(value: Any, nodes: list[tuple[Any, Any]]) -> None:
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        nodes.append((value, key))
        if len(nodes) < 3000:
            _collect(value[key], nodes)


def _nested(depth: int, rng: random.Random) -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value
