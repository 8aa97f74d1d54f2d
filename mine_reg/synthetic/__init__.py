"""Pairs of known truth: the thoracic phantom, and pairs simulated from single CTs."""
