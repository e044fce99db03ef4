"""Policies and reward models: find, load, save, generate with them, score with them, on which device."""
