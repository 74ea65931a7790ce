"""One run of training, but for the loop: its config, folder and output."""
