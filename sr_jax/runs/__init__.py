"""One run of training: its folder, start, signals, faults and output."""
