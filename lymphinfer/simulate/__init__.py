"""Simulated slides and a simulated cohort in ORION's layout, with known truth."""
