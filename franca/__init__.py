"""Franca: pretrain, measure and ship vision foundation models."""

__version__ = "0.1.0"
