"""What a run will take on a device, before it starts.

shapes: the sizes of a model; memory: bytes at the peak; rates: how fast devices are; lengths: how many tokens there
are; plan: all of it for each stage, and what to change; compare: plan and measurement of a run; shown: tables; units:
bytes and seconds for reading.
"""
