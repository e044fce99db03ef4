"""What a run will take on a device, before it starts.

lengths: how many rows and tokens there are; throughput: how fast devices are; plan: memory, time and disk of each
stage, and what to change; compare: plan and measurement of a run; rehearsal: profile paper tried out without the hub;
doctor: what this machine can run; tables: all that for the terminal. Models' sizes are in `models.sizes`, memory at the
peak is in `training.memory`.
"""
