"""What every package stands on: settings and their vocabulary, files and the store, statistics, messages."""
