"""A run: its folder, and its stages from the pairs to the evaluation. Notebooks call `pipeline.stages`."""
