"""Training: start at `trainer.py`; every setting is in `config.py`."""
