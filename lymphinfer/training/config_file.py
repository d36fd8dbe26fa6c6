"""Reading the configuration of `lymphinfer retrain`: every problem of a file, listed at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lymphinfer.errors import DataError
from lymphinfer.textfiles import read_toml
from lymphinfer.training.config import RetrainConfig
from lymphinfer.validation import validated


def load_config(path: Path | None) -> RetrainConfig:
    """Read a configuration file.

    Parameters
    ----------
    path : Path or None
        TOML; None for the defaults. Files that it names are relative to its folder.

    Returns
    -------
    RetrainConfig

    Raises
    ------
    DataError
        Not readable, not TOML, or any unknown key or wrong value: all of them listed.
    """
    if path is None:
        return RetrainConfig()
    try:
        values = read_toml(path, DataError, "the configuration")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check --config.") from error
    for section, key in (("data", "splits"), ("model", "backbone_weights")):
        table = values.get(section)
        if isinstance(table, dict) and isinstance(table.get(key), str) and table[key]:
            table[key] = str(path.parent / table[key])
    try:
        return parse_config(values)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def parse_config(values: Mapping[str, Any]) -> RetrainConfig:
    """Check plain values and make the configuration of them.

    Parameters
    ----------
    values : mapping
        Section to mapping of keys, as TOML gives them.

    Raises
    ------
    DataError
        All unknown sections and keys, values of another type or out of range.
    """
    problems: list[str] = []
    config: RetrainConfig | None = validated(RetrainConfig, dict(values), problems)
    if config is not None and config.data.fold >= max(config.data.folds, 1):
        problems.append(f"[data] fold = {config.data.fold}: expected 0 to folds - 1")
    if problems or config is None:
        raise DataError("; ".join(problems))
    return config


def replace_section(config: RetrainConfig, **sections: Mapping[str, Any]) -> RetrainConfig:
    """Copy a configuration with some keys of some sections changed, checked again."""
    values = config.to_dict()
    for name, table in sections.items():
        values[name] |= table
    return parse_config(values)
