"""The frequency lens: what a model sees, and where in frequency it is attacked."""
