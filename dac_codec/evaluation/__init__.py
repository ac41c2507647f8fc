"""Measuring codecs: start at `report.py`."""
