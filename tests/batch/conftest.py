"""The bundle and the slides of discs that all predictions share."""

from tests.predict.conftest import disc_bundle, disc_slide, patch_bundle  # noqa: F401
