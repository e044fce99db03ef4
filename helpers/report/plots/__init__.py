"""Every figure of the course, by subject: evaluation, training, audit, paper. What they have in common is in style."""
