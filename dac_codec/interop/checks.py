"""What other implementations of DAC can't express."""

from __future__ import annotations

from dac_codec.common.errors import CheckpointError
from dac_codec.model.config import OURS_ONLY, DACConfig


def check_expressible(config: DACConfig, format_name: str, others: tuple[str, ...] = ()) -> None:
    """Refuse a configuration that the other implementations don't have.

    Args:
        config: of the model.
        format_name: for the message.
        others: further fields that can't be expressed.

    Raises:
        CheckpointError: it names each such field and its value.
    """
    names = [name for name in OURS_ONLY if getattr(config, name) != getattr(DACConfig, name)]
    if refused := [f"{name} {getattr(config, name)!r}" for name in (*names, *others)]:
        raise CheckpointError(f"{format_name} can't express this model: it has no {', '.join(refused)}")
