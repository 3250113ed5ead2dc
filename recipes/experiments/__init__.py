"""The papers' claims, tried on small networks: one module each, run by `recipes/experiment.py`."""
