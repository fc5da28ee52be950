"""Pictures, masks and files from outside, as arrays on the host."""
