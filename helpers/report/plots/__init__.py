"""Every figure of the course, by subject."""
