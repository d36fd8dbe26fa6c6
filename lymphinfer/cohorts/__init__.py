"""Cohorts of one's own: a first cohort.toml, registration of H&E and IF, cells measured."""
