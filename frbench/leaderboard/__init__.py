"""How models compare: measured rows beside published ones, with what the numbers can carry."""
