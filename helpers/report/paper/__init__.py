"""The paper: its published figures, its authors' files, its scores analysed again, and a verdict on each claim."""
