"""Preference data: transcripts, pairs, evaluation prompts, the audit and the embedded world."""
