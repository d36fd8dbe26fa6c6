from tests.training.conftest import base_bundle as base_bundle
from tests.training.conftest import case as case
