"""The recipes, one file each, found by file name: `defenses/at_fr.py` is `DEFENSE=at_fr`."""
