"""The paper: its published figures, its authors' files, both analysed again, and the verdict on each claim."""
