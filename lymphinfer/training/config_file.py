"""Reading the configuration of `lymphinfer retrain`: every problem of a file, listed at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from lymphinfer.errors import DataError
from lymphinfer.textfiles import read_toml
from lymphinfer.training.config import (
    HIERARCHIES,
    PRECISIONS,
    PRETRAINED,
    SCHEDULES,
    RetrainConfig,
)


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

    Returns
    -------
    RetrainConfig

    Raises
    ------
    DataError
        Every unknown section or key, value of a wrong type and value out of range, listed together.
    """
    problems: list[str] = []
    sections: dict[str, Any] = {}
    known = {f.name for f in fields(RetrainConfig)}
    problems += [
        f"unknown section [{name}]; there are {', '.join(sorted(known))}"
        for name in values
        if name not in known
    ]
    hints = get_type_hints(RetrainConfig)
    for name in sorted(known):
        table = values.get(name, {})
        if not isinstance(table, Mapping):
            problems.append(f"{name} must be a section, [{name}]")
            table = {}
        sections[name] = _section(name, hints[name], table, problems)
    config = RetrainConfig(**sections)
    problems += _out_of_range(config)
    if problems:
        raise DataError("; ".join(problems))
    return config


def _section(name: str, kind: type, table: Mapping[str, Any], problems: list[str]) -> Any:
    hints = get_type_hints(kind)
    good: dict[str, Any] = {}
    for key, value in table.items():
        if key not in hints:
            problems.append(f"unknown key {key} in [{name}]; it takes {', '.join(hints)}")
            continue
        converted = _convert(value, hints[key])
        if converted is None:
            problems.append(f"[{name}] {key} = {value!r}: expected {_DESCRIPTION[hints[key]]}")
        else:
            good[key] = converted
    return kind(**good)


def _convert(value: Any, kind: Any) -> Any:
    """Return the value as its field's type, or None where it is none."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value if type(value) is kind else None


_DESCRIPTION = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _out_of_range(config: RetrainConfig) -> list[str]:
    data, model, fit, bundle = config.data, config.model, config.fit, config.bundle
    rules = {
        "[data] patch_px must be 16 to 512": 16 <= data.patch_px <= 512,
        "[data] mpp must be 0.1 to 1.0 µm/px": 0.1 <= data.mpp <= 1.0,
        "[data] cells_per_patient must be at least 1": data.cells_per_patient >= 1,
        "[data] folds must be 0 or at least 3": data.folds == 0 or data.folds >= 3,
        "[data] fold must be 0 to folds - 1": 0 <= data.fold < max(data.folds, 1),
        "[model] hidden must be at least 1": model.hidden >= 1,
        "[model] backbone must not be empty": bool(model.backbone),
        "[fit] learning_rate must be above 0": fit.learning_rate > 0,
        "[fit] weight_decay must not be negative": fit.weight_decay >= 0,
        "[fit] workers must not be negative": fit.workers >= 0,
        "[bundle] bootstrap must be at least 1": bundle.bootstrap >= 1,
        **{
            f"[fit] {key} must be at least 1": getattr(fit, key) >= 1
            for key in (
                *("batch_size", "accumulation", "epochs", "patience"),
                *("window_chunks", "checkpoint_steps"),
            )
        },
        **{
            f"{key} must be one of {', '.join(allowed)}, not {value!r}": value in allowed
            for key, value, allowed in (
                ("[model] pretrained", model.pretrained, PRETRAINED),
                ("[fit] schedule", fit.schedule, SCHEDULES),
                ("[fit] precision", fit.precision, PRECISIONS),
                ("[bundle] hierarchy", bundle.hierarchy, HIERARCHIES),
            )
        },
    }
    return [message for message, holds in rules.items() if not holds]


def replace_section(config: RetrainConfig, **sections: Mapping[str, Any]) -> RetrainConfig:
    """Copy a configuration with some keys of some sections changed, checked again."""
    values = config.to_dict()
    for name, table in sections.items():
        values[name] |= table
    return parse_config(values)
