"""What libsndfile says."""

from __future__ import annotations


def reason(error: Exception) -> str:
    """libsndfile's own words for an error, without the file name that soundfile puts before them."""
    text = str(getattr(error, "error_string", error))
    return text.removeprefix("Error : ").strip().rstrip(".")
