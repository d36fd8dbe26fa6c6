"""The bundle of discs, for cases in which the numbers do not matter."""

from tests.predict.conftest import disc_bundle  # noqa: F401
