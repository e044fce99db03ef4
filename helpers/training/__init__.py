"""Pre-training, SFT, preference optimisation and the reward model, over TRL's trainers."""
